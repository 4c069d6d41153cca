"""Data sets of images by index: a folder, a pre-decoded array, a Hugging Face data set, scenes.

All are small values that pickle; whoever loads an image opens what it needs.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.hub import require
from actors.images import Image, ImageDecodeError, Provenance, decode
from actors.vision.base import ImageDataset

_LOOKED_AT = 32
"""Images whose content is part of a data set's fingerprint."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class FolderDataset:
    """All images below a folder, sorted by path.

    The fingerprint covers names, sizes and the content of a few files: a copy elsewhere is the same data set.
    """

    def __init__(self, folder: Path | str) -> None:
        """List the folder.

        Raises:
            UsageError: If it does not exist, cannot be read, or holds no image.
        """
        self._folder = Path(folder).expanduser().resolve()
        self.name = self._folder.name
        self._paths, self.fingerprint = _list_images(self._folder)

    def __len__(self) -> int:
        return len(self._paths)

    def load(self, index: int) -> Image:
        path = self._folder / self._paths[index]
        try:
            return decode(path.read_bytes())
        except (OSError, ImageDecodeError) as error:
            # The system's own words name the path again, in characters that may not be told.
            why = error.strerror if isinstance(error, OSError) else error
            raise ImageDecodeError(f"{_printable(str(path))}: {why}") from error

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"path": _printable(self._paths[index])})


def _printable(path: str) -> str:
    """Return a path as text that can be stored: names on disk are bytes, and not all are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _list_images(folder: Path) -> tuple[list[str], str]:
    fix = "Give a folder of images (with subfolders or without)."
    if not folder.exists():
        raise UsageError(f"the data set folder {str(folder)!r} does not exist.", fix)
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is not a folder.", fix)

    def fail(error: OSError) -> None:
        raise UsageError(f"the data set folder {str(folder)!r} cannot be read: {error}", fix) from error

    found: list[tuple[str, int]] = []
    walked: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in walked:  # a link back up, or a second way to the same folder
            folders.clear()
            continue
        walked.add((here.st_dev, here.st_ino))
        # In this order whatever the disk's is: which of two ways to a folder counts must not change.
        folders.sort()
        for file in files:
            path = Path(parent) / file
            if path.suffix.lower() in SUFFIXES and not file.startswith("."):
                try:
                    status = path.stat()
                except OSError:
                    continue  # a dangling link is no image
                if not stat.S_ISREG(status.st_mode):
                    continue  # a pipe or a device would be waited for without end
                found.append((path.relative_to(folder).as_posix(), status.st_size))
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UsageError(f"the data set folder {str(folder)!r} holds no image ({kinds}).", fix)
    found.sort()
    digest = hashlib.blake2b(json.dumps(found).encode(), digest_size=12)
    for place in _spread(len(found)):
        try:
            digest.update(hashlib.blake2b((folder / found[place][0]).read_bytes()).digest())
        except OSError:
            digest.update(b"unreadable")  # told when it is loaded
    return [path for path, _ in found], digest.hexdigest()


def _spread(n: int) -> list[int]:
    """Return the places of a few of `n` images, all along."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, _LOOKED_AT))})


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
            raise UsageError(f"{self._path} must be uint8 (N, H, W, 3), it is {array.dtype} {array.shape}")
        digest = hashlib.blake2b(json.dumps([self.name, *array.shape]).encode(), digest_size=12)
        for place in _spread(len(array)):
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
                "Write it with `write_array`.",
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pixels"}

    def __len__(self) -> int:
        return self._length

    def load(self, index: int) -> Image:
        return Image.from_pixels(np.array(self._pixels[index]))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"row": index})


def write_array(
    dataset: ImageDataset,
    path: Path,
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """Decode a data set once into a file for `ArrayDataset`: squares of `size` pixels, cut from the centre.

    Corrupt images become black; they are returned by index with the reason.
    """
    import PIL.Image
    import PIL.ImageOps

    skipped: dict[int, str] = {}
    draft = path.with_name(path.name + ".draft")
    array = np.lib.format.open_memmap(draft, "w+", np.uint8, (len(dataset), size, size, 3))
    for index in range(len(dataset)):
        try:
            picture = dataset.load(index).to_pil()
        except Exception as error:  # decoders raise anything
            skipped[index] = f"{type(error).__name__}: {error}"
        else:
            array[index] = np.asarray(PIL.ImageOps.fit(picture, (size, size), PIL.Image.Resampling.BICUBIC))
        if progress is not None:
            progress(index + 1, len(dataset))
    array.flush()
    draft.replace(path)
    return skipped


@dataclass
class HubDataset:
    """A split of a Hugging Face data set (a hub id, or a local folder in one of its formats, WebDataset shards too)."""

    path: str
    split: str = "validation"
    column: str = "image"
    revision: str | None = None
    name: str = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        require("hf: data sets", "datasets", install="pip install datasets")
        self.name = f"{self.path}:{self.split}"
        if self.column not in self._rows.column_names:
            raise UsageError(
                f"{self.name} has no column {self.column!r}.", f"It has {', '.join(self._rows.column_names)}."
            )
        self.fingerprint = hashlib.blake2b(self._rows._fingerprint.encode(), digest_size=12).hexdigest()

    @cached_property
    def _rows(self) -> Any:
        import datasets

        try:
            rows = datasets.load_dataset(self.path, split=self.split, revision=self.revision)
        except Exception as error:  # a dozen kinds: unknown id, split, format, no network
            raise UsageError(
                f"the data set {self.path!r} (split {self.split!r}) cannot be loaded: "
                f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
        return (
            rows.cast_column(self.column, datasets.Image(decode=False))
            if self.column in rows.column_names
            else rows
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, index: int) -> Image:
        value = self._rows[index][self.column]
        data = value.get("bytes") or Path(value["path"]).read_bytes()
        return decode(data)

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"row": index})


def canonical(text: str) -> str:
    """Return the name of a data set that is the same from every folder and however its path is written."""
    return str(Path(text).expanduser().resolve()) if is_path(text) else text


def is_path(text: str) -> bool:
    """Say whether a data set is named by where it is, and not by what it is."""
    return text.partition(":")[0] not in ("hf", "scenes")


def open_dataset(text: str) -> ImageDataset:
    """Return the data set that a command line names.

    A folder, a .npy file, `hf:ID[:SPLIT[:COLUMN]]`, or `scenes[:SIZE[:SEED]]`.

    Raises:
        UsageError: If there is no such data set.
    """
    kind, _, rest = text.partition(":")
    if kind == "hf" and rest:
        return HubDataset(*rest.split(":"))
    if kind == "scenes":
        from actors.scenes.dataset import ScenesDataset

        numbers = [part for part in rest.split(":") if part]
        if not all(part.isdecimal() for part in numbers) or len(numbers) > 2:
            raise UsageError(f"write scenes[:SIZE[:SEED]], got {text!r}")
        size, seed = [int(part) for part in numbers] + [2048, 0][len(numbers) :]
        made: ImageDataset = ScenesDataset(size, seed)
        return made
    if text.endswith(".npy"):
        return ArrayDataset(text)
    return FolderDataset(text)
