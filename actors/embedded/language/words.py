"""What the built-in scientist knows of words: things, their kinds, colors and settings, and their names.

It plays the part that a language model's general knowledge plays: which words mean the same, that a
dog is a mammal, that a tomato is red unless said otherwise. It knows nothing of images or of any unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import COLORS, SETTINGS, Noun, Setting, vocabulary, with_article

WordKind = Literal["concept", "category", "color", "tone", "background"]
"""A color is that of a thing; a tone is a color anywhere in the image, the background included."""


class Term(NamedTuple):
    """One thing that an image can show: a concept, a kind of concept, a color, or a background."""

    kind: WordKind
    name: str

    def __str__(self) -> str:
        return self.name if self.kind in ("concept", "category") else f"{self.name} {self.kind}"


def one(noun: Noun, described: str) -> str:
    """Return `described`, which ends in the noun's name, as one of it: "a red car", but "scissors"."""
    return described if noun.plural_name == noun.name else with_article(described)


def plain_name(label: str) -> str:
    """Return a class's label as words: the first of its synonyms, lower-case, without marks around it."""
    return label.split(",")[0].strip(" .`*").replace("_", " ").lower()


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


def number_word(count: int) -> str:
    return _NUMBERS.get(count, str(count))


@dataclass(frozen=True, eq=False)
class Words:
    """A vocabulary. Names are unique within a kind; one word may name terms of several kinds (orange).

    Two of them are equal only if they are one, so that what follows from a vocabulary can be kept with it.
    """

    concepts: Mapping[str, Noun]
    categories: Mapping[str, Noun]
    backgrounds: Mapping[str, Setting]
    colors: tuple[str, ...]
    _members: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)
    _closures: dict[Term, frozenset[Term]] = field(default_factory=dict, repr=False, compare=False)

    def members(self, category: str) -> tuple[str, ...]:
        """Return the concepts of a category, those of its subcategories included."""
        if category not in self._members:
            names = tuple(n.name for n in self.concepts.values() if category in n.categories)
            self._members[category] = names
        return self._members[category]

    def siblings(self, concept: str) -> tuple[str, ...]:
        """Return the other concepts of the nearest category that has any."""
        for category in self.concepts[concept].categories:
            others = tuple(member for member in self.members(category) if member != concept)
            if others:
                return others
        return ()

    def closure(self, term: Term) -> frozenset[Term]:
        """Return the term with what it implies: a dog its categories, a red thing a tone, grass a green
        one.
        """
        implied = self._closures.get(term)
        if implied is None:
            nouns = {"concept": self.concepts, "category": self.categories}.get(term.kind, {})
            above = [Term("category", c) for c in (nouns[term.name].categories if term.name in nouns else ())]
            if term.kind == "color":
                above = [Term("tone", term.name)]
            if term.kind == "background":
                above = [Term("tone", color) for color in self.backgrounds[term.name].colors]
            implied = self._closures[term] = frozenset({term, *above})
        return implied

    def can_be(self, concept: str, color: str) -> bool:
        """Return whether the color's word before the concept's still reads as a color: a red fox is a fox."""
        return not color or _can_be(self, concept, color)

    def base_rate(self, term: Term) -> float:
        """Return about how often a scene of two things picked at random shows the term."""
        if term.kind == "concept":
            return min(0.5, 2 / max(1, len(self.concepts)))
        if term.kind == "category":
            return min(0.9, 2 * len(self.members(term.name)) / max(1, len(self.concepts)))
        if term.kind == "background":
            return 1 / max(1, len(self.backgrounds))
        return min(0.5, (2 if term.kind == "color" else 3) / max(1, len(self.colors)))

    def find(self, text: str) -> list[Term]:
        """Return the terms that a text names, in order and with repetitions; the longest name wins.

        A word that is both a color and a thing is the color when a thing follows it; one that is both a
        thing and a background is the background after "on", "in", "at" or "background".
        """
        tokens = [token for token in read(text) if token.words]
        words = [word for token in tokens for word in token.words]
        named: list[Term] = []
        end = 0
        for token, following in zip(tokens, [*tokens, None][1:], strict=True):
            start, end = end, end + len(token.words)
            terms = self._meanings(token)
            before, after = words[max(0, start - 3) : start], words[end : end + 1]
            if (following and following.kind == "thing") or _THING_WORDS.intersection(after):
                wanted = "color"
            elif _BEFORE_PLACES.intersection(before) or _AFTER_PLACES.intersection(after):
                wanted = "background"
            else:
                wanted = "concept"
            named += [term for term in terms if term.kind == wanted][:1] or terms[:1]
        return named

    def _meanings(self, token: Token) -> list[Term]:
        """Return what a token may mean; a term's own name comes before another's synonym."""
        if token.kind == "color":
            return [Term("color", token.value)]
        if token.kind == "background":
            return [Term("background", token.value)]
        if token.kind != "thing":
            return []
        terms = [Term("concept", token.value)] if token.value in self.concepts else []
        terms += [Term("category", token.value)] if token.value in self.categories else []
        kind, _, value = token.also.partition(":")
        if kind:
            other = Term("color" if kind == "color" else "background", value)
            terms.insert(0 if value == " ".join(token.words) else len(terms), other)
        return terms


_THING_WORDS = frozenset(("object", "objects", "thing", "things", "item", "items", "color", "colour"))
_BEFORE_PLACES = frozenset(("on", "in", "at", "background"))
_AFTER_PLACES = frozenset(("background", "backdrop", "ground"))


@lru_cache(maxsize=16384)
def _can_be(words: Words, concept: str, color: str) -> bool:
    return words.find(f"{color} {concept}") == [Term("color", color), Term("concept", concept)]


@lru_cache(maxsize=8)
def embedded_words(lacking: frozenset[str] = frozenset()) -> Words:
    """Return the vocabulary without the concepts `lacking`, and without categories that have no others; made
    once.
    """
    known = {concept.name: concept for concept in vocabulary().concepts() if concept.name not in lacking}
    kinds = {category for concept in known.values() for category in concept.categories}
    return Words(
        concepts=known,
        categories={noun.name: noun for noun in vocabulary().categories() if noun.name in kinds},
        backgrounds=SETTINGS,
        colors=tuple(COLORS),
    )
