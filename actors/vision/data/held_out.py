"""The held-out set of a data set, for confirmation: exploring agents never see it.

It is the given number of images whose keys have the smallest hashes. So there is no list to keep, every
process draws the same set, and when images are added only a few whose hashes are near the limit change sides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from actors.vision.readout.base import ImageDataset


@dataclass(frozen=True, slots=True)
class HeldOutShare:
    """How much of a data set is held out: a fraction, and of a small data set more.

    `at_least` images are held out as far as half of the data set allows. A test on real images needs some
    that show the label: a fifth of 200 images has one of each of 40 things.
    """

    fraction: float
    at_least: int = 0

    def count(self, n: int) -> int:
        """Return how many of `n` images are held out; a fraction of 0 holds none out."""
        share = round(self.fraction * n)
        return max(share, min(self.at_least, n // 2)) if self.fraction else 0


def split(dataset: ImageDataset, share: HeldOutShare) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices for exploring and the held-out ones, int64, both in order.

    Held out are `share.count(n)` images. Of distinct images the key is their content; of others the index
    under the data set's fingerprint, so that no image must be read to know its side.
    """
    from actors.vision.data.distinct import DistinctDataset  # settings, which are light, import this module

    n = len(dataset)
    if isinstance(dataset, DistinctDataset):
        keys = [key.tobytes() for key in dataset.keys]
    else:
        keys = [f"{dataset.fingerprint}:{index}".encode() for index in range(n)]
    hashes = [hashlib.blake2b(key, digest_size=8, person=b"reserve").digest() for key in keys]
    held_out = np.zeros(n, bool)
    held_out[sorted(range(n), key=lambda index: (hashes[index], index))[: share.count(n)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


SEED = 0
"""Seed of the sample of held-out images: one for all units, so that they share the passes."""


def sample(held_out: np.ndarray, count: int) -> np.ndarray:
    """Return a simple random sample, with `SEED`, of at most `count` held-out indices, int64, in order."""
    if len(held_out) <= count:
        return held_out
    return np.sort(np.random.default_rng(SEED).choice(held_out, count, replace=False))
