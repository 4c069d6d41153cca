"""The evidence of one examination of an answer: all that the critic measured, as it is written down."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agents.evidence.record import Count, ImageId, IntervalPair, Number, Record, Seed
from agents.evidence.verdict import Verdict
from agents.evidence.witness import Accuracy

Origin = Literal["exemplar", "held back", "generated", "edited"]
_COMPLETE = 0.8
"""A label that surely covers less than this share of the strongest images explains the unit in part only."""


class WitnessedImage(Record):
    """An image of which a witness was asked what it shows."""

    image: ImageId
    """The image."""
    activation: Number
    """What it does to the unit."""
    origin: Origin = "exemplar"
    """Of the data set (`exemplar`, `held back`), or of the agent (`generated`, `edited`)."""
    shows: dict[str, bool | None] = {}
    """For each label whether the witness sees it there; null where its answer was unclear."""
    prompt: str = ""
    """What was asked for; of an exemplar, its rank."""

    @property
    def covered(self) -> bool | None:
        """Whether it shows any label."""
        if any(self.shows.values()):
            return True
        return None if None in self.shows.values() else False


class Coverage(Record):
    """How many of the strong images of the data set show a label."""

    n: Count = 0
    """Images for which the witness gave a clear answer."""
    untold: Count = 0
    """Images without a clear answer."""
    shown: Count = 0
    """Images in which it sees a label."""
    share: Number | None = None
    """Of `n`, as seen."""
    interval: IntervalPair | None = None
    """Wilson's, of the share as seen."""
    corrected: Number | None = None
    """The share that allows for the witness's errors; null if these are unknown."""
    labels: dict[str, Number] = {}
    """The share of each label."""
    least: Number = 0.0
    """The share from which a label counts as covering."""
    upper: Number = 1.0
    """The interval's upper end, with the allowance for the witness's errors."""

    @property
    def incomplete(self) -> bool:
        """Whether the label surely leaves more than a fifth of them unexplained."""
        return self.upper < _COMPLETE

    @property
    def covers(self) -> bool | None:
        """Whether the label explains enough of them; None where too many answers are unclear."""
        whole = self.n + self.untold
        if not whole:
            return None
        if self.n >= self.untold:
            best = self.share if self.corrected is None else self.corrected
            return best is not None and best >= self.least
        if self.shown >= self.least * whole:
            return True
        return False if self.shown + self.untold < self.least * whole else None


_IN_DATA = 0.75
"""Part of the way to the logit with which classes win that the data set's strongest images must go for the
class to be in it.
"""


class Range(Record):
    """A unit's range on its data set."""

    low: Number
    """Mean activation over the data set."""
    high: Number
    """Mean of its strongest images, or `anchor` where that is more."""
    lit: Number = 0.0
    """The activation from which an image is one of these; an earlier version did not write it."""
    anchor: Number | None = None
    """Of a class: what images of the class are known to reach."""
    data: Number | None = None
    """Mean activation of the very strongest images of the data set; null without images."""

    def share(self, activation: float) -> float:
        """Return which part of the range an activation reaches: 0 at the data set's mean, 1 at its strongest
        images.
        """
        return (activation - self.low) / (self.high - self.low)

    @property
    def in_data(self) -> bool:
        """Whether the data set's own images come near what the unit is for: of a class that is not in it,
        they do not.
        """
        return self.anchor is None or (self.data is not None and self.share(self.data) >= _IN_DATA)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


class Reach(Record):
    """How far the best of all generated images get."""

    n: Count = 0
    """Generated images."""
    mean: Number | None = None
    """Mean activation of the best; null without any."""
    share: Number | None = None
    """The part of the unit's range that this is."""
    least: Number = 0.0
    """The part from which they say anything about the unit."""

    @property
    def reached(self) -> bool:
        """Whether generated images say anything about the unit."""
        return self.share is not None and self.share >= self.least


class Strength(Record):
    """Which part of the unit's range the images of the labels reach, in the mean."""

    share: Number = 0.0
    """All images together."""
    interval: IntervalPair | None = None
    """A percentile bootstrap over the images."""
    labels: dict[str, Number] = {}
    """The part that the images of each label reach."""
    least: Number = 0.0
    """The part from which labels count as strong."""

    @property
    def strong(self) -> bool:
        return self.share >= self.least


HeldOutStatus = Literal["holds", "contradicted", "undecided", "too few"]


class HeldOutTest(Record):
    """The label on images that no agent saw. Figures are null where the images do not allow for them."""

    status: HeldOutStatus = "too few"
    """What the test says of the label."""
    total: Count = 0
    """Images that are held out."""
    sampled: Count = 0
    """Images sampled of these with `seed`."""
    seed: Seed = 0
    """Of the sample."""
    drawn: Count = 0
    """Images drawn of these, and judged by the witness."""
    shown: Count = 0
    """Drawn images that show a label."""
    pictures: Count | None = None
    """As many as they count for: parts of one picture count once, and parts of a picture that is among the
    exemplars not at all. Looked for among five images or more; an earlier version did not look for such.
    """
    untold: Count = 0
    """Drawn images without a clear answer of the witness, left out of all figures."""
    prevalence: Number | None = None
    """Share of the data set's images that show a label."""
    auroc: Number | None = None
    """Over the data set: probability that an image with a label exceeds one without."""
    auroc_interval: IntervalPair | None = None
    """95% interval of the AUROC."""
    corrected: Number | None = None
    """The AUROC that allows for the witness's errors; null if these are unknown."""
    e_value: Number | None = None
    """Evidence that images with a label drive the unit more than others."""
    share: Number | None = None
    """The part of the unit's range that images with a label reach, in the mean."""
    precision: Number | None = None
    """Share of the data set's images above `threshold` that show a label."""
    precision_interval: IntervalPair | None = None
    """95% interval of the precision."""
    threshold: Number = 0.0
    """The middle of the unit's range."""
    largest_weight: Number = 0.0
    """Images of the sample that one drawn image stands for, at most."""

    @property
    def dependent(self) -> bool:
        """Whether images with a label count for fewer than they are."""
        return self.pictures is not None and self.pictures < self.shown


class Trial(Record):
    """One fresh image of a test: what was asked, what came, how the unit answered."""

    prompt: str = ""
    """What was asked for."""
    image: ImageId
    """The image that came."""
    activation: Number
    """What the unit answered."""
    notes: list[str] = []
    """What could not be drawn."""
    label: str = ""
    """The label that it was made of; empty of another thing."""
    shows: bool | None = None
    """Whether a blind observer finds the label in it; null if not asked, or unclear."""

    @property
    def complies(self) -> bool:
        """Whether the image shows what was asked: the observer's word, else that its maker noted nothing."""
        return not self.notes if self.shows is None else self.shows


class GroupFigures(Record):
    """Images of the labels (`positive`) and of other things (`control`) compared."""

    auroc: Number | None = None
    """Probability that an image of the labels exceeds one of other things."""
    auroc_interval: IntervalPair | None = None
    """95% interval of the AUROC."""
    e_value: Number | None = None
    """Evidence that this is no chance, valid whenever the test stops."""
    margin: Number | None = None
    """Difference of the means, in standard deviations of the other things."""
    mean_positive: Number | None = None
    """Mean activation of the labels' images."""
    mean_control: Number | None = None
    """Mean activation of the other things' images."""
    n_positive: Count | None = None
    """Images of the labels."""
    n_control: Count | None = None
    """Images of other things."""


class Finding(Record):
    """A verdict and what it rests on."""

    verdict: Verdict
    """What the label is worth ([verdicts](evidence.md#verdicts))."""
    reason: str = ""
    """The figures that decide, in a sentence."""


class LabelPart(Record):
    """Something that a label asks for, or excepts."""

    what: str = ""
    """As it could be shown alone."""
    without: str = ""
    """The label without it."""


class LabelMeaning(Record):
    """What a label says. `broader`, `narrower` and `synonym` are whole labels, empty where there is none."""

    core: str = ""
    """The thing, property or scene that it is about."""
    qualifiers: list[LabelPart] = []
    """What must be there as well."""
    exceptions: list[LabelPart] = []
    """What must not be there."""
    broader: str = ""
    """With the next wider kind in place of the core."""
    narrower: str = ""
    """With one narrower kind in place of the core."""
    synonym: str = ""
    """In other words."""

    @property
    def combines(self) -> bool:
        """Whether the label holds a condition: something else that must be there, or must not."""
        return bool(self.qualifiers or self.exceptions)


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
    auroc_interval: IntervalPair | None = None
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
    beats_interval: IntervalPair | None = None
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
    retest: list[IntervalPair] = []
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
    held_out: HeldOutTest | None = Field(None, alias="held_back")
    """The test on images of the data set that no agent saw."""
    uncovered: list[WitnessedImage] | None = None
    """The strongest images without the label; null where no label was looked for."""
    explained: Explained | None = None
    """In place of `coverage`, in records of an earlier version."""

    @property
    def verdict(self) -> Verdict | None:
        """The verdict of the examination; None if it is not on record, as in earlier versions."""
        return None if self.finding is None else self.finding.verdict
