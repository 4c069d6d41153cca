"""What units follow, the class or its place, and how well a choice among them agrees: measured without any
read-out.

Each unit's activations on images of every class in every place are split by an additive two-way analysis of
variance.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from agents.evidence.statistics import auroc


@dataclass(frozen=True, slots=True)
class GroupShares:
    """The number of units in a group, and the mean parts of their variance; None of no unit."""

    n: int | float | None
    by_class: float | None
    by_place: float | None


@dataclass(frozen=True, slots=True)
class SelectivityJudgement:
    """What the kept units of a choice follow, and the dropped ones.

    `auroc`: the probability that class part minus place part is larger in a kept unit than in a dropped one;
    None if one group is empty.
    """

    kept: GroupShares
    dropped: GroupShares
    auroc: float | None


@dataclass(frozen=True)
class FactorShares:
    """Parts of each unit's variance that the class and the place explain beyond one another, float64
    (units,), in [0, 1].
    """

    by_class: np.ndarray
    by_place: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, places: np.ndarray) -> FactorShares:
        """Measure features float32 (N, units) of images whose class and place are int64 (N,).

        A unit that never changes has no variance to explain: both its parts are 0.
        """
        classes, grounds = _columns(labels), _columns(places)
        total = ((features - features.mean(axis=0)) ** 2).sum(axis=0).astype(float)
        both = _unexplained(features, classes, grounds)
        total = np.where(total > 0, total, np.inf)
        return cls(
            np.clip((_unexplained(features, grounds) - both) / total, 0, 1),
            np.clip((_unexplained(features, classes) - both) / total, 0, 1),
        )

    def judged(self, units: Sequence[int] | np.ndarray, kept: Collection[int]) -> SelectivityJudgement:
        """Return the mean parts of the kept units and of the others, and how far a kept one follows the class
        more.
        """
        chosen = [int(unit) for unit in units if unit in kept]
        dropped = [int(unit) for unit in units if unit not in kept]
        lead = self.by_class - self.by_place
        area = auroc(list(lead[chosen]), list(lead[dropped])) if chosen and dropped else None
        return SelectivityJudgement(self._means(chosen), self._means(dropped), area)

    def _means(self, group: Sequence[int]) -> GroupShares:
        return GroupShares(len(group), _mean(self.by_class[group]), _mean(self.by_place[group]))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _columns(factor: np.ndarray) -> np.ndarray:
    """Return 0/1 columns float64 (N, levels) of a factor."""
    return np.asarray(factor[:, None] == np.unique(factor)[None], float)


def _unexplained(features: np.ndarray, *factors: np.ndarray) -> np.ndarray:
    """Return each unit's sum of squares that a linear model of the factors leaves, float64 (units,)."""
    design = np.hstack([np.ones((len(features), 1)), *factors])
    fit, *_ = np.linalg.lstsq(design, np.asarray(features, float), rcond=None)
    return np.asarray(((features - design @ fit) ** 2).sum(axis=0))
