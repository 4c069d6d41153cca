"""A unit's range on its data set, and whether generated images reach it.

A label's images may beat other things and still be nothing to the unit: every figure is in parts of this
range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.evidence.record import Count, Interval, Number, Record
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
    return Range(low=float(mean), high=max(ends + known), lit=float(lit), anchor=anchor, data=data)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _strongest(activations: Sequence[float], count: int) -> np.ndarray:
    """Return the largest finite values, largest first."""
    values = np.asarray(activations, float)
    return np.sort(values[np.isfinite(values)])[::-1][:count]


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


def reach(unit: Range, generated: Sequence[float], least: float) -> Reach:
    """Return the reach of generated images; without any, none."""
    mean = _mean(_strongest(generated, BEST))
    share = None if mean is None else unit.share(mean)
    return Reach(n=len(generated), mean=mean, share=share, least=least)


class Strength(Record):
    """Which part of the unit's range the images of the labels reach, in the mean."""

    share: Number = 0.0
    """All images together."""
    interval: Interval | None = None
    """A percentile bootstrap over the images."""
    labels: dict[str, Number] = {}
    """The part that the images of each label reach."""
    least: Number = 0.0
    """The part from which labels count as strong."""

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
    interval = [unit.share(end) for end in bootstrap_interval(values)]
    labels = {label: unit.share(float(np.mean(own))) for label, own in by_label.items() if len(own)}
    share = unit.share(float(np.mean(values)))
    return Strength(share=share, interval=interval, labels=labels, least=least)
