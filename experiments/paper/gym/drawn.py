"""Units drawn at random from the embedded vocabulary, within what a stand-in knows and out of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from actors.detection.compose import Formula
from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.lexicon import read
from actors.embedded.drawing.phrases import understand
from actors.embedded.drawing.vocabulary import COLORS, PLAIN, vocabulary
from actors.errors import UsageError
from experiments.paper.gym.neurons import GymUnit

ConceptSort = Literal["thing", "category", "background", "colour"]
FormulaKind = Literal["mono", "or", "given"]

_MONO: tuple[ConceptSort, ...] = ("thing",) * 5 + ("category",) * 2 + ("background",) * 2 + ("colour",)
_OR: tuple[ConceptSort, ...] = ("thing",) * 4 + ("category", "background")
_FIRST: tuple[ConceptSort, ...] = ("thing",) * 4 + ("category",)
_SECOND: tuple[ConceptSort, ...] = ("thing",) * 4 + ("background",) * 3 + ("category",)
_LEAST_MEMBERS = 4
_TRIES = 1000


def drawn(count: int, seed: int, lacking: Collection[str] = ()) -> list[GymUnit]:
    """Return `count` units of each kind (A, A OR B, A|B), no concept of `lacking` among them; each seed draws
    others.

    Left out are pairs whose parts have something in common, and two backgrounds: nothing could distinguish
    the parts.
    """
    rng = random.Random(f"drawn/{seed}")

    def name(sorts: Sequence[ConceptSort]) -> str:
        return _name(rng, sorts, lacking)

    return [
        *_distinct(count, "mono", lambda _: (name(_MONO),)),
        *_distinct(count, "or", lambda _: (name(_OR), name(_OR))),
        *_distinct(count, "given", lambda _: (name(_FIRST), name(_SECOND))),
    ]


def out_of_reach(count: int, seed: int, lacking: Collection[str]) -> list[GymUnit]:
    """Return `count` units of each kind that no image without the concepts of `lacking` drives.

    Of a conditional unit the first, the second or both concepts are among them, in turn; of the others all.
    """
    rng = random.Random(f"out of reach/{seed}")
    unknown = sorted(name for name in lacking if _plain(name))

    def conditional(turn: int) -> tuple[str, ...]:
        first, second = rng.sample(unknown, 2)
        known = _name(rng, _FIRST if turn % 3 else _SECOND, lacking)
        return ((first, known), (known, second), (first, second))[turn % 3]

    return [
        *_distinct(count, "mono", lambda _: (rng.choice(unknown),)),
        *_distinct(count, "or", lambda _: tuple(rng.sample(unknown, 2))),
        *_distinct(count, "given", conditional),
    ]


def reachable(unit: GymUnit, lacking: Collection[str]) -> bool:
    """Return whether an image without the concepts of `lacking` can drive the unit.

    A meaningless unit counts as one that such an image can drive.
    """
    if unit.formula is None or not lacking:
        return True
    shown = [not classes or bool(classes - set(lacking)) for classes in map(_classes, unit.formula.concepts)]
    return all(shown) if unit.formula.operator == "given" else any(shown)


def _classes(phrase: str) -> set[str]:
    """Return the things and backgrounds that a phrase names; none for a colour."""
    return set(understand(phrase).classes)


def _distinct(count: int, kind: FormulaKind, draw: Callable[[int], tuple[str, ...]]) -> list[GymUnit]:
    """Return `count` different units of a kind; `draw` is given how many there are already.

    Raises:
        UsageError: If the vocabulary has not that many.
    """
    units: dict[GymUnit, None] = {}
    for _ in range(_TRIES * count):
        concepts = draw(len(units))
        if len(concepts) == 1 or _apart(*concepts):
            units[GymUnit(kind, Formula(kind, concepts))] = None
        if len(units) == count:
            return list(units)
    raise UsageError(f"the embedded vocabulary has no {count} different units of the kind {kind}.")


def _apart(first: str, second: str) -> bool:
    """Return whether the two have nothing in common, and one scene can show both."""
    return not _classes(first) & _classes(second) and not {first, second} <= set(BACKGROUNDS)


def _name(rng: random.Random, sorts: Sequence[ConceptSort], lacking: Collection[str]) -> str:
    """Return a name of one of the sorts; of a category, at least a few members are known."""
    table = vocabulary()
    names = {
        "thing": [concept.name for concept in table.concepts() if concept.name not in lacking],
        "category": [
            category.name
            for category in table.categories()
            if sum(concept.name not in lacking for concept in table.members(category.name)) >= _LEAST_MEMBERS
        ],
        "background": [name for name in BACKGROUNDS if name != PLAIN],
        "colour": list(COLORS),
    }[rng.choice(sorts)]
    return rng.choice([name for name in names if _plain(name)])


def _plain(name: str) -> bool:
    """Return whether the name means one thing: "orange" is a fruit and a colour."""
    terms = read(name)
    return len(terms) == 1 and not terms[0].also
