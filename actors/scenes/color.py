"""Which named colour pixels have, and how to give them another one while keeping their shading."""

from __future__ import annotations

import numpy as np

from actors.scenes.vocabulary import COLORS

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
    """Return, for uint8 pixels (..., 3), which colour each has: int (...) into the list of COLORS."""
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    spread = high - low
    saturation = spread / np.maximum(high, 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    safe = np.maximum(spread, 1e-6)
    hue = (
        np.where(high == r, ((g - b) / safe) % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
        * 60
    )
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
    """Return the colour, of `COLORS`, that most of the pixels (uint8, (n, 3)) have; "gray" if there are none."""
    if len(pixels) == 0:
        return "gray"
    return list(COLORS)[int(np.bincount(names_of(pixels.reshape(-1, 3)), minlength=len(COLORS)).argmax())]


def tint(rgb: np.ndarray, color: str, weight: np.ndarray) -> np.ndarray:
    """Return float32 (H, W, 3) in 0..1 of the named colour, shaded as `rgb` was (same range and shape).

    `weight` (H, W) says which pixels count when the shading's middle is found (the sprite's alpha). Light
    parts go towards white and dark ones towards black around that middle, so that form stays visible.
    """
    light = rgb @ _LUMA
    total = float(weight.sum())
    middle = float((light * weight).sum() / total) if total > 0 else 0.5
    target = np.array(COLORS[color], np.float32) / 255
    # The deviation is compressed: a black car keeps its windows without turning gray as a whole.
    shade = np.clip((light - middle) * 0.75, -0.55, 0.55)[..., None]
    up = target + (1.0 - target) * np.clip(shade, 0, 1) * 1.2
    return np.clip(up * (1.0 + np.clip(shade, -1, 0) * 1.3), 0, 1).astype(np.float32)
