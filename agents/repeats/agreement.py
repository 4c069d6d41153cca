"""How far the labels of several studies of one unit agree, judged by a blind witness from each other's
images.

Words are not compared: "canine" and "dogs" agree as far as a witness finds the one in images that were made
of the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from actors.images import Image
from agents.records.record_types import AgreementRecord, StudyResult

IMAGES = 10
"""Images of each label, and as many of other things, that the other studies' labels are looked for in."""

Shows = Callable[[Sequence[tuple[Image, str]]], Awaitable[list[bool | None]]]
"""Returns for each (image, label) whether the image shows it; None where that is unclear."""


@dataclass(frozen=True, slots=True)
class LabeledStudy:
    """What one study answered, and the images of its last confirmation by id, with the label that each was
    made of.
    """

    number: int
    labels: tuple[str, ...]
    positives: tuple[tuple[str, str], ...]
    controls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One study's label on another's images: the shares of `n_positive` images of it and of `n_control`
    others that show it.
    """

    label_of: int
    images_of: int
    seen: float
    false: float
    n_positive: int
    n_control: int

    @property
    def predicted(self) -> float:
        """Share of images that the label separates as they were made, both kinds weighing the same; 0.5 is
        chance.
        """
        return (self.seen + 1 - self.false) / 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """`value` is the mean of `Pair.predicted` over all ordered pairs, None without a pair. `studies` were
    asked, `labeled` of them have a label that was put to a test. `seen` maps (label, label that images were
    made of) to how many of how many images show it.
    """

    studies: int
    labeled: int
    pairs: tuple[Pair, ...]
    seen: Mapping[tuple[str, str], tuple[int, int]]

    @property
    def value(self) -> float | None:
        return sum(pair.predicted for pair in self.pairs) / len(self.pairs) if self.pairs else None

    def record(self) -> AgreementRecord:
        """Return what is written down."""
        pairs = [asdict(pair) | {"predicted": pair.predicted} for pair in self.pairs]
        return AgreementRecord(value=self.value, studies=self.studies, labelled=self.labeled, pairs=pairs)


def labeled_study(number: int, result: StudyResult) -> LabeledStudy | None:
    """Return a study's labels and the images of its test; None without a label that was tested."""
    labels, evidence = tuple(result.labels), result.evidence
    if not labels or evidence is None or evidence.kind == "abstention":
        return None
    if not evidence.positives or not evidence.controls:
        return None
    return LabeledStudy(
        number,
        labels,
        tuple((trial.image, trial.label or labels[0]) for trial in evidence.positives[:IMAGES]),
        tuple(trial.image for trial in evidence.controls[:IMAGES]),
    )


async def measure(
    studies: int, labeled: Sequence[LabeledStudy], image_of: Callable[[str], Image], shows: Shows
) -> Agreement:
    """Ask of each study's images whether they show the labels of the others.

    Images of which the witness gave no clear answer are left out; a pair without any of a kind is, too.
    """
    asked = list(
        dict.fromkeys(
            (image, label)
            for one in labeled
            for other in labeled
            if one is not other
            for label in one.labels
            for image in (*(image for image, _ in other.positives), *other.controls)
        )
    )
    replies = await shows([(image_of(image), label) for image, label in asked])
    answers = dict(zip(asked, replies, strict=True))
    pairs = [_pair(one, other, answers) for one in labeled for other in labeled if one is not other]
    return Agreement(studies, len(labeled), tuple(pair for pair in pairs if pair), _seen(labeled, answers))


def _pair(
    one: LabeledStudy, other: LabeledStudy, answers: Mapping[tuple[str, str], bool | None]
) -> Pair | None:
    def shown(image: str) -> bool | None:
        replies = [answers[image, label] for label in one.labels]
        return True if True in replies else None if None in replies else False

    positives = [answer for image, _ in other.positives if (answer := shown(image)) is not None]
    controls = [answer for image in other.controls if (answer := shown(image)) is not None]
    if not positives or not controls:
        return None
    seen, false = sum(positives) / len(positives), sum(controls) / len(controls)
    return Pair(one.number, other.number, seen, false, len(positives), len(controls))


def _seen(
    labeled: Sequence[LabeledStudy], answers: Mapping[tuple[str, str], bool | None]
) -> dict[tuple[str, str], tuple[int, int]]:
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    made_of = {image: label for study in labeled for image, label in study.positives}
    for (image, label), seen in answers.items():
        if seen is not None and image in made_of:
            hits, total = counts.get((label, made_of[image]), (0, 0))
            counts[label, made_of[image]] = hits + seen, total + 1
    return counts
