"""Where wished-for objects go. Each object's luck depends on the seed and its place in the list alone, so
that "a dog" and "a cat" with one seed are a minimal pair: same place, same background, other animal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from actors.embedded.drawing.scene import Placed
from actors.embedded.drawing.vocabulary import concepts, vocabulary

_SIZES = {"tiny": 0.13, "small": 0.24, "medium": 0.42, "large": 0.66, "huge": 0.92}
_TRIES = 40


@dataclass(slots=True)
class Wish:
    """One object as asked for. `name` is a concept, a category, or "" for anything at all."""

    name: str
    color: str | None = None
    size: str | None = None
    positions: set[str] = field(default_factory=set)
    relation: str = ""
    anchor: int | None = None
    """Index, in the list of wishes, of the object that the relation refers to."""


def drawable(name: str, lacking: frozenset[str] = frozenset()) -> list[str]:
    """Return the concept of this name, or the members of this category; all concepts for "". None of
    `lacking`.
    """
    members = vocabulary().members(name) if name else concepts()
    return [concept.name for concept in members if concept.name not in lacking]


def choose(name: str, rng: np.random.Generator, lacking: frozenset[str] = frozenset()) -> str:
    """Return one of what is drawable under this name; there must be something."""
    members = drawable(name, lacking)
    return members[int(rng.integers(len(members)))]


def _base_size(n: int, rng: np.random.Generator) -> float:
    for most, low, high in (
        (1, 0.5, 0.74),
        (2, 0.37, 0.48),
        (4, 0.28, 0.37),
        (8, 0.2, 0.26),
        (99, 0.15, 0.2),
    ):
        if n <= most:
            return float(rng.uniform(low, high))
    return 0.15


def _target(positions: set[str]) -> tuple[float | None, float | None]:
    near, far = (0.17, 0.83) if "corner" in positions else (0.26, 0.74)
    x = near if "left" in positions else far if "right" in positions else None
    y = near if "top" in positions else far if "bottom" in positions else None
    if "center" in positions:
        x, y = 0.5 if x is None else x, 0.5 if y is None else y
    if "corner" in positions and x is None:
        x = near
    if "corner" in positions and y is None:
        y = near
    return x, y


def _beside(relation: str, anchor: Placed, size: float, side: float) -> tuple[float, float]:
    """Return the center of an object that stands in this relation to `anchor`; `side` is -1 or 1."""
    reach = 0.46 * (anchor.size + size)
    return {
        "left of": (anchor.x - reach, anchor.y),
        "right of": (anchor.x + reach, anchor.y),
        "above": (anchor.x, anchor.y - reach),
        "below": (anchor.x, anchor.y + reach),
        "on": (anchor.x, anchor.y - 0.4 * (anchor.size + size)),
        "worn by": (anchor.x, anchor.y - 0.42 * anchor.size),
        "held by": (anchor.x + side * 0.36 * anchor.size, anchor.y + 0.1 * anchor.size),
        "behind": (anchor.x + side * 0.3 * anchor.size, anchor.y - 0.2 * anchor.size),
        "in front of": (anchor.x + side * 0.2 * anchor.size, anchor.y + 0.28 * anchor.size),
        "in": (anchor.x, anchor.y + 0.08 * anchor.size),
    }.get(relation, (anchor.x + side * reach, anchor.y))


_SCALES = {"worn by": 0.45, "held by": 0.45, "in": 0.5, "on": 0.85}


def _overlap(x: float, y: float, size: float, others: Sequence[Placed]) -> float:
    worst = 0.0
    for other in others:
        gap = ((x - other.x) ** 2 + (y - other.y) ** 2) ** 0.5
        worst = max(worst, 1 - gap / (0.45 * (size + other.size)))
    return worst


def place(
    concept: str,
    wish: Wish,
    others: Sequence[Placed],
    anchor: Placed | None,
    n: int,
    rng: np.random.Generator,
) -> Placed:
    """Return the object, placed as wished among the others and, where nothing is wished, in free space.

    `n` is how many objects share the picture.
    """
    size = _SIZES[wish.size] * float(rng.uniform(0.92, 1.08)) if wish.size else _base_size(n, rng)
    flip, angle = bool(rng.random() < 0.5), round(float(rng.normal(0, 6)), 1)
    side = 1.0 if rng.random() < 0.5 else -1.0
    if anchor is not None:
        if not wish.size:
            size = anchor.size * _SCALES.get(wish.relation, 0.9)
        x, y = _spot_by(anchor, wish.relation, size, side, [other for other in others if other is not anchor])
    else:
        x, y = _free_spot(wish.positions, size, others, rng)
    return Placed(concept, round(x, 4), round(y, 4), round(size, 4), wish.color, flip, angle)


def _spot_by(
    anchor: Placed, relation: str, size: float, side: float, others: Sequence[Placed]
) -> tuple[float, float]:
    """Return the center of an object that stands in a relation to `anchor`, on the preferred `side` if free.

    The first spot is the plain meaning; the others are for when it is taken or out of the frame.
    """
    margin = min(size * 0.35, 0.45)
    best = (np.inf, 0.5, 0.5)
    for turn, shift in ((side, 0.0), (-side, 0.0), (side, 0.6), (-side, 0.6), (side, 1.2), (-side, 1.2)):
        ax, ay = _beside(relation, anchor, size, turn)
        drift = turn * shift * size
        ax, ay = (ax, ay + drift) if relation.endswith(" of") else (ax + drift, ay)
        bx, by = float(np.clip(ax, margin, 1 - margin)), float(np.clip(ay, margin, 1 - margin))
        outside = abs(bx - ax) + abs(by - ay)
        cost = max(_overlap(bx, by, size, others), 0.0) + 2 * outside + 0.1 * shift
        if cost < best[0] - 1e-6:
            best = (cost, bx, by)
    return best[1], best[2]


def _free_spot(
    positions: set[str], size: float, others: Sequence[Placed], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the center of an object in free space, near the wished-for `positions`."""
    x, y = _target(positions)
    low, high = min(size * 0.5, 0.46), max(1 - size * 0.5, 0.54)
    draws = rng.uniform(low, high, (_TRIES, 2))
    for axis, wished in ((0, x), (1, y)):
        if wished is not None:
            jittered = wished + rng.normal(0, 0.02, _TRIES)
            draws[:, axis] = np.clip(jittered, min(low, wished), max(high, wished))
    costs = [max(_overlap(px, py, size, others), 0.0) for px, py in draws]
    free = int(np.argmin(costs))
    return float(draws[free, 0]), float(draws[free, 1])


def arrange(
    wishes: Sequence[Wish], seed: int, lacking: frozenset[str] = frozenset()
) -> tuple[tuple[Placed, ...], list[str]]:
    """Return the objects in painting order, and the concept chosen for each wish in the order of wishes."""
    for wish in wishes:
        # What carries something stands low, so that there is room above it.
        if wish.anchor is not None and not wishes[wish.anchor].positions:
            room = {"on": "bottom", "worn by": "bottom", "above": "bottom", "below": "top"}.get(wish.relation)
            wishes[wish.anchor].positions |= {room} if room else set()
    chosen = [
        choose(wish.name, np.random.default_rng((seed, i, 1)), lacking) for i, wish in enumerate(wishes)
    ]
    placed: dict[int, Placed] = {}
    layers: dict[int, float] = {}
    waiting = list(range(len(wishes)))
    while waiting:
        ready = [i for i in waiting if wishes[i].anchor is None or wishes[i].anchor in placed]
        # Wishes that wait for each other: the first of them goes free.
        for i in ready or waiting[:1]:
            wish = wishes[i]
            anchor = placed.get(wish.anchor) if wish.anchor is not None else None
            rng = np.random.default_rng((seed, i, 2))
            base = layers[wish.anchor] if anchor is not None and wish.anchor is not None else 0.0
            layers[i] = base + (-1.0 if wish.relation == "behind" else 0.5 if anchor is not None else 0.0)
            placed[i] = place(chosen[i], wish, list(placed.values()), anchor, len(wishes), rng)
            waiting.remove(i)
    order = sorted(range(len(wishes)), key=lambda i: (layers[i], i))
    return tuple(placed[i] for i in order), chosen
