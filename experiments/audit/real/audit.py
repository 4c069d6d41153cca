"""The part of an audit that looks at real images: measured once, when the generated images have been
judged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from actors.errors import UsageError
from actors.vision.data.datasets import open_dataset
from actors.vision.data.labels import ColumnSettings, LabeledDataset, Labels, labels_of
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.audit import real_images
from experiments.audit.context_survey import ContextEffect
from experiments.audit.real_images import Answers, MatchedClass, RealImages
from experiments.audit.subgroups import Findings, findings
from experiments.setup.config import Profile
from experiments.setup.console import Console

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench


@dataclass(frozen=True)
class RealSettings:
    """What a command line asks of real images."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The network's class, by name or number, of labels that a person has matched."""
    per_class: int = real_images.PER_CLASS
    """Images of a class at most that are measured."""
    witnessed: int = 100
    """Images of a class at most that observers are asked about."""
    everything: bool = False
    """Ask the observers about every context of the design, and not only about those of findings."""
    approved: bool = False
    """Ask them whatever it costs."""

    def manifest(self) -> dict[str, Any]:
        """Return what of it a run's manifest holds: nothing where all is as usual, as runs before it had
        none.
        """
        own, usual = ({**asdict(settings), "approved": False} for settings in (self, RealSettings()))
        return {"real": {key: own[key] for key in own if own[key] != usual[key]}} if own != usual else {}


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """What observers answered of a class's `images` and a context: "yes" and unsure, and their errors.

    `hits` of `present` and `alarms` of `absent` generated images, whose content is known.
    """

    class_name: str
    context: str
    images: int
    yes: int
    unsure: int
    hits: int
    present: int
    alarms: int
    absent: int

    @classmethod
    def of(cls, answers: Answers) -> AnswerCounts:
        yes, unsure = answers.shown.count(True), answers.shown.count(None)
        return cls(
            answers.class_name, answers.context, len(answers.images), yes, unsure,
            answers.hits, answers.present, answers.alarms, answers.absent,
        )  # fmt: skip


@dataclass(frozen=True)
class RealSection:
    """What `audit.json` says of real images; `images` counts those that were measured by class."""

    dataset: str
    source: str
    matches: list[MatchedClass]
    images: dict[str, int]
    unreadable: int
    found: Findings
    answers: list[AnswerCounts]
    """Of each class and context that observers were asked about."""


async def find_labels(
    console: Console, profile: Profile, settings: RealSettings, needed: bool = False
) -> Labels | None:
    """Return what the profile's data set says of its images, copies included. One may be without, which is
    told.

    Raises:
        UsageError: If labels are `needed` or asked for, and there are none, or a column is not there.
    """
    dataset = await asyncio.to_thread(open_dataset, profile.dataset, profile.columns.image)
    asked = needed or profile.columns != ColumnSettings() or bool(settings.names) or settings.everything
    if not isinstance(dataset, LabeledDataset) and not asked:
        return None
    try:
        return await asyncio.to_thread(labels_of, dataset, profile.columns)
    except UsageError as error:
        if asked:
            raise
        console.say(f"no real images are looked at: {error.message} {error.fix}")
        return None


async def report_matches(
    console: Console, bench: Workbench, settings: RealSettings, audited: Mapping[int, str]
) -> None:
    """Say which classes of the data set are which of the network's; raises as `real_images.match`."""
    dataset, class_names = bench.dataset, bench.vision.known.class_names
    labels = await asyncio.to_thread(labels_of, dataset, bench.profile.columns)
    matches = real_images.match(labels, class_names, settings.names)
    console.say(f"labels of {dataset.name}: {labels.source}")
    console.say(real_images.match_table(matches, audited))
    if not any(match.index in audited for match in matches):
        console.warn(
            "none of the audited classes is a class of the data set, so no real image is looked at: name "
            "its classes with --label-names LABEL=CLASS, or audit others"
        )


def is_done(store: Store, units: Sequence[str]) -> bool:
    """Return whether real images were measured for these units; a damaged record counts as none."""
    try:
        record = real_images.read(store)
    except RecordError:
        return False
    return record is not None and record.complete and set(record.units) == set(units)


def section(record: RealImages | None, effects: Sequence[ContextEffect]) -> RealSection | None:
    """Return what a run's real images say, None where none were looked at."""
    if record is None:
        return None
    return RealSection(
        record.dataset, record.source, record.matches, dict(Counter(record.classes)), record.unreadable,
        findings(record, effects), [AnswerCounts.of(answers) for answers in record.answers],
    )  # fmt: skip


async def count_classes(console: Console, profile: Profile, settings: RealSettings) -> int:
    """Return how many classes the profile's data set has; raises as `find_labels`."""
    labels = await find_labels(console, profile, settings, needed=True)
    return 0 if labels is None else len(labels.classes)
