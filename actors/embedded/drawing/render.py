"""From a scene to pixels. Deterministic: equal scenes give equal pixels."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

import numpy as np
import PIL.Image

from actors.embedded.drawing import backgrounds
from actors.embedded.drawing.color import tint
from actors.embedded.drawing.scene import Placed, Scene
from actors.embedded.drawing.vocabulary import ASSETS, vocabulary

REVISION = 2
"""Raise when the same scene begins to give other pixels: it is part of every cache key."""


@lru_cache(maxsize=1)
def _atlas() -> tuple[np.ndarray, int, int]:
    facts = json.loads((ASSETS / "sprites.json").read_text("utf-8"))
    with PIL.Image.open(ASSETS / "sprites.webp") as image:
        return np.asarray(image.convert("RGBA")), facts["cell"], facts["columns"]


@lru_cache(maxsize=1)
def digest() -> str:
    """Return 12 hex digits that change with the sprites, the words or the renderer."""
    data = hashlib.blake2b(str(REVISION).encode(), digest_size=6)
    for name in ("sprites.webp", "sprites.json", "concepts.txt"):
        data.update((ASSETS / name).read_bytes())
    return data.hexdigest()


@lru_cache(maxsize=4096)
def sprite(concept: str, color: str | None = None) -> PIL.Image.Image:
    """Return the concept's sprite as RGBA with straight alpha, tinted where a color is given."""
    atlas, cell, columns = _atlas()
    index = vocabulary()[concept].index
    row, column = index // columns * cell, index % columns * cell
    pixels = atlas[row : row + cell, column : column + cell].copy()
    if color is not None:
        rgb = tint(pixels[..., :3].astype(np.float32) / 255, color, pixels[..., 3].astype(np.float32) / 255)
        pixels[..., :3] = (rgb * 255 + 0.5).astype(np.uint8)
    return PIL.Image.fromarray(pixels)


def stamp(placed: Placed, size: int) -> tuple[np.ndarray, int, int]:
    """Return an object's pixels, uint8 RGBA (h, w, 4), and the row and column of their corner."""
    image = sprite(placed.concept, placed.color)
    if placed.flip:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    side = max(3, round(placed.size * size))
    # Pillow multiplies by alpha before it resamples and divides afterwards: no fringe.
    small = side < image.width / 2
    resample = PIL.Image.Resampling.BOX if small else PIL.Image.Resampling.BICUBIC
    image = image.resize((side, side), resample)
    if abs(placed.angle) > 0.5:
        image = image.rotate(placed.angle, PIL.Image.Resampling.BILINEAR, expand=True)
    top, left = round(placed.y * size - image.height / 2), round(placed.x * size - image.width / 2)
    return np.asarray(image), top, left


def _compose(canvas: np.ndarray, pixels: np.ndarray, top: int, left: int) -> np.ndarray | None:
    """Lay RGBA pixels over the float canvas, in place; return their alpha on the whole canvas."""
    height, width = canvas.shape[:2]
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + pixels.shape[0], height), min(left + pixels.shape[1], width)
    if y1 <= y0 or x1 <= x0:
        return None
    part = pixels[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32) * (1 / 255)
    under = canvas[y0:y1, x0:x1]
    under += (part[..., :3] - under) * part[..., 3:]
    alpha = np.zeros((height, width), np.float32)
    alpha[y0:y1, x0:x1] = part[..., 3]
    return alpha


def render(scene: Scene, size: int = 224) -> np.ndarray:
    """Return the scene's picture, uint8 (size, size, 3)."""
    return render_with_masks(scene, size)[0]


def render_with_masks(scene: Scene, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture, uint8 (size, size, 3), and what is visible of each object, bool (n, size, size)."""
    canvas = backgrounds.paint(scene.background, scene.background_color, scene.texture, size)
    canvas = np.ascontiguousarray(canvas, np.float32)
    masks = np.zeros((len(scene.objects), size, size), bool)
    for i, placed in enumerate(scene.objects):
        alpha = _compose(canvas, *stamp(placed, size))
        if alpha is not None:
            solid = alpha > 0.5
            masks[:i] &= ~solid
            masks[i] = solid
    if scene.light != 1.0:
        canvas *= scene.light
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    canvas += 0.5
    return canvas.astype(np.uint8), masks
