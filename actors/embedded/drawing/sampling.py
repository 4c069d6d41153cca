"""Random scenes: what the concept net learns from, and what it is measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.scene import Placed, Scene
from actors.embedded.drawing.vocabulary import COLORS, PLAIN, concepts

_NAMES = tuple(BACKGROUNDS)


def _pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def random_scene(
    rng: np.random.Generator,
    n_objects: int | None = None,
    *,
    named: Sequence[str] = (),
    background: str | None = None,
    tinted: float = 0.3,
) -> Scene:
    """Return a scene of `n_objects` (1 to 4 at random by default) on a random background.

    `named` and `background` fix the first objects' concepts and the background; a share `tinted` of the
    objects has another color than its own.
    """
    n = n_objects if n_objects is not None else int(rng.choice(4, p=(0.4, 0.28, 0.2, 0.12))) + 1
    names = [concept.name for concept in concepts()]
    colors = tuple(COLORS)
    objects: list[Placed] = []
    for i in range(n):
        low, high = ((0.3, 0.9), (0.26, 0.55), (0.22, 0.42), (0.18, 0.36))[min(n, 4) - 1]
        size = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if n == 1 and rng.random() < 0.12:
            size = float(rng.uniform(0.14, 0.3))
        margin = min(0.42 * size, 0.45)
        spots = rng.uniform(margin, 1 - margin, (8, 2))
        gaps = [
            min((np.hypot(x - o.x, y - o.y) / (size + o.size) for o in objects), default=1.0)
            for x, y in spots
        ]
        x, y = spots[int(np.argmax(gaps))] if rng.random() < 0.8 else spots[0]
        angle = float(rng.uniform(-180, 180) if rng.random() < 0.06 else rng.normal(0, 9))
        objects.append(
            Placed(
                named[i] if i < len(named) else _pick(rng, names),
                round(float(x), 4),
                round(float(y), 4),
                round(size, 4),
                _pick(rng, colors) if rng.random() < tinted else None,
                bool(rng.random() < 0.5),
                round(angle, 1),
            )
        )
    place = background or _pick(rng, _NAMES)
    chance = 0.7 if place == PLAIN else 0.05
    shade = _pick(rng, colors) if rng.random() < chance else None
    light = round(float(rng.uniform(0.8, 1.15)), 3)
    return Scene(place, shade, tuple(objects), int(rng.integers(2**31)), light)
