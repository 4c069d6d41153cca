"""Images as the scientist plans them: which things, how many, of which color, on which background.

A stimulus has a prompt, for the image maker, and a code, which its programs print with each
activation: the observation alone then says what was measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from actors.embedded.language.words import Term, Words, number_word, one

_REPAINTED = 0.8
"""How surely a thing is still itself in a color that it never has: image makers and networks may lose it."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Some objects of one concept. Empty color or size: left to the image maker."""

    concept: str
    color: str = ""
    count: int = 1
    size: str = ""

    @property
    def code(self) -> str:
        details = [self.color, self.size, str(self.count) if self.count != 1 else ""]
        return f"{self.concept}({','.join(details)})" if any(details) else self.concept

    def repainted(self, words: Words) -> bool:
        """Return whether it was asked for in a color that it does not have by itself."""
        natural = words.concepts[self.concept].colors
        return bool(self.color and natural and self.color not in natural)

    def phrase(self, words: Words) -> str:
        noun = words.concepts[self.concept]
        name = noun.name if self.count == 1 else noun.plural_name
        described = " ".join(part for part in (self.size, self.color, name) if part)
        return one(noun, described) if self.count == 1 else f"{number_word(self.count)} {described}"


@dataclass(frozen=True, slots=True)
class Stimulus:
    """One planned image; an empty background is left to the image maker."""

    things: tuple[Thing, ...] = ()
    background: str = ""

    @property
    def code(self) -> str:
        return f"{' + '.join(thing.code for thing in self.things)} @ {self.background}"

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(thing.concept for thing in self.things)

    def prompt(self, words: Words) -> str:
        things = " and ".join(thing.phrase(words) for thing in self.things)
        if not self.background:
            return things
        setting = words.backgrounds[self.background]
        return f"{things} {setting.phrase}" if things else setting.name

    def terms(self, words: Words) -> dict[Term, float]:
        """Return each term that the image shows, with how sure that is in (0, 1].

        Unsure are the colors of a thing whose color was neither asked for nor is known, and what a thing is
        that was asked for in an odd color.
        """
        shown: dict[Term, float] = {}

        def add(term: Term, sure: float) -> None:
            shown[term] = 1 - (1 - shown.get(term, 0.0)) * (1 - sure)

        for thing in self.things:
            sure = _REPAINTED if thing.repainted(words) else 1.0
            for term in words.closure(Term("concept", thing.concept)):
                add(term, sure)
            natural = words.concepts[thing.concept].colors
            for color in [thing.color] if thing.color else natural or words.colors:
                known = bool(thing.color or natural)
                for term in words.closure(Term("color", color)):
                    add(term, 1.0 if known else 1 / len(words.colors))
        if self.background:
            for term in words.closure(Term("background", self.background)):
                add(term, 1.0)
        return shown

    def on(self, background: str) -> Stimulus:
        return replace(self, background=background)

    def swap(self, old: str, new: Thing) -> Stimulus:
        """Return the stimulus with the things of concept `old` replaced."""
        return replace(self, things=tuple(new if thing.concept == old else thing for thing in self.things))


_THING = re.compile(r"^(?P<concept>[^()+@|;]+?)(?:\((?P<color>[^,()]*),(?P<size>[^,()]*),(?P<count>\d*)\))?$")


def parse_code(code: str, words: Words) -> Stimulus | None:
    """Return the stimulus of a code, or None if it is damaged or names what the vocabulary lacks."""
    body, mark, background = code.rpartition("@")
    background = background.strip()
    if not mark or (background and background not in words.backgrounds):
        return None
    things = []
    for part in filter(None, (part.strip() for part in body.split("+"))):
        match = _THING.match(part)
        if match is None or match["concept"] not in words.concepts:
            return None
        if match["color"] and match["color"] not in words.colors:
            return None
        things.append(
            Thing(match["concept"], match["color"] or "", int(match["count"] or 1), match["size"] or "")
        )
    return Stimulus(tuple(things), background)
