"""Which named color pixels have, and how to give them another one while keeping their shading."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from actors.embedded.drawing.vocabulary import COLORS

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_HUES = {
    "red": 0,
    "orange": 27,
    "yellow": 49,
    "green": 125,
    "cyan": 185,
    "blue": 220,
    "purple": 277,
    "pink": 322,
}


def names_of(pixels: np.ndarray) -> np.ndarray:
    """Return, for uint8 pixels (..., 3), which color each has: int (...) into the list of COLORS."""
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    saturation = spread / np.maximum(high, 1e-6)
    hue = _hue(rgb)
    light = rgb @ _LUMA
    names = list(COLORS)
    hues = np.array(list(_HUES.values()), np.float32)
    nearest = np.abs((hue[..., None] - hues + 180) % 360 - 180).argmin(-1)
    named = np.array([names.index(name) for name in _HUES])[nearest]
    warm = np.isin(named, [names.index(name) for name in ("red", "orange", "yellow")])
    # Brown is a dark, or a pale and dim, orange; a pale red is pink.
    dim = ((high < 0.62) & (saturation < 0.75)) | ((saturation < 0.5) & (high < 0.85) & (hue > 8))
    brown = warm & dim & ((hue < 52) | (hue > 335))
    pale = (named == names.index("red")) & (saturation < 0.55) & (high > 0.7) & ~brown
    named = np.where(brown, names.index("brown"), np.where(pale, names.index("pink"), named))
    gray = np.where(
        light >= 0.78, names.index("white"), np.where(light < 0.27, names.index("black"), names.index("gray"))
    )
    return np.where((saturation > 0.28) & (high > 0.22), named, gray)


def name_of(pixels: np.ndarray) -> str:
    """Return the color, of `COLORS`, that most of the pixels (uint8, (n, 3)) have; "gray" if there are
    none.
    """
    if len(pixels) == 0:
        return "gray"
    return list(COLORS)[int(np.bincount(names_of(pixels.reshape(-1, 3)), minlength=len(COLORS)).argmax())]


def tint(rgb: np.ndarray, color: str, weight: np.ndarray) -> np.ndarray:
    """Return float32 (H, W, 3) in 0..1 of the named color, shaded as `rgb` was (same range and shape).

    `weight` (H, W) says which pixels are the object (a sprite's alpha). Its main hues are painted; gray parts
    (eyes, tyres, stripes) and small parts of other hues (leaves, windows) stay, as a painter would leave
    them. A gray object is painted as a whole. Light parts go towards white and dark ones towards black.
    """
    area = _body(rgb, weight)
    light = rgb @ _LUMA
    total = float((area * weight).sum())
    middle = float((light * area * weight).sum() / total) if total > 0 else 0.5
    target = np.array(COLORS[color], np.float32) / 255
    shade = (light - middle)[..., None]
    up = target + (1.0 - target) * np.clip(shade, 0, 0.7) * 1.1
    painted = np.clip(up * (1.0 + np.clip(shade, -0.6, 0) * 1.5), 0, 1)
    mixed: np.ndarray = rgb + (painted - rgb) * area[..., None]
    return mixed.astype(np.float32)


def _body(rgb: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return how much of each pixel a tint covers, float32 (H, W) in 0..1."""
    high, spread = rgb.max(2), np.ptp(rgb, axis=2)
    light = rgb @ _LUMA
    vivid = np.clip((spread / np.maximum(high, 1e-6) * np.minimum(high * 2, 1) - 0.16) / 0.16, 0, 1)
    share = vivid * weight
    if float(share.sum()) < 0.45 * float(weight.sum()):
        gray: np.ndarray = np.clip((light - 0.1) / 0.12, 0, 1)
        return gray
    hue = _hue(rgb)
    counts, edges = np.histogram(hue, bins=36, range=(0, 360), weights=share)
    near = np.zeros_like(hue)
    # One hue with its neighbors; further ones until more than half of the colored part is painted.
    while float((near * share).sum()) < 0.6 * float(share.sum()) and counts.any():
        main = float(edges[int(counts.argmax())]) + 5.0
        near = np.maximum(near, np.clip((62 - np.abs((hue - main + 180) % 360 - 180)) / 16, 0, 1))
        counts[np.abs((edges[:-1] + 5.0 - main + 180) % 360 - 180) < 55] = 0
    body: np.ndarray = ndimage.gaussian_filter(near * vivid, 0.6)
    return body


def _hue(rgb: np.ndarray) -> np.ndarray:
    """Return the hue of RGB values (..., 3) in degrees, 0 for gray."""
    high, safe = rgb.max(-1), np.maximum(np.ptp(rgb, axis=-1), 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sixths = np.where(
        high == r, ((g - b) / safe) % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)
    )
    degrees: np.ndarray = sixths * 60
    return degrees
