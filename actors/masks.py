"""Paints a unit's activation map onto the image: what excites it stays bright, the rest is darkened.

What is painted is a mask, three shades over a picture, so that a store can keep the mask (a kilobyte or two,
as a PNG that darkens and outlines what it is laid over) in place of the painted pixels (some twenty times
as many).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from actors.errors import UsageError
from actors.images import MAX_SIDE, Image, ImageDecodeError, Painted

RED = (255, 0, 0)
WHOLE = (0.0, 0.0, 1.0, 1.0)
_OUTLINE = 2
_SHIFTS = np.array([2, 0, 0], np.uint8)
"""Bits by which dark, bright and outlined pixels are shifted: dark ones keep a quarter."""
_COLORS = [0, 0, 0, 0, 0, 0, *RED]
_OPACITY = bytes([191, 0, 255])
"""Of dark, bright and outline: black at 191 of 255 leaves a quarter of what is beneath."""
_BENEATH = "beneath"
"""Key of the PNG's text that names the picture which the mask belongs on."""


def paint(
    image: Image, map: np.ndarray, threshold: float, view: tuple[float, float, float, float] = WHOLE
) -> Image:
    """Return the image with the region where the map is above `threshold` outlined in red.

    The map, (h, w) in the unit's own scale, is enlarged bilinearly over `view`, the part of the image that
    the network saw (top, left, bottom, right as fractions). Inside the region pixels keep their brightness;
    elsewhere they have a quarter of it. If nothing is above the threshold, nothing is outlined. The threshold
    is the unit's 0.95 quantile over a data set, as in MAIA, unless the caller says otherwise.

    Raises:
        UsageError: If the map is not two-dimensional or the threshold is not a number.
    """
    if map.ndim != 2 or 0 in map.shape:
        raise UsageError(f"an activation map must be (h, w), got shape {map.shape}")
    if math.isnan(threshold):
        raise UsageError("the threshold of a mask must be a number, got nan")
    region = active_region(map, threshold, image.size, view)
    mask = region.view(np.uint8).copy()
    if region.any():
        width = max(1, round(min(image.size) / 112))
        mask[region & ~eroded(region, width)] = _OUTLINE
    return lay(mask, image)


def lay(mask: np.ndarray, image: Image) -> Image:
    """Return the image under a mask, uint8 (height, width): 0 a quarter as bright, 1 as it is, 2 red.

    Raises:
        UsageError: If the mask has another size than the image.
    """
    if mask.shape != image.size:
        raise UsageError(f"a mask must have the size of its image, {image.size}, got {mask.shape}")
    # Repeated and by position: a mask that is broadcast over three colors takes several times as long.
    painted = image.pixels >> np.repeat(_SHIFTS[mask], 3, axis=1).reshape(image.pixels.shape)
    painted.reshape(-1, 3)[np.flatnonzero(mask == _OUTLINE)] = RED
    painted.flags.writeable = False
    return Image.from_pixels(painted, Painted(image, mask))


def encode_mask(mask: np.ndarray, beneath: str) -> bytes:
    """Return a mask as a PNG that names its image, and looks right when it is laid over that."""
    picture = PIL.Image.fromarray(mask, "P")
    picture.putpalette(_COLORS)
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text(_BENEATH, beneath)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=_OPACITY, bits=2, compress_level=1, pnginfo=info)
    return buffer.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """Return the mask, uint8 (height, width), of `encode_mask`'s bytes.

    Raises:
        ImageDecodeError: If they are not.
    """
    with _reading(data) as picture:
        mask = np.asarray(picture)
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ImageDecodeError("not a mask: a PNG of another kind")
    if mask.size and mask.max() > _OUTLINE:
        raise ImageDecodeError("not a mask: a PNG of more than three shades")
    return mask


def beneath(data: bytes) -> str:
    """Return the id of the image that an encoded mask belongs on; the mask itself is not decoded.

    Raises:
        ImageDecodeError: If `encode_mask` did not make these bytes.
    """
    with _reading(data) as picture:
        named = picture.info.get(_BENEATH)
    if not isinstance(named, str):
        raise ImageDecodeError("not a mask: a PNG that names no image")
    return named


@contextmanager
def _reading(data: bytes) -> Iterator[PIL.Image.Image]:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if max(picture.size) > MAX_SIDE:
                raise ImageDecodeError(f"a mask's sides must be at most {MAX_SIDE}, got {picture.size}")
            yield picture
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        raise ImageDecodeError(f"not a readable mask: {type(error).__name__}: {error}") from error


def active_region(
    map: np.ndarray, threshold: float, size: tuple[int, int], view: tuple[float, float, float, float] = WHOLE
) -> np.ndarray:
    """Return bool (height, width): where the map, enlarged over `view`, is above `threshold`."""
    height, width = size
    top, bottom = round(view[0] * height), round(view[2] * height)
    left, right = round(view[1] * width), round(view[3] * width)
    small = PIL.Image.fromarray(np.ascontiguousarray(map, dtype=np.float32))
    shape = (max(1, right - left), max(1, bottom - top))
    seen = np.asarray(small.resize(shape, PIL.Image.Resampling.BILINEAR)) > threshold
    region = np.zeros(size, bool)
    # A view may reach beyond the image, where its input was padded.
    inside = seen[max(0, -top) : height - top, max(0, -left) : width - left]
    region[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = (
        inside
    )
    return region


def eroded(region: np.ndarray, width: int) -> np.ndarray:
    """Return the part of a region that is more than `width` pixels from its edge; the image's edge is one."""
    length = 2 * width + 1
    return _all_of(_all_of(np.pad(region, width), length).T, length).T


def _all_of(rows: np.ndarray, length: int) -> np.ndarray:
    """Return whether all of `length` rows are true, from each row that has so many; by doubling."""
    known = 1
    while 2 * known <= length:
        rows = rows[:-known] & rows[known:]
        known *= 2
    rest = length - known
    return rows[:-rest] & rows[rest:] if rest else rows
