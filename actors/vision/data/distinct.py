"""The distinct images of a data set: copies of an image, and near-copies, count once.

A near-copy is an image that was encoded again, resized or turned by its EXIF tag. Two images are near-copies
if they have the same shape and the root mean square of their difference is at most

- COARSE of the contrast of the earlier one or ROUNDING, whichever is more, both as thumbnails of 16 x 16
  cells, and
- FINE of its contrast, both at half the size of the smaller one (32 to CLOSE_UP pixels).

The contrast is the root mean square of an image about its mean color. The second comparison, of the few pairs
that pass the first, distinguishes patterns whose cells are alike. Images compare with the first of their kind
only: a slow film does not become one image. An image of little contrast (clear sky) has hardly any but exact
copies.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import PIL
import PIL.Image

from actors.errors import UsageError
from actors.files import write_if_absent
from actors.images import (
    DECODING,
    THUMBNAIL,
    Image,
    ImageDecodeError,
    Preview,
    Provenance,
    heif_is_read,
    thumbnail,
)
from actors.runtime import available_cores
from actors.vision.data.labels import ColumnSettings, Labels, labels_of
from actors.vision.data.loading import load_pixels
from actors.vision.readout.base import ImageDataset

COARSE = 0.1
ROUNDING = 2.0
"""Of 255: what encoding again does to the cells of a texture."""
FINE = 0.2
CLOSE_UP, _SMALLEST = 96, 32
_MAX_FAILURES = 8
"""Comparisons in a row, nearest first, that may fail before the others are skipped."""
_SHAPE = 0.03
"""Relative difference of two aspect ratios at most: a resized copy has its sides rounded."""
_FEATURES = 12
_BATCH = 1024

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@runtime_checkable
class Previewed(Protocol):
    """A data set of pictures that others made, which may hold copies."""

    def preview(self, index: int) -> Preview:
        """Return the preview by which image `index` is compared.

        Raises:
            ImageDecodeError: If it is corrupt.
        """


@dataclass(frozen=True)
class Census:
    """A data set's images by index: `leaders` int64 (n,), the first image of the same content, -1 if
    unreadable.

    `digests` uint8 (n, 16) are of the encoded bytes. `unreadable` are the reasons. `scaled` counts images by
    the bits of their values where those are fewer than their file has room for.
    """

    digests: np.ndarray
    leaders: np.ndarray
    unreadable: dict[int, str]
    scaled: dict[int, int]

    @property
    def firsts(self) -> np.ndarray:
        """The first image of each content, int64 ascending."""
        return np.flatnonzero(self.leaders == np.arange(len(self.leaders)))

    def save(self, path: Path) -> None:
        facts = json.dumps({"unreadable": self.unreadable, "scaled": self.scaled})
        buffer = io.BytesIO()
        np.savez(buffer, digests=self.digests, leaders=self.leaders, facts=np.array(facts))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_if_absent(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Census:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            unreadable = {int(index): why for index, why in facts["unreadable"].items()}
            scaled = {int(bits): count for bits, count in facts["scaled"].items()}
            return cls(stored["digests"], stored["leaders"], unreadable, scaled)


class DistinctDataset:
    """The distinct images of a data set, each by its first copy, in the data set's order.

    `keys` uint8 (n, 16) are digests of the images' files: an image keeps its key when others are added or its
    file is renamed. The fingerprint is made of them all. `unreadable` gives the reason by the image's name.
    """

    def __init__(self, whole: ImageDataset, census: Census) -> None:
        self._whole = whole
        self.firsts = census.firsts
        """Indices into the whole data set, int64 ascending."""
        self.name = whole.name
        self.keys = census.digests[self.firsts]
        version = f"{DECODING}:{len(self.keys)}:".encode()
        self.fingerprint = hashlib.blake2b(version + self.keys.tobytes(), digest_size=12).hexdigest()
        self.n_files = len(whole)
        self.scaled = census.scaled
        self.unreadable = {image_name(whole, index): why for index, why in census.unreadable.items()}

    @property
    def n_copies(self) -> int:
        return self.n_files - len(self.unreadable) - len(self)

    def __len__(self) -> int:
        return len(self.firsts)

    def load(self, index: int) -> Image:
        return self._whole.load(int(self.firsts[index]))

    def pixels(self, index: int) -> np.ndarray:
        return load_pixels(self._whole, int(self.firsts[index]))

    def provenance(self, index: int) -> Provenance:
        return self._whole.provenance(int(self.firsts[index]))

    def labels(self, columns: ColumnSettings) -> Labels:
        """Return the labels of each image's first copy; raises as `labels_of` of the whole data set."""
        return labels_of(self._whole, columns).take(self.firsts)


def image_name(dataset: ImageDataset, index: int) -> str:
    """Return an image's path or prompt, else its row in the data set."""
    provenance = dataset.provenance(index)
    row = provenance.recipe.get("row", index)
    return str(provenance.recipe.get("path") or provenance.prompt or f"{dataset.name}[{row}]")


def distinct(dataset: ImageDataset, cache: Path, progress: Progress | None = None) -> ImageDataset:
    """Return the distinct images of a data set; without previews (drawn scenes), all are distinct.

    Every image is read once; the census is kept in `cache` for as long as the data set stays the same.

    Raises:
        UsageError: If no image can be read.
    """
    if not isinstance(dataset, Previewed):
        return dataset
    path = _kept(dataset, cache)
    census = _known(path)
    if census is None:
        census = take_census(dataset, progress)
        try:
            census.save(path)
        except OSError as error:
            _log.warning("the census of %s could not be kept in %s: %s", dataset.name, path, error)
    if not len(census.firsts):
        raise UsageError(
            f"no image of the data set {dataset.name!r} can be read ({len(dataset)} tried). "
            f"The first: {census.unreadable[min(census.unreadable)]}.",
            "Give it images that can be.",
        )
    return DistinctDataset(dataset, census)


def known_count(dataset: ImageDataset, cache: Path | None) -> int | None:
    """Return the number of distinct images if `distinct` has counted them before, else None."""
    if not isinstance(dataset, Previewed):
        return len(dataset)
    census = None if cache is None else _known(_kept(dataset, cache))
    return None if census is None else len(census.firsts)


def _kept(dataset: ImageDataset, cache: Path) -> Path:
    """Return the path of a data set's census."""
    readers = (
        f"{DECODING} {PIL.__version__} {heif_is_read()} {COARSE} {ROUNDING} {FINE} {CLOSE_UP} {THUMBNAIL}"
    )
    which = hashlib.blake2b(f"{readers} {dataset.fingerprint}".encode(), digest_size=12).hexdigest()
    return cache / "datasets" / f"{which}.npz"


def _known(path: Path) -> Census | None:
    if not path.exists():
        return None
    try:
        return Census.load(path)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s is damaged; its images are read again: %s", path, error)
        path.unlink(missing_ok=True)
        return None


def take_census(dataset: ImageDataset, progress: Progress | None = None) -> Census:
    """Read every image once, in threads, and find copies."""
    assert isinstance(dataset, Previewed)
    n = len(dataset)
    digests = np.zeros((n, 16), np.uint8)
    thumbnails = np.zeros((n, THUMBNAIL * THUMBNAIL * 3), np.uint8)
    leaders = np.arange(n)
    unreadable: dict[int, str] = {}
    scaled: dict[int, int] = {}

    def preview(index: int) -> Preview | str:
        try:
            return dataset.preview(index)
        except Exception as error:  # decoders and data sets raise anything
            return str(error) if isinstance(error, ImageDecodeError) else f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(available_cores(), thread_name_prefix="census") as threads:
        for start in range(0, n, _BATCH):
            batch = range(start, min(start + _BATCH, n))
            for index, seen in zip(batch, threads.map(preview, batch), strict=True):
                if isinstance(seen, str):
                    unreadable[index], leaders[index] = seen[:300], -1
                    continue
                digests[index] = np.frombuffer(seen.digest, np.uint8)
                thumbnails[index] = seen.thumbnail.ravel()
                if seen.bits != 8:
                    scaled[seen.bits] = scaled.get(seen.bits, 0) + 1
            if progress is not None:
                progress(batch.stop, n)
    _lead_exact_copies(digests, leaders)
    _lead_near_copies(dataset, thumbnails, leaders)
    return Census(digests, leaders, unreadable, scaled)


def _lead_exact_copies(digests: np.ndarray, leaders: np.ndarray) -> None:
    first: dict[bytes, int] = {}
    for index in np.flatnonzero(leaders >= 0).tolist():
        leaders[index] = first.setdefault(digests[index].tobytes(), index)


def _lead_near_copies(dataset: ImageDataset, thumbnails: np.ndarray, leaders: np.ndarray) -> None:
    """Give each image the first one as leader that it is a near-copy of, in the order of the data set."""
    from scipy.spatial import KDTree

    firsts = np.flatnonzero(leaders == np.arange(len(leaders)))
    if len(firsts) < 2:
        return
    contrast = _contrast(thumbnails[firsts])
    # A distance between projections is at most that between the thumbnails: no near-copy is missed.
    features = _projected(thumbnails[firsts])
    radii = np.maximum(COARSE * contrast, ROUNDING) * np.sqrt(thumbnails.shape[1])
    tree = KDTree(features)
    n_near = tree.query_ball_point(features, radii * (1 + 1e-5), return_length=True, workers=-1)
    into, closely = np.arange(len(firsts)), _CloseUps(dataset)
    for place in np.flatnonzero(n_near > 1):
        if into[place] != place:
            continue
        near = np.array(tree.query_ball_point(features[place], radii[place] * (1 + 1e-5)))
        near = near[(near > place) & (into[near] == near)]
        gap = thumbnails[firsts[near]].astype(np.float32) - thumbnails[firsts[place]]
        distance = np.sqrt(np.square(gap).sum(1))
        order = np.argsort(distance, kind="stable")
        near = near[order[: (distance <= radii[place]).sum()]]
        into[list(_confirmed(closely, firsts[place], near, firsts[near]))] = place
    read = leaders >= 0
    leaders[read] = firsts[into[np.searchsorted(firsts, leaders[read])]]


def _confirmed(closely: _CloseUps, first: int, places: np.ndarray, indices: np.ndarray) -> Iterator[int]:
    """Yield those of `places` whose images, the `indices` of the data set, are near-copies of the image
    `first`.
    """
    failed = 0
    for place, index in zip(places.tolist(), indices.tolist(), strict=True):
        if closely.near_copies(int(first), index):
            failed = 0
            yield place
        elif (failed := failed + 1) == _MAX_FAILURES:
            return


class _CloseUps:
    """The images of a data set as squares of CLOSE_UP pixels, the latest kept."""

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset = dataset
        self._get = lru_cache(256)(self._load)

    def near_copies(self, first: int, second: int) -> bool:
        a, b = self._get(first), self._get(second)
        return a is not None and b is not None and near_copies(*a, *b)

    def _load(self, index: int) -> tuple[PIL.Image.Image, tuple[int, int]] | None:
        try:
            image = self._dataset.load(index)
        except Exception:  # its preview was read; reported when it is used
            return None
        return thumbnail(image.to_pil(), _close_up(min(image.size))), image.size


def _close_up(shortest: int) -> int:
    """Return the side to compare images at: half of a small one's, which averages out what JPEG does to
    single pixels.
    """
    return min(CLOSE_UP, max(shortest // 2, min(shortest, _SMALLEST)))


def _contrast(flat: np.ndarray) -> np.ndarray:
    """Return the root mean square of images about their mean color, float32 (n,), of uint8 (n, cells * 3)."""
    squares = np.empty(len(flat), np.float32)
    for start in range(0, len(flat), _BATCH):
        cells = flat[start : start + _BATCH].reshape(-1, flat.shape[1] // 3, 3).astype(np.float32)
        squares[start : start + _BATCH] = np.square(cells - cells.mean(1, keepdims=True)).mean((1, 2))
    return np.sqrt(squares)


def _projected(flat: np.ndarray) -> np.ndarray:
    """Return uint8 (n, cells * 3) on their first principal axes, float32 (n, _FEATURES)."""
    some = flat[:: -(-len(flat) // 512)].astype(np.float32)
    axes = np.linalg.svd(some - some.mean(0), full_matrices=False)[2][:_FEATURES].T
    return np.concatenate(
        [flat[start : start + _BATCH].astype(np.float32) @ axes for start in range(0, len(flat), _BATCH)]
    )


def near_copies(
    first: PIL.Image.Image, size: tuple[int, int], second: PIL.Image.Image, other: tuple[int, int]
) -> bool:
    """Return whether two images, as squares of CLOSE_UP pixels at most, differ little; `size` and `other` are
    their own.
    """
    # Sides that were rounded to whole pixels may differ by one.
    rounded = max(_SHAPE, 1 / min(*size, *other))
    if abs(size[0] * other[1] / (size[1] * other[0]) - 1) > rounded:
        return False
    side = min(first.width, second.width)
    a, b = (np.asarray(image if image.width == side else thumbnail(image, side)) for image in (first, second))
    difference = np.sqrt(np.square(a.astype(np.float32) - b).mean())
    return bool(difference <= FINE * _contrast(a.reshape(1, -1))[0])
