"""Masks of single objects become one mask of a concept, grown as MAIA grows it (C2)."""

from __future__ import annotations

import numpy as np

DILATION_SIDE = 224
"""Longer side in pixels of the image in which dilations are measured."""


def merged(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the union, bool (H, W), of bool masks (n, H, W); n may be 0."""
    union: np.ndarray = np.zeros(size, dtype=bool)
    for mask in masks:
        union |= mask
    return union


def dilated(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Return bool (H, W): every pixel within `radius_px` of one in `mask`, by Euclid's distance."""
    if radius_px <= 0 or not mask.any():
        return mask
    from scipy import ndimage

    near: np.ndarray = ndimage.distance_transform_edt(~mask) <= radius_px
    return near


def radius_for(size: tuple[int, int], dilation_px: float) -> float:
    """Return `dilation_px`, given for an image whose longer side is 224, in pixels of an image of `size`."""
    return dilation_px * max(size) / DILATION_SIDE


def dilated_as_authors(mask: np.ndarray, iterations: int = 9) -> np.ndarray:
    """Return `mask` dilated `iterations` times by OpenCV's 5x5 ellipse, as MAIA's code does at 224 px."""
    if not mask.any():
        return mask
    from scipy import ndimage

    ellipse = np.ones((5, 5), dtype=bool)
    ellipse[[0, 0, 0, 0, 4, 4, 4, 4], [0, 1, 3, 4, 0, 1, 3, 4]] = False
    grown: np.ndarray = ndimage.binary_dilation(mask, ellipse, iterations=iterations)
    return grown


def resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return `mask` as bool `size` (H, W), each pixel that of the nearest one."""
    if mask.shape == size:
        return mask
    rows = (np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]
    return mask[rows.astype(int)[:, None], columns.astype(int)[None, :]]
