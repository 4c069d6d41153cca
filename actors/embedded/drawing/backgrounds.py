"""The backgrounds: procedural textures, each with the words that ask for it.

A painter takes a random generator and a size in pixels and returns float32 (size, size, 3) in 0..1. Every
feature's scale is a fraction of the size, so that a scene looks alike at 96 and at 512 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import PIL.Image

from actors.embedded.drawing.vocabulary import COLORS

BackgroundPainter = Callable[[np.random.Generator, int], np.ndarray]


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array((red, green, blue), np.float32)


def _noise(rng: np.random.Generator, size: int, cells: int, stretch: float = 1.0) -> np.ndarray:
    """Return smooth noise float32 (size, size) in 0..1, `cells` blobs across; `stretch` > 1 widens them."""
    rows, columns = min(size, cells), min(size, max(2, round(cells / stretch)))
    grid = PIL.Image.fromarray(rng.random((rows, columns), np.float32))
    field = np.asarray(grid.resize((size, size), PIL.Image.Resampling.BICUBIC))
    return np.clip(field, 0, 1)


def _clouds(rng: np.random.Generator, size: int, cells: int = 4, stretch: float = 1.0) -> np.ndarray:
    total = _noise(rng, size, cells, stretch) * 0.55
    total += _noise(rng, size, cells * 2 + 1, stretch) * 0.28
    total += _noise(rng, size, cells * 5 + 1, stretch) * 0.17
    return total


def _between(low: tuple[int, int, int], high: tuple[int, int, int], t: np.ndarray) -> np.ndarray:
    a, b = np.array(low, np.float32) / 255, np.array(high, np.float32) / 255
    return a + (b - a) * np.clip(t, 0, 1)[..., None]


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x in 0..1, each float32 (size, size)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.repeat(line[:, None], size, 1), np.repeat(line[None], size, 0)


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    return _noise(rng, size, 100)


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    blades = _noise(rng, size, 110, 0.3) if size < 110 else _noise(rng, size, 34, 0.3)
    t = 0.5 * blades + 0.3 * _clouds(rng, size, 3) + 0.2 * _grain(rng, size)
    return _between((38, 92, 24), (142, 200, 74), t * 1.3 - 0.15)


def _sand(rng: np.random.Generator, size: int) -> np.ndarray:
    t = 0.5 * _grain(rng, size) + 0.5 * _clouds(rng, size, 5)
    return _between((206, 172, 118), (246, 224, 178), t)


def _beach(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    shore = rng.uniform(0.3, 0.5) + 0.03 * np.sin(x * rng.uniform(4, 9) + rng.uniform(0, 6))
    sea = _between((34, 128, 186), (108, 206, 220), y / shore * 0.8 + 0.3 * _clouds(rng, size, 12, 5) - 0.2)
    foam = np.clip(1 - np.abs(y - shore) / 0.022, 0, 1)[..., None]
    picture = np.where((y > shore)[..., None], _sand(rng, size), sea)
    return picture * (1 - foam) + foam * 0.97


def _snow(rng: np.random.Generator, size: int) -> np.ndarray:
    t = 0.75 * _clouds(rng, size, 4, 2) + 0.25 * _grain(rng, size)
    return _between((196, 214, 236), (255, 255, 255), t * 1.5 - 0.2)


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    ripples = np.abs(_clouds(rng, size, 16, 3.5) * 2 - 1)
    t = 0.7 * ripples * 2 + 0.3 * _clouds(rng, size, 3)
    return _between((16, 84, 148), (128, 214, 232), t)


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _axes(size)
    base = _between((62, 140, 226), (178, 218, 250), y * 0.9 + rng.uniform(-0.1, 0.1))
    cloud = np.clip(_clouds(rng, size, 4, 2) * 3.2 - rng.uniform(1.5, 1.9), 0, 1)[..., None]
    return base * (1 - cloud) + cloud * 0.98


def _night(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _axes(size)
    picture = _between((8, 10, 34), (34, 40, 92), y * 0.8 + 0.4 * _clouds(rng, size, 3) - 0.2)
    rows, columns = rng.random((2, 90))
    bright = rng.uniform(0.4, 1, 90).astype(np.float32)
    spread = max(1, size // 150)
    for row, column, light in zip(
        (rows * size).astype(int), (columns * size).astype(int), bright, strict=True
    ):
        picture[row : row + spread, column : column + spread] = light
    return picture


def _sunset(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _axes(size)
    t = y + 0.16 * (_clouds(rng, size, 5, 4) - 0.5)
    low = _between((92, 48, 128), (240, 96, 84), t * 2)
    high = _between((240, 96, 84), (255, 208, 112), t * 2 - 1)
    return np.where((t < 0.5)[..., None], low, high)


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    rows = rng.integers(8, 13)
    row = np.floor(y * rows)
    column = x * rows / 2 + 0.5 * (row % 2)
    tone = rng.random((rows + 1, rows + 2), np.float32)[row.astype(int), np.floor(column).astype(int)]
    picture = _between((134, 52, 36), (204, 104, 72), 0.6 * tone + 0.4 * _grain(rng, size))
    mortar = ((y * rows) % 1 < 0.11) | (column % 1 < 0.06)
    return np.where(mortar[..., None], _rgb(0.78, 0.74, 0.7), picture)


def _desert(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    bend = 0.09 * np.sin(x * rng.uniform(5, 9) + rng.uniform(0, 6)) + 0.2 * _noise(rng, size, 3)
    ridges = ((y + bend) * rng.uniform(5, 8)) % 1
    return _between((178, 98, 42), (244, 180, 102), 0.75 * ridges + 0.25 * _grain(rng, size))


def _forest(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = _between(
        (10, 38, 20), (58, 116, 48), 0.7 * _clouds(rng, size, 12) * 1.3 + 0.3 * _grain(rng, size)
    )
    _, x = _axes(size)
    for center in rng.uniform(0, 1, rng.integers(5, 9)):
        width = rng.uniform(0.012, 0.03)
        trunk = np.abs(x - center) < width
        shade = _rgb(0.26, 0.17, 0.1) * rng.uniform(0.7, 1.2)
        picture = np.where(trunk[..., None], shade, picture)
    leaves = np.clip(_clouds(rng, size, 16) * 5 - 2.6, 0, 1)[..., None]
    return picture * (1 - leaves) + leaves * _rgb(0.14, 0.34, 0.12)


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    y, _ = _axes(size)
    planks = rng.integers(4, 7)
    row = np.floor(y * planks).astype(int)
    rings = 0.5 + 0.5 * np.sin((y * 60 + 7 * _noise(rng, size, 5, 4)) + row * 9)
    tone = rng.random(planks + 1, np.float32)[row]
    picture = _between(
        (120, 74, 38), (206, 150, 94), 0.45 * rings * 0.8 + 0.35 * tone + 0.3 * _noise(rng, size, 60, 8)
    )
    gap = (y * planks) % 1 < 0.03
    return np.where(gap[..., None], _rgb(0.22, 0.13, 0.07), picture)


def _room(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    floor = rng.uniform(0.62, 0.78)
    walls = ((228, 214, 190), (204, 216, 206), (210, 204, 222), (234, 206, 196), (220, 220, 216))
    wall = np.array(walls[rng.integers(len(walls))], np.float32) / 255
    stripes = 0.03 * (np.floor(x * rng.integers(10, 18)) % 2)[..., None]
    picture = wall - stripes + 0.04 * (_noise(rng, size, 3)[..., None] - 0.5)
    picture = np.where((y > floor)[..., None], _wood(rng, size), picture)
    skirting = (y > floor - 0.035) & (y < floor)
    return np.where(skirting[..., None], _rgb(0.97, 0.96, 0.94), picture).astype(np.float32)


def _road(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = _axes(size)
    picture = _between((66, 66, 70), (112, 112, 116), 0.6 * _grain(rng, size) + 0.4 * _clouds(rng, size, 4))
    center = rng.uniform(0.4, 0.6)
    line = (np.abs(x - center) < 0.016) & ((y * 5 + rng.random()) % 1 < 0.6)
    edge = np.abs(np.abs(x - center) - 0.36) < 0.01
    return np.where((line | edge)[..., None], _rgb(0.94, 0.92, 0.84), picture)


def _mud(rng: np.random.Generator, size: int) -> np.ndarray:
    t = 0.7 * np.abs(_clouds(rng, size, 7) * 2 - 1) * 1.8 + 0.3 * _grain(rng, size)
    return _between((62, 40, 24), (136, 100, 66), t)


def _stone(rng: np.random.Generator, size: int) -> np.ndarray:
    n = rng.integers(5, 8)
    px, py = rng.random((2, n * n)).astype(np.float32)
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)
    points = (grid + 0.15 + 0.7 * np.stack((px, py), 1)).astype(np.float32) / n
    small = 96
    line = (np.arange(small, dtype=np.float32) + 0.5) / small
    dx = line[None, :, None] - points[:, 0]
    dy = line[:, None, None] - points[:, 1]
    far = dx * dx + dy * dy
    two = np.sqrt(np.partition(far, 1, axis=2)[..., :2])
    tone = rng.random(n * n, np.float32)[far.argmin(2)]
    cell = _between((104, 102, 100), (176, 172, 166), tone)
    gap = np.clip((two[..., 1] - two[..., 0]) * n * 5, 0, 1)[..., None]
    coarse = PIL.Image.fromarray((cell * (0.35 + 0.65 * gap) * 255).astype(np.uint8))
    picture = np.asarray(coarse.resize((size, size), PIL.Image.Resampling.BILINEAR), np.float32) / 255
    return picture * (0.86 + 0.28 * _grain(rng, size)[..., None])


def _city(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = _between((150, 190, 226), (232, 226, 214), _axes(size)[0])
    for depth in (0.0, 0.5):
        left = 0.0
        while left < 1:
            width, top = rng.uniform(0.09, 0.2), rng.uniform(0.12, 0.5) + depth * 0.3
            shade = float(rng.uniform(0.3, 0.62)) - depth * 0.2
            x0, x1, y0 = int(left * size), int(min(1, left + width) * size), int(top * size)
            picture[y0:, x0:x1] = _rgb(0.9, 0.95, 1.08) * shade
            step = max(3, size // 28)
            lit = rng.random((size // step + 1, size // step + 1)) < 0.5
            for i, wy in enumerate(range(y0 + step // 2, size, step)):
                for j, wx in enumerate(range(x0 + step // 3, x1 - step // 2, step)):
                    if lit[i % len(lit), j % len(lit)]:
                        picture[wy : wy + step // 2, wx : wx + step // 2] = _rgb(0.98, 0.9, 0.6)
            left += width
    return picture


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    """A nearly even surface; the scene tints it, white unless a color is named."""
    y, x = _axes(size)
    slope = rng.uniform(-0.05, 0.05) * (x - 0.5) + rng.uniform(-0.05, 0.05) * (y - 0.5)
    return np.clip(0.95 + slope + 0.012 * (_noise(rng, size, 24) - 0.5), 0, 1)[..., None].repeat(3, 2)


BACKGROUNDS: dict[str, BackgroundPainter] = {
    "grass": _grass,
    "beach": _beach,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "sky": _sky,
    "night": _night,
    "sunset": _sunset,
    "brick wall": _bricks,
    "desert": _desert,
    "forest": _forest,
    "wood": _wood,
    "room": _room,
    "road": _road,
    "mud": _mud,
    "stone": _stone,
    "city": _city,
    "plain background": _plain,
}
"""How each background is painted, by its canonical name."""


def paint(name: str, color: str | None, seed: int, size: int) -> np.ndarray:
    """Return float32 (size, size, 3) in 0..1 of a background, tinted where a color is given."""
    rng = np.random.default_rng(seed)
    picture = BACKGROUNDS[name](rng, size).astype(np.float32)
    if color is None:
        return picture
    shade = picture.mean(2, keepdims=True)
    target = np.array(COLORS[color], np.float32) / 255
    return np.clip(target * (0.35 + 0.65 * shade / max(float(shade.mean()), 0.05)), 0, 1)
