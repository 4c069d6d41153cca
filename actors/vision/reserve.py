"""The part of a data set (or of generated images) that is kept for confirmation.

The split is a hash of a stable key: no list to keep, the same in every process and run, and an image stays
on its side when the data set grows. Exploring agents never see what is reserved.
"""

from __future__ import annotations

import hashlib

import numpy as np

from actors.vision.base import ImageDataset


def is_reserved(key: str, fraction: float) -> bool:
    """Say whether the image known by `key` (a content id, a prompt and seed ...) is for confirmation only."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"reserve").digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def split(dataset: ImageDataset, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices for exploring and the reserved ones, int64, both in order.

    The key is the index under the data set's fingerprint, so that no image must be read to know its side.
    """
    reserved = np.fromiter(
        (is_reserved(f"{dataset.fingerprint}:{index}", fraction) for index in range(len(dataset))),
        dtype=bool,
        count=len(dataset),
    )
    return np.flatnonzero(~reserved), np.flatnonzero(reserved)
