"""What a request asks for, as data, for models that follow rules and read no prose.

The caller fills in the task that its prompt words. Language models get the prompt alone: a task is neither
sent to them nor part of what identifies a request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DescribeImagesTask:
    """Describe what each image shows."""


@dataclass(frozen=True, slots=True)
class SummarizeImagesTask:
    """Say what the images have in common, as `N of M show <thing>` where that fits."""


@dataclass(frozen=True, slots=True)
class CheckLabelTask:
    """Answer yes or no: does the image show what the label names? Anything else means undecided."""

    label: str


@dataclass(frozen=True, slots=True)
class ClassifyMediumTask:
    """Answer with one of the `MEDIA` for the one image of the request."""


DRAWN = "drawn"
PHOTOGRAPH = "photograph"
UNKNOWN_PHOTOGRAPH = "photograph of nothing known"
MEDIA = (DRAWN, PHOTOGRAPH, UNKNOWN_PHOTOGRAPH)
"""Replies to `ClassifyMediumTask`: the last is a photograph in which the model recognizes nothing."""


@dataclass(frozen=True, slots=True)
class ExplainLabelTask:
    """Take a label apart into its core, qualifiers and exceptions."""

    label: str


@dataclass(frozen=True, slots=True)
class ProposeContextsTask:
    """Name `count` contexts in which a class may be shown, other than the `known` ones."""

    class_name: str
    count: int
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeasuredConcept:
    """A proposed label with its mean activation on `n_images` fresh images and on images of other things.

    Concepts are numbered from 1.
    """

    number: int
    label: str
    mean: float
    n_images: int
    mean_others: float


@dataclass(frozen=True, slots=True)
class ConceptOverlap:
    """The share, in [0, 1], of the images of one concept that show another, both by their numbers."""

    shown: int
    images_of: int
    share: float


@dataclass(frozen=True, slots=True)
class PoolStudiesTask:
    """Give one answer from what several studies of a unit measured."""

    concepts: tuple[MeasuredConcept, ...]
    overlaps: tuple[ConceptOverlap, ...]


@dataclass(frozen=True, slots=True)
class DescribeUnitTask:
    """Find out what drives a unit. `final`: the reply must be the answer, as in the tasks below.

    `hypotheses` are labels that another method proposes, to be tested like any other.
    """

    final: bool = False
    hypotheses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditClassTask:
    """Find the contexts in which a class is recognized worse or better."""

    class_name: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class JudgeSelectivityTask:
    """Decide whether a unit follows one of the classes or their environments."""

    classes: tuple[str, ...]
    environments: tuple[str, ...]
    final: bool = False


StudyTask = DescribeUnitTask | AuditClassTask | JudgeSelectivityTask | PoolStudiesTask
"""What the interpreter of a unit is asked for, over many turns."""

ImageTask = DescribeImagesTask | SummarizeImagesTask | CheckLabelTask | ClassifyMediumTask
"""What an observer is asked for."""

ChatTask = StudyTask | ImageTask | ExplainLabelTask | ProposeContextsTask
