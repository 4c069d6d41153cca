"""Images to show next to a unit's strongest: across its range, look-alikes that leave it silent, groups.

Pure choices over numbers. Shapes: n images of a scatter; m exemplars, strongest first; d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Which = Literal["top", "modes", "quantiles", "near", "least"]
WHICH: tuple[str, ...] = get_args(Which)

SAME = 0.98
"""Cosine from which two pictures count as one."""
_SILENT = 0.1
"""Part of an exemplar's activation below which an image that is like it leaves the unit silent."""
_DECILES = 10
_MOST_MODES = 4
_APART = 0.15
"""Least silhouette of groups that count as separate (Rousseeuw 1987)."""
_FEWEST = 4
"""Exemplars from which groups are looked for."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row of the scatter, or of the exemplars, and why it was chosen, in words."""

    row: int
    note: str


def unit_length(features: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return features float (n, d) less their center (d,), each of length 1; of one at the center, zeros."""
    moved = features.astype(np.float64) - center
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.divide(moved, length, out=np.zeros_like(moved), where=length > 0)


def quantiles(activations: np.ndarray, seed: int) -> list[Chosen]:
    """Return the image nearest to the middle of each tenth of the firing range, strongest first, and two
    silent ones.

    A unit fires where its activation is above zero; of one that is never below zero. Any other is split at
    its lowest value.
    """
    floor = 0.0 if activations.min() >= 0 else float(activations.min())
    firing, silent = np.flatnonzero(activations > floor), np.flatnonzero(activations <= floor)
    chosen: list[Chosen] = []
    for tenth in reversed(range(_DECILES)) if len(firing) else ():
        wanted = np.quantile(activations[firing], (tenth + 0.5) / _DECILES)
        row = int(firing[np.argmin(np.abs(activations[firing] - wanted))])
        if row not in [choice.row for choice in chosen]:
            chosen.append(Chosen(row, f"tenth {tenth + 1} of 10 of the firing range"))
    return chosen + [Chosen(int(row), "silent") for row in _drawn(silent, 2, seed)]


def least(activations: np.ndarray, k: int, seed: int) -> list[Chosen]:
    """Return the `k` lowest images; of a unit that is silent on more than that, a draw of these."""
    silent = np.flatnonzero(activations == 0) if activations.min() >= 0 else ()
    if len(silent) > k:
        return [
            Chosen(int(row), f"drawn among {len(silent)} silent images") for row in _drawn(silent, k, seed)
        ]
    return [Chosen(int(row), "among the lowest") for row in np.argsort(activations, kind="stable")[:k]]


def near(
    activations: np.ndarray, vectors: np.ndarray, top: np.ndarray, top_vectors: np.ndarray
) -> list[Chosen]:
    """Return for each exemplar the image most like it that does not drive the unit: below its median, or a
    tenth of the exemplar.

    `vectors` (n, d) and `top_vectors` (m, d) have length 1; `top` (m,) are the exemplars' activations. What
    is the same picture as the exemplar or one chosen before is left out.
    """
    chosen: list[Chosen] = []
    median = float(np.median(activations))
    for number, (activation, vector) in enumerate(zip(top, top_vectors, strict=True), 1):
        alike = vectors @ vector
        fit = ((activations < median) | (activations < _SILENT * activation)) & (alike < SAME)
        for earlier in chosen:
            fit &= vectors @ vectors[earlier.row] < SAME
            fit[earlier.row] = False
        if fit.any():
            row = int(np.argmax(np.where(fit, alike, -np.inf)))
            why = "silent, or nearly" if activations[row] < _SILENT * activation else "below the median"
            chosen.append(Chosen(row, f"like exemplar {number} (similarity {alike[row]:.2f}), and {why}"))
    return chosen


def spread(
    which: Literal["quantiles", "least"],
    activations: np.ndarray,
    features: np.ndarray | None,
    k: int,
    seed: int,
) -> list[Chosen]:
    """Return `quantiles`, or the `k` `least`, without pictures that are the same by their `features` (n, d),
    where these are known.
    """
    chosen = quantiles(activations, seed) if which == "quantiles" else least(activations, 2 * k, seed)
    if features is not None:
        chosen = distinct(chosen, unit_length(features, features.mean(axis=0)))
    return chosen if which == "quantiles" else chosen[:k]


def distinct(chosen: Sequence[Chosen], vectors: np.ndarray) -> list[Chosen]:
    """Return what was chosen without images that are the same picture as one before; `vectors` (n, d) have
    length 1.
    """
    kept: list[Chosen] = []
    for each in chosen:
        if not any(vectors[each.row] @ vectors[other.row] >= SAME for other in kept):
            kept.append(each)
    return kept


def modes(vectors: np.ndarray) -> list[Chosen]:
    """Return the exemplars in groups of alike images, the largest group first; one group where none stand
    apart.

    Average linkage on cosine distance, with the number of groups (2 to 4) of the highest silhouette if that
    is above 0.15.
    """
    labels = _groups(vectors)
    order = sorted(set(labels), key=lambda label: (-labels.count(label), labels.index(label)))
    total = f"of {len(order)}" if len(order) > 1 else "of 1: no groups stand apart"
    return [
        Chosen(row, f"group {number} {total}")
        for number, label in enumerate(order, 1)
        for row, own in enumerate(labels)
        if own == label
    ]


def _groups(vectors: np.ndarray) -> list[int]:
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    best, score = [0] * len(vectors), _APART
    if len(vectors) < _FEWEST:
        return best
    distance = np.clip(1 - vectors @ vectors.T, 0, None)
    np.fill_diagonal(distance, 0)
    for n_groups in range(2, min(_MOST_MODES, len(vectors) - 1) + 1):
        labels = AgglomerativeClustering(n_groups, metric="precomputed", linkage="average").fit_predict(
            distance
        )
        value = float(silhouette_score(distance, labels, metric="precomputed"))
        if value > score:
            best, score = labels.tolist(), value
    return best


def _drawn(rows: Sequence[int] | np.ndarray, k: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.permutation(np.asarray(rows, np.int64))[:k])


def thumbnails(pictures: Sequence[np.ndarray], side: int = 8) -> np.ndarray:
    """Return uint8 pictures (h, w, 3) as float32 (n, side * side * 3) means over a grid: what images are
    compared by without a network.
    """
    import PIL.Image

    small = [PIL.Image.fromarray(each).resize((side, side), PIL.Image.Resampling.BOX) for each in pictures]
    return np.stack([np.asarray(each, np.float32).ravel() for each in small])
