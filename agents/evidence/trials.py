"""The images of a confirmation and what they say: two groups of trials, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.evidence.record import Count, ImageId, Interval, Number, Record
from agents.evidence.statistics import auroc, auroc_interval, e_value, standardized_margin


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


@dataclass(slots=True)
class Trials:
    """The two groups of a confirmation, in order."""

    positives: list[Trial] = field(default_factory=list)
    controls: list[Trial] = field(default_factory=list)

    def numbers(self, *, compliant: bool = False) -> tuple[list[float], list[float]]:
        positives = [t for t in self.positives if t.complies or not compliant]
        controls = [t for t in self.controls if not (compliant and t.shows)]
        return [t.activation for t in positives], [t.activation for t in controls]


def borne_out(labels: Sequence[str], trials: Trials) -> tuple[str, ...]:
    """Return the labels that surely drive the unit by themselves."""
    _, controls = trials.numbers()
    own = {label: [t.activation for t in trials.positives if t.label == label] for label in labels}
    return tuple(label for label, values in own.items() if values and surely_less(controls, values))


def surely_less(weaker: Sequence[float], stronger: Sequence[float]) -> bool:
    """Return whether one group's activations lie below the other's beyond the AUROC's 95% interval."""
    low, _ = auroc_interval(auroc(stronger, weaker), len(stronger), len(weaker))
    return low > 0.5


class GroupFigures(Record):
    """Images of the labels (`positive`) and of other things (`control`) compared."""

    auroc: Number | None = None
    """Probability that an image of the labels exceeds one of other things."""
    auroc_interval: Interval | None = None
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


def compare_groups(positives: Sequence[float], controls: Sequence[float]) -> GroupFigures | None:
    """Return the figures of two groups of activations, None if one is empty."""
    if not positives or not controls:
        return None
    value = auroc(positives, controls)
    return GroupFigures(
        auroc=value,
        auroc_interval=list(auroc_interval(value, len(positives), len(controls))),
        e_value=e_value(positives, controls),
        margin=standardized_margin(positives, controls),
        mean_positive=float(np.mean(positives)),
        mean_control=float(np.mean(controls)),
        n_positive=len(positives),
        n_control=len(controls),
    )
