"""Loading of images of which some may be corrupt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from actors.images import Image
from actors.vision.readout.base import ImageDataset


def load_readable(dataset: ImageDataset, indices: Iterable[int]) -> list[tuple[int, Image]]:
    """Return the images of `indices` that can be read, each with its index."""
    loaded = []
    for index in indices:
        with contextlib.suppress(Exception):  # decoders and people's own data sets raise anything
            loaded.append((index, dataset.load(index)))
    return loaded
