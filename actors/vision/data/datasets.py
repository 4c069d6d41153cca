"""Data sets of images by index: a folder, a pre-decoded array, a Hugging Face data set, scenes.

All are small values that pickle; files are opened when an image is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from actors.errors import UsageError
from actors.images import Image, Preview, Provenance, preview_of
from actors.vision.data.folder import LISTS, FolderDataset, evenly_spaced
from actors.vision.data.hub_dataset import HubDataset, has_tables, is_saved
from actors.vision.readout.base import ImageDataset

_FINGERPRINTED_IMAGES = 32
"""Images whose content is part of an array's fingerprint."""


class ArrayDataset:
    """Decoded images in one .npy file, uint8 (N, H, W, 3), read through the page cache: nothing to decode."""

    def __init__(self, path: Path | str) -> None:
        """Open the file.

        Raises:
            UsageError: If it cannot be read or holds anything else.
        """
        self._path = Path(path).expanduser().resolve()
        self.name = self._path.stem
        array = self._pixels
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or not len(array):
            raise UsageError(
                f"{self._path} must be uint8 (N, H, W, 3), it is {array.dtype} {array.shape}.",
                "Scale it to 0..255 and put the colors last; a gray one: np.repeat(a[..., None], 3, 3).",
            )
        digest = hashlib.blake2b(json.dumps([self.name, *array.shape]).encode(), digest_size=12)
        for place in evenly_spaced(len(array), _FINGERPRINTED_IMAGES):
            digest.update(np.ascontiguousarray(array[place]).data)
        self.fingerprint = digest.hexdigest()
        self._length = len(array)

    @cached_property
    def _pixels(self) -> np.ndarray:
        try:
            return np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self._path} cannot be read as an array of images: {error}",
                "Write squares with `numpy.save`: uint8, (images, height, width, 3).",
            ) from error

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_pixels"}

    def __len__(self) -> int:
        return self._length

    def load(self, index: int) -> Image:
        return Image.from_pixels(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray:
        return np.array(self._pixels[index])

    def preview(self, index: int) -> Preview:
        return preview_of(np.array(self._pixels[index]))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"row": index})


def open_dataset(text: str, image_column: str = "") -> ImageDataset:
    """Return the data set that a command line names; `image_column` is the column of a table that names
    images.

    A folder of images or tars, one that the `datasets` library wrote, a list of paths (.txt, .csv, .tsv,
    .jsonl), a .npy file, `hf:ID[/CONFIG][:SPLIT[:COLUMN]]`, or `scenes[:SIZE[:SEED]]`.

    Raises:
        UsageError: If there is no such data set.
    """
    kind, _, rest = text.partition(":")
    if kind == "hf" and rest:
        return HubDataset.named(rest, image_column)
    if kind == "scenes":
        return _scenes(text)
    if not text.strip() or "://" in text:
        raise UsageError(
            f"the data set {text!r} is an address, which is not fetched."
            if text.strip()
            else "the data set has no name.",
            "Give a folder of this machine, or hf:OWNER/NAME.",
        )
    path = Path(text).expanduser()
    if path.suffix == ".npy":
        return ArrayDataset(path)
    if path.suffix.lower() in LISTS and path.is_file():
        return FolderDataset.of_list(path, image_column)
    if is_saved(path):
        return HubDataset(str(path.resolve()), column=image_column)
    try:
        return FolderDataset(path)
    except UsageError:
        if os.path.isdir(path) and has_tables(path):  # noqa: PTH112 (Path's own raises for a long name)
            return HubDataset(str(path.resolve()), column=image_column)
        raise


def _scenes(text: str) -> ImageDataset:
    from actors.embedded.drawing.dataset import ScenesDataset

    numbers = [part for part in text.split(":")[1:] if part]
    if not all(part.isdecimal() for part in numbers) or len(numbers) > 2:
        raise UsageError(f"write scenes[:SIZE[:SEED]], got {text!r}")
    size, seed = [int(part) for part in numbers] + [2048, 0][len(numbers) :]
    made: ImageDataset = ScenesDataset(size, seed)
    return made
