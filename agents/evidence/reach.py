"""A unit's range on its data set, and whether generated images reach it.

A label's images may beat other things and still be nothing to the unit: every figure is in parts of this
range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.evidence.statistics import bootstrap_interval

STRONGEST = 15
"""Images of the data set at most whose mean is the upper end of the range: as many as there are exemplars."""
BEST = 5
"""Generated images whose mean is what the image maker reaches: one alone may be luck."""
_ROBUST = 3
"""Images of the data set whose mean is how far it goes: one alone may be an outlier."""
_NEAR = 0.75
"""Part of the way to the logit with which classes win that the data set's strongest images must go for the
class to be in it.
"""
_LIT = 0.5
"""Part of the way from the data set's mean to the strongest of all images, generated ones too, from which an
image counts as strong: of a rare unit most of the fifteen strongest images of a data set leave it silent, or
nearly.
"""


@dataclass(frozen=True, slots=True)
class Range:
    """`low`: the mean over the data set. `high`: the mean of its strongest images. `lit`: the activation from
    which an image is one of these.

    `anchor`: what images of the unit's own thing are known to reach, of a class; where that is more, it is
    `high`.
    """

    low: float
    high: float
    lit: float
    anchor: float | None = None
    data: float | None = None
    """Mean activation of the very strongest images of the data set; None without images."""

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
        return self.anchor is None or (self.data is not None and self.share(self.data) >= _NEAR)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def range_of(
    mean: float, activations: Sequence[float], generated: Sequence[float] = (), anchor: float | None = None
) -> Range | None:
    """Return the range of a unit with this mean over the data set, these strongest images of it, and these
    generated ones.

    None if it does not vary.
    """
    finite = _strongest(activations, STRONGEST)
    known = [] if anchor is None else [anchor]
    data = _mean(finite[:_ROBUST])
    top = max(
        (each for each in (data, _mean(_strongest(generated, BEST)), anchor) if each is not None),
        default=mean,
    )
    if not top - mean > 1e-9 * max(1.0, abs(mean)):
        return None
    lit = mean + _LIT * (top - mean)
    strong = finite[finite >= lit]
    ends = [float(strong.mean())] if len(strong) else [top]
    return Range(float(mean), max(ends + known), float(lit), anchor, data)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _strongest(activations: Sequence[float], count: int) -> np.ndarray:
    """Return the largest finite values, largest first."""
    values = np.asarray(activations, float)
    return np.sort(values[np.isfinite(values)])[::-1][:count]


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the best of all generated images get: `mean` activation of the best, `share` of the unit's
    range.
    """

    n: int
    mean: float | None
    share: float | None
    least: float

    @property
    def reached(self) -> bool:
        """Whether generated images say anything about the unit."""
        return self.share is not None and self.share >= self.least


def reach(unit: Range, generated: Sequence[float], least: float) -> Reach:
    """Return the reach of generated images; without any, none."""
    mean = _mean(_strongest(generated, BEST))
    return Reach(len(generated), mean, None if mean is None else unit.share(mean), least)


@dataclass(frozen=True, slots=True)
class Strength:
    """Which part of the unit's range the images of the labels reach, together and by label, in the mean."""

    share: float
    interval: tuple[float, float]
    labels: dict[str, float]
    least: float

    @property
    def strong(self) -> bool:
        return self.share >= self.least


def strength(unit: Range, by_label: Mapping[str, Sequence[float]], least: float) -> Strength | None:
    """Return the strength of labels from the activations of their fresh images; None without images.

    The interval is a percentile bootstrap over the images, with a fixed seed.
    """
    values = [each for own in by_label.values() for each in own]
    if not values:
        return None
    low, high = bootstrap_interval(values)
    labels = {label: unit.share(float(np.mean(own))) for label, own in by_label.items() if len(own)}
    return Strength(unit.share(float(np.mean(values))), (unit.share(low), unit.share(high)), labels, least)
