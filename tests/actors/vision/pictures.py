"""Photographs and what people do to them, for tests of data sets."""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image


@cache
def photographs(n: int = 40, side: int = 96) -> tuple[PIL.Image.Image, ...]:
    """Return distinct pictures: parts of the two photographs of scikit-learn that do not overlap."""
    (library,) = find_spec("sklearn").submodule_search_locations  # type: ignore[union-attr, misc]
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        photograph = np.asarray(PIL.Image.open(Path(library) / "datasets" / "images" / name))
        for top in range(0, photograph.shape[0] - side, side):
            for left in range(0, photograph.shape[1] - side, side):
                parts.append(PIL.Image.fromarray(photograph[top : top + side, left : left + side]))
    assert len(parts) >= n
    return tuple(parts[:n])


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def folder_of(path: Path, n: int, seed: int = 0) -> Path:
    """Write `n` distinct small pictures into a folder, in an order that the seed draws."""
    path.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(n)
    for place, which in enumerate(order.tolist()):
        patches = np.random.default_rng(1000 + which).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        PIL.Image.fromarray(patches).resize((32, 32)).save(path / f"{place:04}.png")
    return path
