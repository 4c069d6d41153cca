"""A unit's range on its data set, and whether generated images reach it.

A label's images may beat other things and still be nothing to the unit: every figure is in parts of this
range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.evidence.evidence_record import Range, Reach, Strength
from agents.evidence.statistics import bootstrap_interval

STRONGEST = 15
"""Images of the data set at most whose mean is the upper end of the range: as many as there are exemplars."""
BEST = 5
"""Generated images whose mean is what the image maker reaches: one alone may be luck."""
_ROBUST = 3
"""Images of the data set whose mean is how far it goes: one alone may be an outlier."""
_LIT = 0.5
"""Part of the way from the data set's mean to the strongest of all images, generated ones too, from which an
image counts as strong: of a rare unit most of the fifteen strongest images of a data set leave it silent, or
nearly.
"""


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


def reach(unit: Range, generated: Sequence[float], least: float) -> Reach:
    """Return the reach of generated images; without any, none."""
    mean = _mean(_strongest(generated, BEST))
    share = None if mean is None else unit.share(mean)
    return Reach(n=len(generated), mean=mean, share=share, least=least)


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
