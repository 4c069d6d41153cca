"""Paints a unit's activation map onto the image: what excites it stays bright, the rest is darkened."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image

from actors.errors import UsageError
from actors.images import Image

RED = (255, 0, 0)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def paint(
    image: Image,
    map: np.ndarray,
    threshold: float,
    view: tuple[float, float, float, float] = WHOLE,
) -> Image:
    """Return the image with the region where the map is above `threshold` outlined in red.

    The map, (h, w) in the unit's own scale, is enlarged bilinearly over `view`, the part of the image that the
    network saw (top, left, bottom, right as fractions). Inside the region pixels keep their brightness;
    elsewhere they have a quarter of it. If nothing is above the threshold, nothing is outlined. The
    threshold is the unit's 0.95 quantile over a data set, as in MAIA, unless the caller says otherwise.

    Raises:
        UsageError: If the map is not two-dimensional or the threshold is not a number.
    """
    if map.ndim != 2 or 0 in map.shape:
        raise UsageError(f"an activation map must be (h, w), got shape {map.shape}")
    if math.isnan(threshold):
        raise UsageError("the threshold of a mask must be a number, got nan")
    region = active_region(map, threshold, image.size, view)
    painted = image.pixels >> 2
    if region.any():
        # Bitwise, as selecting with a boolean mask takes several times as long.
        bright = np.repeat(region.view(np.uint8) * np.uint8(255), 3, axis=1).reshape(painted.shape)
        painted = (image.pixels & bright) | (painted & ~bright)
        width = max(1, round(min(image.size) / 112))
        painted[region & ~_eroded(region, width)] = RED
    painted.flags.writeable = False
    return Image.from_pixels(painted)


def active_region(
    map: np.ndarray,
    threshold: float,
    size: tuple[int, int],
    view: tuple[float, float, float, float] = WHOLE,
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


def _eroded(region: np.ndarray, width: int) -> np.ndarray:
    """Return the part of a region that is more than `width` pixels from its edge; the image's edge is one."""
    inner = region
    for axis in (0, 1):
        along = np.moveaxis(inner, axis, 0)
        length = len(along)
        if length <= 2 * width:
            return np.zeros_like(region)
        shrunk = np.zeros_like(along)
        core = along[width : length - width].copy()
        for shift in range(-width, width + 1):
            core &= along[width + shift : length - width + shift]
        shrunk[width : length - width] = core
        inner = np.moveaxis(shrunk, 0, axis)
    return inner
