"""The scientist's words from the embedded world's vocabulary: names, kinds and colors, never pictures."""

from __future__ import annotations

from functools import lru_cache

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.vocabulary import COLOR_WORDS, COLORS, vocabulary
from actors.embedded.language.words import Noun, Setting, Words, with_article

_PHRASES = {
    "beach": "on a beach",
    "snow": "in the snow",
    "water": "in water",
    "sky": "in the sky",
    "night": "at night",
    "sunset": "at sunset",
    "desert": "in the desert",
    "forest": "in a forest",
    "room": "in a room",
    "road": "on a road",
    "city": "in a city",
}

_COLORS: dict[str, tuple[str, ...]] = {
    "grass": ("green",),
    "beach": ("yellow", "cyan"),
    "sand": ("yellow", "orange"),
    "snow": ("white",),
    "water": ("blue", "cyan"),
    "sky": ("blue", "white"),
    "night": ("black", "blue"),
    "sunset": ("red", "orange", "pink", "purple"),
    "brick wall": ("red", "brown", "gray"),
    "desert": ("orange",),
    "forest": ("green", "brown"),
    "wood": ("brown", "orange"),
    "room": ("white", "orange", "brown"),
    "road": ("gray",),
    "mud": ("brown",),
    "stone": ("gray",),
    "city": ("gray", "blue", "black"),
    "plain background": ("white",),
}
"""The usual colors of such a place."""


@lru_cache(maxsize=8)
def embedded_words(lacking: frozenset[str] = frozenset()) -> Words:
    """Return the vocabulary without the concepts `lacking`, and without categories that have no others; made
    once.
    """
    table = vocabulary()
    known = [concept for concept in table.concepts() if concept.name not in lacking]
    categories = [c for c in table.categories() if any(c in concept.lineage for concept in known)]
    above = {c: next((x.lineage for x in table.members(c) if c in x.lineage), ()) for c in categories}
    other_names: dict[str, list[str]] = {}
    for name, (meaning, is_plural) in table.words().items():
        if not is_plural and name != meaning:
            other_names.setdefault(meaning, []).append(name)
    return Words(
        concepts={
            c.name: Noun(c.name, c.plurals[0], (*c.names[1:], *c.plurals[1:]), c.lineage, (c.color,))
            for c in known
        },
        categories={
            c: Noun(
                c,
                names=tuple(other_names.get(c, ())),
                categories=above[c][above[c].index(c) + 1 :] if above[c] else (),
            )
            for c in categories
        },
        backgrounds={
            b.name: Setting(b.name, _phrase(b.name), b.names[1:], _COLORS.get(b.name, ()))
            for b in BACKGROUNDS.values()
        },
        colors={c: tuple(w for w, meant in COLOR_WORDS.items() if meant == c and w != c) for c in COLORS},
    )


def _phrase(name: str) -> str:
    if name in _PHRASES:
        return _PHRASES[name]
    if name.endswith(("wall", "background")):
        return f"in front of {with_article(name)}" if name.endswith("wall") else f"on {with_article(name)}"
    return f"on {name}"
