"""Is the label true on real images? A test on images of the data set that no agent has seen.

From a simple random sample of the images that are held out, a part is drawn by its activation: the
strongest, the upper quarter, the rest, with known probabilities. A blind witness says which of them show the
label. Weighted by 1 / probability, AUROC and precision are those of the data set. The draw knows activations
only; so if the label has nothing to do with the unit, it is as likely on any of the drawn images as on any
other, and the test by ranks is exact. Parts of one picture count once, and parts of a picture that an agent
has seen not at all: they are no images of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agents.evidence.evidence_record import HeldOutStatus, HeldOutTest, Range
from agents.evidence.statistics import auroc_interval, rank_e_value, weighted_auroc, wilson_interval
from agents.evidence.witness import Accuracy

LEAST_SHOWN = 5
"""Pictures that must show the label, and that must not, for a test. The e-value is exact for fewer, too, but
a data set's few images of one thing are often of one occasion.
"""
_TOP = 0.25
"""Part of the sample that counts as its upper end; and part of the draw that is the strongest images, all
taken.
"""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """A position in the sample, and 1 / the probability of being drawn."""

    position: int
    weight: float


def draw(activations: np.ndarray, count: int, rng: np.random.Generator) -> list[DrawnImage]:
    """Return at most `count` positions in a shuffled order, from three strata by activation.

    The strongest quarter of the draw is taken for certain; of what is left of it, half comes from the
    sample's upper quarter and half from the rest.
    """
    order = np.argsort(-activations, kind="stable")
    n, strongest = len(order), round(_TOP * count)
    upper = max(strongest, round(_TOP * n))
    quota = (count - strongest) // 2
    strata = [order[:strongest], order[strongest:upper], order[upper:]]
    quotas = [strongest, quota, count - strongest - min(quota, len(strata[1]))]
    if n <= count:
        strata, quotas = [order], [n]
    drawn = []
    for members, most in zip(strata, quotas, strict=True):
        chosen = rng.choice(members, min(most, len(members)), replace=False)
        weight = len(members) / len(chosen) if len(chosen) else 0.0
        drawn += [DrawnImage(int(position), weight) for position in chosen]
    return [drawn[place] for place in rng.permutation(len(drawn))]


@dataclass(frozen=True, slots=True)
class _JudgedArrays:
    """Parallel arrays, [n], of the drawn images with a clear answer, in the order of the draw."""

    activations: np.ndarray
    shown: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class Sample:
    """How the images came about: of `total` held out `n` were sampled with `seed`."""

    total: int
    n: int
    seed: int


@dataclass(frozen=True, slots=True)
class JudgedImage:
    """A drawn image, what it does to the unit, and whether it shows a label; None: the answer was unclear.

    `picture` is the number of the picture that it is a part of; None: of one that is among the exemplars.
    """

    drawn: DrawnImage
    activation: float
    shown: bool | None
    picture: int | None


def held_out_test(
    sample: Sample,
    judged: Sequence[JudgedImage],
    *,
    unit: Range,
    witness: Accuracy | None,
    alpha: float,
    min_auroc: float,
) -> HeldOutTest:
    """Return the test at level `alpha`. `judged` are the drawn images, in the order of the draw."""
    clear = [image for image in judged if image.shown is not None]
    groups = _pictures(clear)
    sizes = len(groups[0]), len(groups[1])
    arrays = _JudgedArrays(
        np.array([image.activation for image in clear], float),
        np.array([image.shown for image in clear], bool),
        np.array([image.drawn.weight for image in clear], float),
    )
    n_shown = int(arrays.shown.sum())
    prevalence = _mean(arrays, arrays.shown) if clear else None
    above = arrays.activations >= unit.middle
    precision = _mean(arrays, arrays.shown, above)
    mean = _mean(arrays, arrays.activations, arrays.shown)
    enough = min(sizes) >= LEAST_SHOWN
    auroc = _auroc(arrays) if enough else None
    interval = _interval(arrays, auroc, sizes)
    e_value = rank_e_value(groups[0].tolist(), groups[1].tolist()) if enough else None

    def corrected(value: float) -> float | None:
        return None if witness is None or prevalence is None else witness.auroc(value, prevalence)

    return HeldOutTest(
        status=_status(auroc, interval, corrected, e_value, alpha, min_auroc),
        total=sample.total,
        sampled=sample.n,
        seed=sample.seed,
        drawn=len(judged),
        shown=n_shown,
        pictures=sizes[0],
        untold=len(judged) - len(clear),
        prevalence=prevalence,
        auroc=auroc,
        auroc_interval=None if interval is None else list(interval),
        corrected=None if auroc is None else corrected(auroc),
        e_value=e_value,
        share=None if mean is None else unit.share(mean),
        precision=precision,
        precision_interval=None if precision is None else _wilson(precision, _size(arrays.weights[above])),
        threshold=unit.middle,
        largest_weight=max((image.drawn.weight for image in judged), default=0.0),
    )


def _status(
    auroc: float | None,
    interval: tuple[float, float] | None,
    corrected: Callable[[float], float | None],
    e_value: float | None,
    alpha: float,
    min_auroc: float,
) -> HeldOutStatus:
    """Contradicted is a label whose AUROC is surely below what is asked, the witness's errors allowed for."""
    if auroc is None or interval is None or e_value is None:
        return "too few"

    def best(value: float) -> float:
        allowed = corrected(value)
        return value if allowed is None else allowed

    if e_value >= 1 / alpha and best(auroc) >= min_auroc:
        return "holds"
    return "contradicted" if best(interval[1]) < min_auroc else "undecided"


def _auroc(arrays: _JudgedArrays) -> float | None:
    return weighted_auroc(arrays.activations, arrays.shown, arrays.weights)


def _mean(arrays: _JudgedArrays, values: np.ndarray, among: np.ndarray | None = None) -> float | None:
    """Return the weighted mean of `values` over the images `among`; None over none."""
    weights = arrays.weights if among is None else arrays.weights * among
    total = weights.sum()
    return float((weights * values).sum() / total) if total > 0 else None


def _pictures(clear: Sequence[JudgedImage]) -> tuple[np.ndarray, np.ndarray]:
    """Return activations [n] of pictures that show a label and of others, one image of each that is new.

    It is the first in the shuffled order; of a picture in parts of which a label was seen, the first of
    these: a choice by the label alone, so that the test by ranks stays exact.
    """
    of: dict[int, JudgedImage] = {}
    for image in sorted(clear, key=lambda image: not image.shown):
        if image.picture is not None:
            of.setdefault(image.picture, image)
    with_label, without = (
        np.array([image.activation for image in of.values() if image.shown is shown], float)
        for shown in (True, False)
    )
    return with_label, without


def _interval(
    arrays: _JudgedArrays, value: float | None, pictures: tuple[int, int]
) -> tuple[float, float] | None:
    """Return Newcombe's interval of an AUROC, each group as large as weights that differ let it count (Kish
    1965), and no larger than its pictures.

    In simulations with 80 of 400 images it covers the truth in 91 to 99 of 100 cases, and the bootstrap
    within strata in 53 to 95: an image of the label in the thinly drawn rest, which weighs most, is often not
    drawn at all.
    """
    if value is None:
        return None
    sizes = [_size(arrays.weights[shown]) for shown in (arrays.shown, ~arrays.shown)]
    return auroc_interval(value, min(sizes[0], pictures[0]), min(sizes[1], pictures[1]))


def _size(weights: np.ndarray) -> float:
    """Return the number of equally weighted images that say as much."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _wilson(share: float, size: float) -> list[float]:
    return list(wilson_interval(share * size, size))
