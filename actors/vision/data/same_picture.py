"""Which images are parts of one picture: crops of a photograph, frames of a film, files of one `group`.

They are distinct images, yet no independent evidence. Two images are laid over each other at the scale and
the shift at which their details agree best, which is where their cross-correlation has its peak, and are
compared there block by block. Two tabby cats are alike in kind, and agree in no details.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from actors.errors import UsageError
from actors.images import Image
from actors.serving.lru import SharedLruCache
from actors.vision.data.distinct import DistinctDataset
from actors.vision.data.labels import MOST_LEVELS, Column, ColumnSettings, labels_of
from actors.vision.readout.base import ImageDataset

GROUP = "group"
"""The column of a data set's table that says which images belong together, if it has more than MOST_LEVELS
values: with fewer it may name subgroups, as an attribute does.
"""
_SIDE = 64
"""Longer side of what is compared, in pixels."""
_SCALES = tuple(1.07**k for k in range(-9, 10))
"""Sizes that are tried, 0.54 to 1.84: steps at which details of six pixels still lie over each other."""
_FIELD = 128
"""Side of the field in which shifts are tried; the largest size fits."""
_FINE, _COARSE, _AROUND = 1.0, 4.0, 6.0
"""Standard deviations, in pixels: details lie between the first two, and contrast is evened over the last."""
_TRIED = 3
"""Peaks of different sizes, highest first, at which blocks are compared."""
_BLOCK, _LEAST_BLOCKS = 8, 6
_PLAIN = 0.05
"""Mean square of a block's details below which it shows nothing that could agree."""
_AGREEING = 0.85
"""Median correlation of the blocks from which two images are of one picture (docs/data.md)."""
_REMEMBERED = 1 << 18
"""Pairs of which the answer is kept."""
_DETAILS_BYTES, _GROUPS_BYTES = 128 * 2**20, 16 * 2**20
"""Room for what images were compared by last, and for columns `group`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Details:
    """An image's details at every size, float32 (height, width) each; their spectra, complex64 (sizes,
    _FIELD, _FIELD / 2 + 1); and their norms, float64 (sizes,).
    """

    sized: tuple[np.ndarray, ...]
    spectra: np.ndarray
    norms: np.ndarray

    @property
    def plain(self) -> int:
        """Which size is the image's own."""
        return len(_SCALES) // 2

    @property
    def n_bytes(self) -> int:
        return sum(each.nbytes for each in self.sized) + self.spectra.nbytes + self.norms.nbytes


class SamePictures:
    """Finds parts of one picture among a data set's images. Blocking; thread-safe.

    Threads compare images at the same time: only what they share is locked, and a pair may be compared twice.
    """

    def __init__(self) -> None:
        self._known: SharedLruCache[bool] = SharedLruCache(_REMEMBERED)
        self._details: SharedLruCache[Details] = SharedLruCache(_DETAILS_BYTES)
        self._groups: SharedLruCache[np.ndarray] = SharedLruCache(_GROUPS_BYTES)

    def numbers(
        self, dataset: ImageDataset, indices: Sequence[int], seen: Sequence[int] = ()
    ) -> list[int | None]:
        """Return for each of the images `indices` which picture it is a part of, numbered from 0; None where
        an image of `seen` is a part of the same.

        What is no data set of files, such as drawn scenes, has no two parts of one picture.
        """
        if not isinstance(dataset, DistinctDataset):
            return list(range(len(indices)))
        leaders = self._leaders(dataset, [*map(int, seen), *map(int, indices)])
        known = set(leaders[: len(seen)])
        numbers: dict[int, int | None] = dict.fromkeys(known)
        for leader in leaders[len(seen) :]:
            if leader not in numbers:
                numbers[leader] = len(numbers) - len(known)
        return [numbers[leader] for leader in leaders[len(seen) :]]

    def _leaders(self, dataset: DistinctDataset, indices: Sequence[int]) -> list[int]:
        """Return for each image the place of the first one that is joined with it, by chains of pairs."""
        leaders = list(range(len(indices)))
        groups = self._groups_of(dataset)[list(indices)].tolist()
        # Every image is compared with all others: those of one call are held together, however many.
        details = functools.cache(functools.partial(self._details_of, dataset))
        for place in range(1, len(indices)):
            for other in range(place):
                if leaders[other] == leaders[place]:
                    continue
                if groups[place] >= 0 and groups[other] >= 0:
                    same = groups[place] == groups[other]
                else:
                    same = self._same(dataset.fingerprint, indices[other], indices[place], details)
                if same:
                    first, second = sorted((leaders[other], leaders[place]))
                    leaders = [first if leader == second else leader for leader in leaders]
        return leaders

    def _same(self, dataset: str, one: int, other: int, details: Callable[[int], Details]) -> bool:
        key = (dataset, min(one, other), max(one, other))
        return self._known.get_or_make(key, lambda: of_one_picture(details(one), details(other)), lambda _: 1)

    def _details_of(self, dataset: DistinctDataset, index: int) -> Details:
        return self._details.get_or_make(
            (dataset.fingerprint, index), lambda: details_of(dataset.load(index)), lambda found: found.n_bytes
        )

    def _groups_of(self, dataset: DistinctDataset) -> np.ndarray:
        return self._groups.get_or_make(
            dataset.fingerprint, lambda: _groups(dataset), lambda found: found.nbytes
        )


def _groups(dataset: DistinctDataset) -> np.ndarray:
    """Return the number of each image's picture by the column `group`, int64 (images,); -1 where it says
    nothing.
    """
    try:
        column = labels_of(dataset, ColumnSettings(label=GROUP)).label
    except UsageError:
        column = Column((), np.full(len(dataset), -1, np.int64))
    if len(column.levels) > MOST_LEVELS:
        return column.values
    if column.levels:
        _log.warning(
            "the column %r of %s has %d values, which may be subgroups: it is taken for pictures from %d on",
            *(GROUP, dataset.name, len(column.levels), MOST_LEVELS + 1),
        )
    return np.full(len(dataset), -1, np.int64)


def details_of(image: Image) -> Details:
    """Return what an image is compared by."""
    from scipy import fft

    gray = image.to_pil().convert("L")
    # A large photograph is reduced once, to twice the largest size: not as a whole for each size.
    gray = gray.reduce(max(1, max(gray.size) // (2 * round(_SIDE * _SCALES[-1]))))
    sized = tuple(_details(gray, round(_SIDE * scale)) for scale in _SCALES)
    field = np.zeros((len(sized), _FIELD, _FIELD), np.float32)
    for place, each in enumerate(sized):
        field[place, : each.shape[0], : each.shape[1]] = each
    return Details(sized, fft.rfft2(field), np.sqrt(np.square(field, dtype=float).sum((1, 2))))


def _details(gray: PIL.Image.Image, side: int) -> np.ndarray:
    """Return the details of a picture of which the longer side has `side` pixels, contrast evened."""
    from scipy.ndimage import gaussian_filter

    scale = side / max(gray.size)
    width, height = (max(_BLOCK, round(scale * each)) for each in gray.size)
    values = np.asarray(gray.resize((width, height), PIL.Image.Resampling.BICUBIC), np.float32)
    details = gaussian_filter(values, _FINE) - gaussian_filter(values, _COARSE)
    evened: np.ndarray = details / (np.sqrt(gaussian_filter(np.square(details), _AROUND)) + 1)
    return evened


def of_one_picture(one: Details, other: Details) -> bool:
    """Return whether two images have a part in common."""
    from scipy import fft

    spectra = one.spectra[one.plain] * np.conj(other.spectra)
    surfaces = fft.irfft2(spectra, s=(_FIELD, _FIELD)).reshape(len(_SCALES), -1)
    peaks = surfaces.argmax(1)
    heights = surfaces[np.arange(len(peaks)), peaks] / np.maximum(other.norms, 1e-9)
    own = one.sized[one.plain]
    for size in np.argsort(-heights)[:_TRIED]:
        down, right = divmod(int(peaks[size]), _FIELD)
        down -= _FIELD * (down > own.shape[0])
        right -= _FIELD * (right > own.shape[1])
        if _agreement(own, other.sized[size], down, right) >= _AGREEING:
            return True
    return False


def _agreement(one: np.ndarray, other: np.ndarray, down: int, right: int) -> float:
    """Return the median correlation of the blocks of `one` with those of `other`, shifted by (down, right),
    that lie over them; 0 where fewer than _LEAST_BLOCKS show details.
    """
    top, left = max(0, down), max(0, right)
    height = (min(one.shape[0], down + other.shape[0]) - top) // _BLOCK
    width = (min(one.shape[1], right + other.shape[1]) - left) // _BLOCK
    if height < 1 or width < 1:
        return 0.0
    a = _blocks(one[top:, left:], height, width)
    b = _blocks(other[top - down :, left - right :], height, width)
    squares = np.square(a).mean(1), np.square(b).mean(1)
    shown = np.maximum(*squares) >= _PLAIN
    if shown.sum() < _LEAST_BLOCKS:
        return 0.0
    both = (a * b).mean(1)[shown] / np.maximum(np.sqrt(squares[0] * squares[1])[shown], 1e-9)
    return float(np.median(both))


def _blocks(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the first `height` x `width` blocks, float32 (height * width, _BLOCK ** 2)."""
    cut = values[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    return cut.swapaxes(1, 2).reshape(height * width, -1)
