"""ImageNet's thousand classes in words: their names, the kinds above them, and which classes a word stands
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

DATA = Path(__file__).parent / "assets" / "imagenet.txt"

_LARGEST_SPOKEN = 400
"""Classes of the largest kind that is worth a word: animals."""
_MIN_MET = 1
"""Annotators' encounters from which the name of a kind is an everyday word (WordNet's counts)."""
_SAYS_NOTHING = frozenset(
    [
        "instrumentality",
        "device",
        "equipment",
        "commodity",
        "structure",
        "matter",
        "solid",
        "substance",
        "part",
        "portion",
        "piece",
        "article",
        "system",
        "agent",
        "fluid",
        "establishment",
        "place of business",
        "relation",
        "communication",
        "support",
        "control",
        "top",
        "conveyance",
        "craft",
        "game",
        "domestic animal",
        "protective covering",
        "implement",
        "machine",
        "reservoir",
        "dish",
        "screen",
        "edge",
    ]
)
"""Kinds that are understood and never said: a label of them would say little."""


@dataclass(frozen=True, slots=True)
class TaxonomyNode:
    """A class or a kind of classes. `classes` are places in the network's output, one for a class itself."""

    offset: str
    names: tuple[str, ...]
    classes: frozenset[int]
    met: int
    """How often WordNet's annotators met the word in this meaning."""
    covered: float
    """Share of all that WordNet lists below it that is among the thousand classes, in (0, 1]."""
    is_class: bool

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def spoken(self) -> bool:
        """Whether it is fit to be said: a class, or a kind that has an everyday name."""
        if self.is_class:
            return True
        few = len(self.classes) <= _LARGEST_SPOKEN
        return few and self.met >= _MIN_MET and self.name not in _SAYS_NOTHING


@dataclass(frozen=True, slots=True)
class WordSense:
    """What a word stands for: any of `classes`. `covered` is that of the node it names, the largest of
    several.
    """

    classes: frozenset[int]
    covered: float


class Taxonomy:
    """Words for photographs. Classes first, in the order of the output, then kinds from small to large."""

    def __init__(self, nodes: Sequence[TaxonomyNode]) -> None:
        self.nodes = tuple(nodes)

    @cached_property
    def spoken(self) -> tuple[TaxonomyNode, ...]:
        """What may be said, classes first; of kinds with the same classes the commonest, of a class and its
        kind the class.
        """
        best: dict[frozenset[int], TaxonomyNode] = {}
        for node in self.nodes:
            if node.spoken and (node.classes not in best or _commoner(node, best[node.classes])):
                best[node.classes] = node
        return tuple(sorted(best.values(), key=lambda node: (len(node.classes), min(node.classes))))

    def kind_of(self, node: TaxonomyNode) -> TaxonomyNode | None:
        """Return the smallest kind above a node that is worth a word; None if there is none."""
        return next((each for each in self.spoken if node.classes < each.classes), None)

    @cached_property
    def _meanings(self) -> Mapping[tuple[str, ...], WordSense]:
        """What each name means, as lower-case words: those that it is the first name of, else all that have
        it.
        """
        first: dict[tuple[str, ...], list[TaxonomyNode]] = {}
        other: dict[tuple[str, ...], list[TaxonomyNode]] = {}
        for node in self.nodes:
            for place, name in enumerate(node.names):
                for form in (name, *plurals(name)):
                    (other if place else first).setdefault(words_of(form), []).append(node)
        return {
            key: WordSense(frozenset().union(*(n.classes for n in nodes)), max(n.covered for n in nodes))
            for key, nodes in {**other, **first}.items()
            if key
        }

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._meanings))

    def meaning(self, name: str) -> WordSense | None:
        """Return what a whole name stands for; None if it is none that is known."""
        words = words_of(name)
        return self._meanings.get(words) or self._meanings.get(
            words[1:] if words[:1] and words[0] in _ARTICLES else ()
        )

    def find(self, text: str) -> Iterator[WordSense | str]:
        """Yield, in order, what is named in a text, the longest names first, and each word that is not
        known.
        """
        words = words_of(text)
        start = 0
        while start < len(words):
            for length in range(min(self._longest, len(words) - start), 0, -1):
                if (meaning := self._meanings.get(words[start : start + length])) is not None:
                    yield meaning
                    start += length
                    break
            else:
                yield words[start]
                start += 1


_ARTICLES = ("a", "an", "the", "some", "any")


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("-", " ")))


_IRREGULAR = {
    "man": "men", "woman": "women", "person": "people", "mouse": "mice", "goose": "geese", "foot": "feet",
    "ox": "oxen",
    "knife": "knives", "wolf": "wolves", "loaf": "loaves", "scarf": "scarves", "shelf": "shelves",
    "leaf": "leaves",
}  # fmt: skip


def plurals(name: str) -> Iterator[str]:
    """Yield the plurals of a name's last word, some irregular ones too."""
    *before, last = name.lower().split(" ")
    if last in _IRREGULAR:
        yield " ".join((*before, _IRREGULAR[last]))
    elif re.search(r"(s|x|z|ch|sh|o)$", last):
        yield f"{name}es"
    if re.search(r"[^aeiou]y$", last):
        yield f"{name[:-1]}ies"
    elif not re.search(r"(s|x|z|ch|sh)$", last):
        yield f"{name}s"


def _commoner(node: TaxonomyNode, other: TaxonomyNode) -> bool:
    return (node.is_class, node.met) > (other.is_class, other.met)


@lru_cache(maxsize=1)
def imagenet() -> Taxonomy:
    """Return ImageNet's classes and every kind above them, read on first use."""
    rows = [line.split("\t") for line in DATA.read_text("utf-8").splitlines() if not line.startswith("#")]
    above = {row[0]: [] if row[4] == "-" else row[4].split() for row in rows}
    classes: dict[str, set[int]] = {offset: set() for offset in above}
    for offset, place, *_ in rows:
        waiting = [] if place == "-" else [offset]
        seen: set[str] = set()
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                classes[here].add(int(place))
                waiting += above[here]
    nodes = [
        TaxonomyNode(
            offset,
            tuple(names.split("; ")),
            frozenset(classes[offset]),
            int(met),
            min(1.0, len(classes[offset]) / int(leaves)) if place == "-" else 1.0,
            place != "-",
        )
        for offset, place, leaves, met, _, names in rows
    ]
    return Taxonomy(sorted(nodes, key=lambda node: (len(node.classes), min(node.classes))))
