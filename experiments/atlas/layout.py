"""Where the atlas draws units: labels that say similar things lie near each other, on one map of all layers.

Distinct labels are projected, by t-SNE (van der Maaten and Hinton 2008, scikit-learn) from the leading
singular vectors of their word vectors. So a concept has the same place in each layer. Beyond `LANDMARKS`
labels, the others are placed among their nearest ones. Units of one label form a disk around it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LANDMARKS = 1500
"""Labels that are projected: time grows with their number, 3 ms of one processor each."""
NEIGHBORS = 6
"""Nearest labels that are kept of each."""
_DIMENSIONS = 50
_NEW = 0.1
"""Share of new labels up to which the others stay where they were."""
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_TILE = 512


def project(vectors: Any, counts: np.ndarray, known: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the places of texts in the unit square, float32 (T, 2), the same for the same arguments.

    `vectors`: unit vectors, sparse float32 (T, F). `counts` int (T,): units of each; the commonest are
    landmarks. `known` float (T, 2): places from before, NaN of new texts; where few are new, all others stay.
    """
    n = vectors.shape[0]
    new = np.isnan(known).any(1)
    if new.sum() <= _NEW * n and n >= 3:
        dense, places = _reduced(vectors, seed), known.astype(np.float32)
        places[new] = _among(dense[new], dense[~new], places[~new])
        return np.clip(places, 0, 1)
    if n < 3:
        return np.full((n, 2), 0.5, np.float32) + np.linspace(-0.2, 0.2, n, dtype=np.float32)[:, None]
    dense = _reduced(vectors, seed)
    landmarks = np.sort(np.argsort(-counts, kind="stable")[:LANDMARKS])
    fixed = _embedded(dense[landmarks], seed)
    places = np.empty((n, 2), np.float32)
    places[landmarks] = fixed
    others = np.setdiff1d(np.arange(n), landmarks)
    if len(others):
        places[others] = _among(dense[others], dense[landmarks], fixed)
    low, high = places.min(0), places.max(0)
    return np.asarray(0.03 + 0.94 * (places - low) / np.maximum(high - low, 1e-9), np.float32)


def _reduced(vectors: Any, seed: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    dimensions = min(_DIMENSIONS, *(size - 1 for size in vectors.shape))
    if dimensions < 1:
        return np.asarray(vectors.toarray())
    return np.asarray(TruncatedSVD(dimensions, random_state=seed).fit_transform(vectors), np.float32)


def _embedded(dense: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if dense.shape[1] < 2 or len(np.unique(dense, axis=0)) < 5:
        padded = np.zeros((len(dense), 2), np.float32)
        padded[:, : dense.shape[1]] = dense[:, :2]
        return padded
    perplexity = min(30.0, (len(dense) - 1) / 3)
    rng = np.random.default_rng(seed)
    # Its start is the first two components, which equal ones would divide by zero.
    start = (
        dense[:, :2] / max(float(dense[:, 0].std()), 1e-6) + rng.normal(size=(len(dense), 2)) * 1e-2
    ) * 1e-4
    # One thread: the order of additions, and with it the map, must not depend on the machine's processors.
    with threadpool_limits(1):
        projection = TSNE(
            2, perplexity=perplexity, init=start.astype(np.float32), max_iter=500, random_state=seed
        )
        return np.asarray(projection.fit_transform(dense), np.float32)


def _among(others: np.ndarray, landmarks: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Return places of the other texts: the mean of their three nearest landmarks', by similarity."""
    places = np.empty((len(others), 2), np.float32)
    for start in range(0, len(others), _TILE):
        similar = others[start : start + _TILE] @ landmarks.T
        nearest = np.argpartition(-similar, min(3, similar.shape[1] - 1), axis=1)[:, :3]
        weight = np.maximum(np.take_along_axis(similar, nearest, 1), 1e-3) ** 4
        mean = (fixed[nearest] * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
        places[start : start + _TILE] = mean
    # Texts with the same landmarks would lie on one point.
    angle = np.arange(len(others)) * _GOLDEN_ANGLE
    step = 0.01 * float(np.ptp(fixed, axis=0).max())
    offset = np.stack([np.cos(angle), np.sin(angle)], 1) * (
        step * (1 + np.arange(len(others)) % 7)[:, None] / 7
    )
    return np.asarray(places + offset, np.float32)


def spread(places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the places of units, float32 (U, 2), in [0, 1]: of one label a disk around its place.

    `labels` int (U,): the label of each unit, -1 without one. Units without a label have NaN.
    """
    points = np.full((len(labels), 2), np.nan, np.float32)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if not len(order):
        return points
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    radius = 0.35 / np.sqrt(max(400, len(order))) * np.sqrt(rank)
    angle = rank * _GOLDEN_ANGLE
    disk = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    points[order] = np.clip(places[labels[order]] + disk, 0, 1)
    return points


def neighbors(vectors: Any, count: int = NEIGHBORS) -> np.ndarray:
    """Return the nearest other texts of each, most similar first, int32 (T, count); -1 where none is like it.

    `vectors`: unit vectors, sparse float32 (T, F).
    """
    n = vectors.shape[0]
    found = np.full((n, count), -1, np.int32)
    transposed = vectors.T.tocsr()
    for start in range(0, n, _TILE):
        similar = (vectors[start : start + _TILE] @ transposed).toarray()
        rows = np.arange(len(similar))
        similar[rows, start + rows] = 0
        kept = min(count, n - 1)
        if kept < 1:
            break
        nearest = np.argpartition(-similar, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(similar, nearest, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        nearest, values = (np.take_along_axis(each, order, 1) for each in (nearest, values))
        found[start : start + _TILE, :kept] = np.where(values > 0, nearest, -1)
    return found
