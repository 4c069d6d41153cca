"""Recognize, from pixels alone, an image that was darkened outside a region with a red outline.

That is how a unit's exemplars are shown: the region that drives the unit keeps its brightness.
"""

from __future__ import annotations

import numpy as np

from actors.images import Image

DARKENING = 0.25
"""What is left of the brightness outside the region."""
_LIMIT = 78
"""No darkened pixel is brighter than this: 255 times DARKENING, and room for JPEG."""


def visible_region(image: Image) -> np.ndarray | None:
    """Return the bright region, bool (H, W), or None if the image was not darkened around one.

    A red line must part areas that are dark throughout from areas that are not: a night scene has no line,
    and a red object is no line.
    """
    from scipy import ndimage

    pixels = image.pixels.astype(np.int16)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    line = (red > 120) & (red - green > 70) & (red - blue > 70)
    if not line.any():
        return None
    dark = pixels.max(2) <= _LIMIT
    if dark.mean() < 0.02:
        return None
    areas, n_areas = ndimage.label(~line)
    if n_areas == 0:
        return None
    sizes = np.bincount(areas.ravel(), minlength=n_areas + 1)
    darks = np.bincount(areas.ravel(), weights=dark.ravel(), minlength=n_areas + 1)
    shaded = darks >= 0.97 * np.maximum(sizes, 1)
    shaded[0] = False
    outside = shaded[areas]
    if not 0.01 <= outside.mean() < 1.0:
        return None
    # The line is what borders the dark, nearly everywhere (in small images it is one pixel wide); and it ends
    # a few pixels further in.
    rims = [ndimage.binary_dilation(outside, iterations=width) & ~outside for width in (1, 2)]
    if not rims[0].any() or max(line[rim].mean() for rim in rims) < 0.6:
        return None
    rim = rims[1]
    inner = ndimage.binary_dilation(outside, iterations=8) & ~ndimage.binary_dilation(outside, iterations=5)
    if inner.sum() > 0.5 * rim.sum() and line[inner].mean() > 0.7:
        return None
    visible: np.ndarray = ~outside
    return visible


def restore(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return uint8 pixels with the darkened outside of `region` as bright as it was, but for rounding."""
    bright = np.minimum(pixels.astype(np.float32) / DARKENING, 255).astype(np.uint8)
    return np.where(region[..., None], pixels, bright)
