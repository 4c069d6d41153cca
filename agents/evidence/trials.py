"""The images of a confirmation and what they say: two groups of trials, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.evidence.evidence_record import GroupFigures, Trial
from agents.evidence.statistics import auroc, auroc_interval, e_value, standardized_margin


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
