"""The real images of an audit: which of a data set's classes are audited, and what the network says of their
images.

What is measured is written down whole, an image a row; `experiments.audit.subgroups` makes figures of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.client import PoolVisionClient
from actors.vision.data.class_match import match_classes
from actors.vision.data.labels import Column, Labels
from actors.vision.readout.base import ImageDataset
from actors.vision.readout.edits import Edit
from actors.vision.readout.requests import Ask, VisionRequest
from actors.vision.readout.units import OUTPUT, Readout
from agents.records.run_files import RecordError, damaged
from agents.records.store import Store
from experiments.setup.console import counted

KEY = "real_images.json"
VERSION = 1
PER_CLASS = 2000
"""Images of a class at most that are measured: as many are drawn at random where there are more."""
MOST_VALUES = 1_500_000
"""Values of a record at most: one of a run may have two million (`agents.records.run_files`)."""
_AT_ONCE = 64
_PROBABILITIES = (Ask(Readout(OUTPUT, "probability"), None),)
EditsOf = Callable[[Image], tuple[Edit, ...]]
"""The edits that are made in the network while it is shown an image."""


@dataclass(frozen=True, slots=True)
class MatchedClass:
    """A class of the data set, the network's class that it is (`index` None: none), and its number of
    images.
    """

    name: str
    index: int | None
    network_class: str
    how: str
    near: tuple[str, ...]
    images: int


@dataclass(frozen=True, slots=True)
class Tag:
    """An attribute of the images: `values` are places in `levels`, -1 where nothing is said."""

    levels: list[str]
    values: list[int]


@dataclass(frozen=True, slots=True)
class Answers:
    """What observers answered whether images of a class show a context; None is "cannot tell".

    `images` are rows of the record. `hits` of `present` generated images that were made of the context were
    said to show it, `alarms` of `absent` that were made of other contexts.
    """

    class_name: str
    context: str
    images: list[int]
    shown: list[bool | None]
    hits: NonNegativeInt = 0
    present: NonNegativeInt = 0
    alarms: NonNegativeInt = 0
    absent: NonNegativeInt = 0

    def fits(self, n_rows: int) -> bool:
        """Return whether the answers are about rows of a record, and no more of them right or wrong than were
        asked for.
        """
        return (
            len(self.images) == len(self.shown)
            and all(0 <= row < n_rows for row in self.images)
            and self.hits <= self.present
            and self.alarms <= self.absent
        )


@dataclass(frozen=True, slots=True)
class RealImages:
    """One row an image: its index in the data set, its class by the audit's name, probability and success.

    `training` counts the training images by attribute, class and level. `units` are those of the audit that
    was measured for; `complete` says that the observers have answered all that they were to be asked.
    """

    dataset: str
    fingerprint: str
    source: str
    seed: int
    units: list[str]
    matches: list[MatchedClass]
    images: list[int]
    classes: list[str]
    probabilities: list[float]
    correct: list[bool]
    tags: dict[str, Tag]
    training: dict[str, dict[str, dict[str, NonNegativeInt]]] = field(default_factory=dict)
    answers: list[Answers] = field(default_factory=list)
    unreadable: int = 0
    complete: bool = True
    version: int = VERSION

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> RealImages:
        """Return a record from its plain values.

        Raises:
            RecordError: If they are not those of such a record, or of a later version.
        """
        try:
            real = TypeAdapter(cls).validate_python(record)
        except ValidationError as error:
            raise damaged(Path(KEY), error) from error
        n = len(real.images)
        columns: list[Sequence[Any]] = [real.classes, real.probabilities, real.correct]
        columns += [tag.values for tag in real.tags.values()]
        fits = (
            real.version == VERSION
            and all(len(column) == n for column in columns)
            and all(0 <= value <= 1 for value in real.probabilities)
            and all(-1 <= value < len(tag.levels) for tag in real.tags.values() for value in tag.values)
            and all(answers.fits(n) for answers in real.answers)
        )
        if not fits:
            raise RecordError(
                f"{KEY} is damaged, or of another version.",
                "Remove it, and repeat the command: it is made again.",
            )
        return real


def read(store: Store) -> RealImages | None:
    """Return what was measured on real images, None if nothing was.

    Raises:
        RecordError: If the record is damaged.
    """
    record = store.read_object(KEY)
    return None if record is None else RealImages.of(record)


def match(labels: Labels, class_names: Sequence[str], named: Mapping[str, str]) -> list[MatchedClass]:
    """Return each class of the data set with the network's; raises as `match_classes`."""
    counts = labels.label.counts()
    return [
        MatchedClass(
            match.name,
            match.index,
            "" if match.index is None else class_names[match.index],
            match.how,
            match.near,
            counts[match.name],
        )
        for match in match_classes(labels.classes, class_names, named)
    ]


def match_table(matches: Sequence[MatchedClass], audited: Mapping[int, str], most: int = 20) -> str:
    """Return in lines which classes of a data set are which of the network's, and which are none; `most` of
    each kind.
    """
    own = [match for match in matches if match.index in audited]
    none = [match for match in matches if match.index is None]
    lines = [
        f"  {match.name} = {match.network_class} ({match_reason(match.how)}): "
        f"{counted(match.images, 'image')}"
        for match in own
    ]
    missing = [
        f"  {match.name}: no class of the network has this name"
        + (f"; the nearest: {', '.join(match.near)}" if match.near else "")
        for match in none
    ]
    shown = [*_few(lines, most), *_few(missing, most)]
    return "\n".join([f"{len(own)} of the data set's {len(matches)} classes are audited:", *shown])


def match_reason(how: str) -> str:
    """Return in words how a class was matched."""
    return how if how.startswith("as ") else f"by {how}"


def _few(lines: Sequence[str], most: int) -> list[str]:
    return list(lines) if len(lines) <= most else [*lines[:most], f"  ... and {len(lines) - most} more"]


def room_for(n_classes: int, n_attributes: int) -> int:
    """Return how many images of each class a record has room for, at least one."""
    return max(1, MOST_VALUES // ((4 + n_attributes) * max(1, n_classes)))


@dataclass(frozen=True)
class DrawnImages:
    """The images that are measured: `indices` into the data set and their `targets` among the network's
    classes.
    """

    indices: np.ndarray
    targets: np.ndarray


def draw(
    labels: Labels, matches: Sequence[MatchedClass], audited: Mapping[int, str], *, seed: int, per_class: int
) -> DrawnImages:
    """Return at most `per_class` images of each audited class, drawn at random, in the data set's order.

    Where a split is known, images of its training part are left out, unless there are no others.
    """
    own = _targets(labels, matches, audited)
    training = labels.training()
    if (own[~training] >= 0).any():
        own = np.where(training, -1, own)
    chosen = []
    for target in sorted(set(own[own >= 0].tolist())):
        # By its class, so that a class that is added later leaves the others' images as they are.
        rng = np.random.default_rng((seed, 83, target))
        chosen.append(rng.permutation(np.flatnonzero(own == target))[:per_class])
    indices = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    return DrawnImages(indices, own[indices])


def _targets(labels: Labels, matches: Sequence[MatchedClass], audited: Mapping[int, str]) -> np.ndarray:
    """Return each image's class among the network's, int64 (n,), -1 where it is not audited."""
    of_label = np.array([match.index if match.index in audited else -1 for match in matches] + [-1], np.int64)
    return of_label[labels.label.values]


def training_counts(
    labels: Labels, matches: Sequence[MatchedClass], audited: Mapping[int, str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of training images by attribute, class and level; nothing where no split is known."""
    training, own = labels.training(), _targets(labels, matches, audited)
    if not training.any():
        return {}

    def counts(column: Column, target: int) -> dict[str, int]:
        return column.take(np.flatnonzero(training & (own == target))).counts()

    return {
        name: {audited[target]: counts(column, target) for target in sorted(set(own[own >= 0].tolist()))}
        for name, column in labels.attributes.items()
    }


async def measure(
    vision: PoolVisionClient,
    dataset: ImageDataset,
    drawn: DrawnImages,
    progress: Callable[[int, int], None],
    edits: EditsOf = lambda _image: (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each image its class's probability, float64 (n,), whether it is recognized and whether it was
    read, bool.

    An image is recognized if its class is the most probable one; where each class has a probability by
    itself, if that is at least one half. `edits` are made in the network on the way.
    """
    n = len(drawn.indices)
    probability, correct, read = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
    by_itself = next(layer for layer in await vision.layers() if layer.name == OUTPUT).scores == "sigmoid"
    for start in range(0, n, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, n))
        loaded = await asyncio.to_thread(load, dataset, drawn.indices[rows].tolist())
        there = rows[[image is not None for image in loaded]]
        images = [image for image in loaded if image is not None]
        if images:
            asked = [VisionRequest(image, _PROBABILITIES, edits(image)) for image in images]
            results = await vision.passes(asked, agent=KEY, priority=Priority.CONFIRMATION)
            table = np.stack([result.readings[0].activations for result in results])
            targets = drawn.targets[there]
            own = table[np.arange(len(images)), targets]
            probability[there], read[there] = own, np.isfinite(own)
            correct[there] = own >= 0.5 if by_itself else table.argmax(1) == targets
        progress(int(rows[-1]) + 1, n)
    return probability, correct, read


def load(dataset: ImageDataset, indices: Sequence[int]) -> list[Image | None]:
    """Return images of a data set, None where one cannot be read."""

    def one(index: int) -> Image | None:
        try:
            return dataset.load(index)
        except Exception:  # decoders and people's own data sets raise anything; it is counted
            return None

    return [one(index) for index in indices]
