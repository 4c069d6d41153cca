"""Effects of ablations, a unit a row: means with intervals, and which of many are sure.

A common cause of all images' effects is tested by Student's t over images, and units are claimed at a
false-discovery rate (Benjamini and Hochberg 1995). Differences as small as those of passes that change
nothing are none, however alike they are.

Shapes: m units tested; n images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.evidence.statistics import benjamini_hochberg

RATE = 0.05
"""False-discovery rate over units."""
LEAST_IMAGES = 3


@dataclass(frozen=True, slots=True)
class EffectFigures:
    """Of each unit, float64 (m,): mean effect, ends of its 95% interval, and the smallest false-discovery
    rate at which it would be claimed.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    q: np.ndarray

    @property
    def sure(self) -> np.ndarray:
        """Which effects are claimed, bool (m,)."""
        return self.q <= RATE

    def interval(self, unit: int) -> tuple[float, float]:
        """Return the 95% interval of the unit at a place."""
        return float(self.low[unit]), float(self.high[unit])


def mean_effects(effects: np.ndarray, floor: np.ndarray | float, among: int | None = None) -> EffectFigures:
    """Return the figures of effects (m, n) on `n` >= 3 images; values that are not finite are no evidence.

    `floor` is the largest effect of passes that change nothing, of all units or of each (m,). `among` is the
    number of units where these are not all, the others being taken to have p = 1.
    """
    n = effects.shape[1]
    error = effects.std(1, ddof=1) / np.sqrt(n)
    return _figures(effects.mean(1), error, np.full(len(effects), n - 1.0), floor, among)


def effect_differences(
    first: np.ndarray, second: np.ndarray, floor: np.ndarray | float, among: int | None = None
) -> EffectFigures:
    """Return the figures of the mean of effects `first` (m, n1) less that of `second` (m, n2), of at least 3
    images each: Welch's t. The rest is as in `mean_effects`.
    """
    one, other = first.var(1, ddof=1) / first.shape[1], second.var(1, ddof=1) / second.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = one**2 / (first.shape[1] - 1) + other**2 / (second.shape[1] - 1)
        freedom = np.where(spread > 0, (one + other) ** 2 / spread, 1.0)
    return _figures(first.mean(1) - second.mean(1), np.sqrt(one + other), freedom, floor, among)


def _figures(
    mean: np.ndarray, error: np.ndarray, freedom: np.ndarray, floor: np.ndarray | float, among: int | None
) -> EffectFigures:
    from scipy import stats

    moved = np.abs(mean) > floor
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, np.abs(mean) / error, np.inf)
    p = np.where(moved & np.isfinite(error), 2 * stats.t.sf(t, freedom), 1.0)
    others = np.ones(max(0, (among or 0) - len(mean)))
    half = stats.t.ppf(0.975, freedom) * error
    return EffectFigures(mean, mean - half, mean + half, benjamini_hochberg([*p, *others])[: len(mean)])
