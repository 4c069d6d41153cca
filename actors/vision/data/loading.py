"""Loading of images of which some may be corrupt, and of their pixels alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from actors.images import Image
from actors.vision.readout.base import ImageDataset


@runtime_checkable
class PixelDataset(Protocol):
    """A data set that gives pixels without the content id, which takes as long as decoding."""

    def pixels(self, index: int) -> np.ndarray:
        """Return the pixels of image `index`, uint8 (H, W, 3); raises as `load` does."""


def load_pixels(dataset: ImageDataset, index: int) -> np.ndarray:
    """Return the pixels of image `index`, uint8 (H, W, 3), without its content id where that saves time."""
    return dataset.pixels(index) if isinstance(dataset, PixelDataset) else dataset.load(index).pixels


def load_readable(dataset: ImageDataset, indices: Iterable[int]) -> list[tuple[int, Image]]:
    """Return the images of `indices` that can be read, each with its index."""
    loaded = []
    for index in indices:
        with contextlib.suppress(Exception):  # decoders and people's own data sets raise anything
            loaded.append((index, dataset.load(index)))
    return loaded
