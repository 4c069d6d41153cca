"""The evidence of one examination of an answer: all that the critic measured, as it is written down."""

from __future__ import annotations

from agents.evidence.coverage import Coverage, WitnessedImage
from agents.evidence.finding import Finding
from agents.evidence.held_back import HeldBackTest
from agents.evidence.meaning import LabelMeaning
from agents.evidence.reach import Range, Reach, Strength
from agents.evidence.record import Count, Interval, Number, Record
from agents.evidence.trials import GroupFigures, Trial
from agents.evidence.verdict import Verdict
from agents.evidence.witness import Accuracy


class Comparison(Record):
    """A label against a simpler one, by fresh images of both."""

    label: str
    """The label, whole."""
    simpler: str = ""
    """What would say as much, if its images did as much."""
    weaker: str = ""
    """What the images of the simpler side were made of."""
    stronger: str = ""
    """What those of the label's side were made of."""
    n_weaker: Count = 0
    """Images of the simpler side."""
    mean_weaker: Number = 0.0
    """Their mean activation."""
    mean_stronger: Number = 0.0
    """Mean activation of those of the label's side."""
    auroc: Number | None = None
    """Probability that an image of the label's side exceeds one of the simpler side."""
    auroc_interval: Interval | None = None
    """95% interval of `auroc`."""
    left: Number | None = None
    """The part of the label's effect that the simpler one has."""
    rejected: bool = False
    """The simpler one surely does less."""


class RivalTest(Record):
    """Fresh images of a rival against those of the labels."""

    label: str
    """The rival."""
    mean: Number
    """Mean activation of its images."""
    n: Count = 0
    """Its images."""
    beats: Number | None = None
    """Probability that an image of the rival exceeds one of the labels."""
    beats_interval: Interval | None = None
    """95% interval of `beats`."""


class Inspection(Record):
    """What an observer sees in images of everyday things, where no label is there to test the tools with."""

    n: Count = 0
    """Images of which it gave clear answers."""
    seen: Count = 0
    """Images that show what was asked for."""
    false: Count = 0
    """Images in which it sees another thing."""


class Explained(Record):
    """The shares of strong images that show the labels, in the words of an earlier version."""

    any: Number | None = None
    """Share that show any label."""
    labels: dict[str, Number] = {}
    """Share that show each label."""


class EvidenceRecord(GroupFigures):
    """The tests of an answer and their figures; those of its labels against other things come first."""

    kind: str = ""
    """`confirmation`, `abstention`, `untestable`, or `survey`."""
    failures: list[str] = []
    """Why images of an untestable label could not be made."""
    images_made: Count = 0
    """Images that the critic made."""
    positives: list[Trial] = []
    """Images of the labels."""
    controls: list[Trial] = []
    """Images of other things."""
    finding: Finding | None = None
    """What follows from the figures."""
    e_value_corrected: Number | None = None
    """The e-value, discounted for the tests before it."""
    compliant: GroupFigures | None = None
    """The figures of the images that show what was asked for."""
    compliance: Number | None = None
    """Share of the labels' images that do."""
    simpler: list[Comparison] | None = None
    """Comparisons with simpler labels; null where none was looked for."""
    meanings: dict[str, LabelMeaning] = {}
    """What each label says, where a model could tell."""
    retest: list[Interval] = []
    """Activations of two images of the same prompt: how far the prompt decides them."""
    rival: RivalTest | None = None
    """The strongest rival."""
    rivals: list[RivalTest] = []
    """All of several rivals."""
    inspected: Inspection | None = None
    """Of an answer that names nothing: what an observer finds in images of everyday things."""
    unit: Range | None = None
    """The unit's range; null where it does not vary."""
    reach: Reach | None = None
    """How much of it generated images reach."""
    strength: Strength | None = None
    """How much of it images of the labels reach."""
    witness: Accuracy | None = None
    """How reliable the observer is who says which images show a label."""
    coverage: Coverage | None = None
    """How many of the unit's strongest images show a label."""
    held_back: HeldBackTest | None = None
    """The test on images of the data set that no agent saw."""
    uncovered: list[WitnessedImage] | None = None
    """The strongest images without the label; null where no label was looked for."""
    explained: Explained | None = None
    """In place of `coverage`, in records of an earlier version."""

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the examination; None if it is not on record, as in earlier versions."""
        return None if self.finding is None else self.finding.verdict
