"""What a label says beyond its core, and which images would show that the rest of it is idle.

Labels are short English phrases of any model. Nothing here knows what they mean: the unit decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_EXCEPTION = re.compile(r"\s*,?\s+(?:without|but not|and not|except|excluding|not)\s+(?:for\s+)?", re.I)
_CONNECTOR = re.compile(
    r"\s+(?:with|on|in|at|of|behind|beside|near|next to|under|over|and|given|wearing|holding)\s+", re.I
)
_ARTICLE = re.compile(r"^(?:an?|the|some|any)\s+", re.I)
_HOLLOW = frozenset(
    [
        "kind",
        "kinds",
        "type",
        "types",
        "sort",
        "sorts",
        "object",
        "objects",
        "thing",
        "things",
        "item",
        "items",
        "color",
        "colour",
        "colors",
        "colours",
        "background",
        "backgrounds",
        "scene",
        "scenes",
        "image",
        "images",
        "picture",
        "pictures",
        "pattern",
        "patterns",
        "texture",
        "textures",
        "wall",
    ]
)
"""Words that name nothing by themselves: what stands before them is not an addition but the point."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """`simpler` says as much as the label, unless images of `weaker` surely drive the unit less than those of
    `stronger`.

    `stronger` is None where it is the label itself. `wider`: what is simpler is a kind that the label belongs
    to, of which only images that do not show the label are informative.
    """

    simpler: str
    weaker: str
    stronger: str | None = None
    wider: bool = False


def doubts(label: str) -> list[Doubt]:
    """Return every way to say less: an exception given up, a part of a combination, a thing without its
    adjective.
    """
    label = _ARTICLE.sub("", " ".join(label.split()))
    if match := _EXCEPTION.search(label):
        kept, excepted = label[: match.start()], label[match.end() :]
        return (
            [Doubt(kept, f"{kept} with {excepted}", kept)]
            if _is_depictable(kept) and _is_depictable(excepted)
            else []
        )
    if parts := parts_of(label):
        return [Doubt(part, part) for part in parts]
    plain = label.split(" ", 1)[-1]
    return [Doubt(plain, plain)] if plain != label and _is_depictable(plain) else []


def is_combination(label: str) -> bool:
    """Return whether a label holds a condition: a second thing that must be there, or must not."""
    return bool(_EXCEPTION.search(label) or parts_of(label))


def parts_of(label: str) -> list[str]:
    """Return what a combination ("a dog on grass") is made of, without articles; an empty list for any other
    label.

    Of several connectors each is tried: "a dog on grass with a ball" has the parts "dog", "grass with a
    ball", "dog on grass" and "ball".
    """
    label = _ARTICLE.sub("", " ".join(label.split()))
    if _EXCEPTION.search(label):
        return []
    parts: list[str] = []
    for match in _CONNECTOR.finditer(label):
        sides = [_ARTICLE.sub("", side.strip()) for side in (label[: match.start()], label[match.end() :])]
        if all(map(_is_depictable, sides)):
            parts += sides
    return list(dict.fromkeys(parts))


def _is_depictable(phrase: str) -> bool:
    """Return whether a phrase names something: an image of it can be asked for."""
    words = re.findall(r"[a-z]+", _ARTICLE.sub("", phrase).lower())
    return bool(words) and not set(words) <= _HOLLOW
