"""From a plain-English prompt to a scene, with an account of every word.

Known to be small: objects with counts, colors, sizes, positions and relations, one background. What it
cannot draw it reports; it never refuses and never raises on odd text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.layout import Wish, arrange, drawable
from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import PLAIN, vocabulary

MAX_OBJECTS = 12
"""Objects drawn in one scene; a larger count is drawn as this many, and the notes say so."""


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """A prompt, understood. Every word of the prompt is in `drawn`, `ignored` or `undrawn`."""

    scene: Scene
    drawn: tuple[str, ...]
    """Words that the scene shows (objects, colors, places, and the small words between them)."""
    ignored: tuple[str, ...]
    """Words known to change nothing here: style, filler, and actions (which the notes mention)."""
    undrawn: tuple[str, ...]
    """Words that were not understood."""
    notes: tuple[str, ...]
    """Sentences for the caller: what could not be drawn, and what was chosen for an open word."""


@dataclass(slots=True)
class Phrase:
    """What stands before a noun, gathered until the noun comes."""

    count: int | None = None
    color: str | None = None
    size: str | None = None
    positions: set[str] = field(default_factory=set)


_EXCEPTED = frozenset(("thing", "background", "color", "generic", "size", "article", "unknown", "count"))
"""Kinds of words that may follow "without"."""
_PERHAPS_DRAWN = frozenset(("thing", "background", "filler", "action", "unknown"))
"""Kinds of words that the scene may not show; all others change it, or stand between words that do."""


class Reader:
    """Reads tokens from left to right into wishes and a background."""

    def __init__(self, tokens: list[Token], lacking: frozenset[str] = frozenset()) -> None:
        self._tokens, self._lacking = tokens, lacking
        self.wishes: list[Wish] = []
        self.background: str | None = None
        self.background_color: str | None = None
        self.notes: list[str] = []
        self.drawn: list[str] = []
        self.ignored: list[str] = []
        self.undrawn: list[str] = []
        self.actions: list[str] = []
        self._phrase = Phrase()
        self._last: list[int] = []
        """Indices of the wishes of the latest noun: adjectives and positions after it are its own."""
        self._pending: tuple[str, list[int]] | None = None
        """A relation that waits for its second noun, and the wishes it starts from."""
        self._read()

    def _read(self) -> None:
        skip = False
        for i, token in enumerate(self._tokens):
            if skip and token.kind in _EXCEPTED:
                # "without a hat": leaving it out is what was asked for.
                self.drawn += token.words
                skip = token.kind not in ("thing", "background", "generic")
                continue
            skip = token.kind == "negation"
            token = self._settle(i, token)
            if token.kind not in _PERHAPS_DRAWN:
                self.drawn += token.words
            if token.kind not in ("article", "negation"):
                getattr(self, f"_{token.kind}")(i, token)
        if self._phrase.color and not self.wishes and self.background is None:
            self.background, self.background_color = PLAIN, self._phrase.color
        elif self._phrase.color and self._last:
            self._describe_last("color", self._phrase.color)

    def _settle(self, i: int, token: Token) -> Token:
        """Choose between the meanings of a word such as "orange" (fruit, color) or "stone" (rock, floor)."""
        kind, _, value = token.also.partition(":")
        if not kind:
            return token
        after = next((later for later in self._tokens[i + 1 :] if later.kind != "filler"), None)
        before = self._tokens[i - 1] if i else None
        if kind == "color":
            noun_follows = after is not None and (
                after.kind in ("thing", "generic", "setting", "background", "size", "color")
                or "color" in after.also
            )
            described = before is not None and before.kind == "filler" and bool(self._last)
            if noun_follows or described:
                return Token("color", value, token.words)
        elif kind == "background":
            place = before is not None and before.kind == "preposition"
            if (after is not None and after.kind == "setting") or (place and bool(self.wishes)):
                return Token("background", value, token.words)
        return token

    def _take(self) -> Phrase:
        phrase, self._phrase = self._phrase, Phrase()
        return phrase

    def _describe_last(self, what: str, value: str) -> None:
        for index in self._last:
            setattr(self.wishes[index], what, value)

    def _noun(self, name: str, plural: bool, own_plural: bool, said: str) -> None:
        phrase = self._take()
        count = phrase.count if phrase.count is not None else 2 if plural and not own_plural else 1
        if own_plural and said == "pair of":
            count = 1
        room = MAX_OBJECTS - len(self.wishes)
        if count > room:
            self.notes.append(
                f"drew {room} of {count} ({name or 'objects'}): a scene holds {MAX_OBJECTS} objects"
            )
            count = room
        indices = []
        for _ in range(count):
            indices.append(len(self.wishes))
            self.wishes.append(Wish(name, phrase.color, phrase.size, set(phrase.positions)))
        if self._pending is not None and indices:
            relation, earlier = self._pending
            if relation == "in" and "clothing" in (
                name,
                *(vocabulary().members(name)[0].categories if name else ()),
            ):
                relation = "worn by"
            if relation in ("worn by", "held by"):
                for index in indices:
                    self.wishes[index].relation, self.wishes[index].anchor = relation, earlier[0]
            else:
                for index in earlier:
                    if self.wishes[index].anchor is None:
                        self.wishes[index].relation, self.wishes[index].anchor = relation, indices[0]
        self._pending = None
        self._last = indices or self._last

    def _thing(self, i: int, token: Token) -> None:
        if not drawable(token.value, self._lacking):
            self._take()
            self.undrawn += token.words
            return
        self.drawn += token.words
        concept = vocabulary().get(token.value)
        own_plural = concept is not None and concept.is_plural
        before = self._tokens[i - 1].words if i else ()
        self._noun(token.value, token.plural, own_plural, " ".join(before))

    def _generic(self, i: int, token: Token) -> None:
        self._noun("", token.plural, False, "")

    def _background(self, i: int, token: Token) -> None:
        phrase = self._take()
        self._pending = None
        if self.background is None or self.background == PLAIN:
            self.background, self.background_color = token.value, phrase.color or self.background_color
            self.drawn += token.words
        elif token.value != self.background:
            self.undrawn += token.words
            self.notes.append(f"one background at a time: drew {self.background}, not {token.value}")
        else:
            self.drawn += token.words

    def _setting(self, i: int, token: Token) -> None:
        phrase = self._take()
        if phrase.color is not None:
            self.background, self.background_color = self.background or PLAIN, phrase.color

    def _color(self, i: int, token: Token) -> None:
        before = self._tokens[i - 1] if i else None
        after = self._tokens[i + 1] if i + 1 < len(self._tokens) else None
        said_of_last = before is not None and before.kind in ("filler", "preposition") and bool(self._last)
        noun_follows = after is not None and after.kind in (
            "thing", "generic", "background", "setting", "size", "color", "and", "unknown", "filler",
        )  # fmt: skip
        if said_of_last and not (noun_follows and after is not None and after.kind != "and"):
            self._describe_last("color", token.value)
            return
        if self._phrase.color is not None:
            self.notes.append(f"one color an object: used {token.value}, not {self._phrase.color}")
        self._phrase.color = token.value

    def _size(self, i: int, token: Token) -> None:
        behind = token.words[0] == "in" or token.words[0] in ("distant", "far")
        before = self._tokens[i - 1] if i else None
        if self._last and (behind or (before is not None and before.kind == "filler")):
            self._describe_last("size", token.value)
        else:
            self._phrase.size = token.value

    def _count(self, i: int, token: Token) -> None:
        number = int(token.value[:6])
        if number == 0:
            return
        following = [later.kind for later in self._tokens[i + 1 : i + 5]]
        if token.value == "1" and "thing" not in following and "generic" not in following:
            return
        self._phrase.count = number * (self._phrase.count or 1) if token.value == "12" else number

    def _position(self, i: int, token: Token) -> None:
        if self._last:
            for index in self._last:
                self.wishes[index].positions.add(token.value)
        else:
            self._phrase.positions.add(token.value)

    def _relation(self, i: int, token: Token) -> None:
        if self._last:
            self._pending = (token.value, self._last)

    def _preposition(self, i: int, token: Token) -> None:
        if self._last and token.value in ("on", "in", "upon", "onto"):
            self._pending = ("in" if token.value == "in" else "on", self._last)

    def _and(self, i: int, token: Token) -> None:
        self._pending = None

    _comma = _and

    def _filler(self, i: int, token: Token) -> None:
        self.ignored += token.words

    def _action(self, i: int, token: Token) -> None:
        self.ignored += token.words
        self.actions.append(token.value)

    def _unknown(self, i: int, token: Token) -> None:
        self.undrawn += token.words


def parse_prompt(prompt: str, seed: int = 0, lacking: frozenset[str] = frozenset()) -> ParsedPrompt:
    """Return the scene of a prompt; other seeds give other layouts, textures, light and open choices.

    The same seed gives the same layout and, where the prompt names none, the same background whatever the
    objects are, so that two prompts can be compared. Concepts of `lacking` are words that are not understood.
    """
    seed = int(seed) & 0xFFFF_FFFF_FFFF
    reader = Reader(read(prompt), lacking)
    objects, chosen = arrange(reader.wishes, seed, lacking)
    rng = np.random.default_rng((seed, 0))
    texture, light = int(rng.integers(2**31)), round(float(rng.uniform(0.88, 1.1)), 3)
    free = list(BACKGROUNDS)
    background = reader.background or (free[int(rng.integers(len(free)))] if objects else PLAIN)
    scene = Scene(background, reader.background_color, objects, texture, light)
    return ParsedPrompt(
        scene,
        tuple(reader.drawn),
        tuple(reader.ignored),
        tuple(reader.undrawn),
        _notes(reader, chosen, scene),
    )


def _notes(reader: Reader, chosen: list[str], scene: Scene) -> tuple[str, ...]:
    notes = list(reader.notes)
    if reader.undrawn:
        words = list(dict.fromkeys(reader.undrawn))
        more = f" and {len(words) - 20} more" if len(words) > 20 else ""
        notes.append(f"not drawn: {', '.join(words[:20])}{more}")
    if reader.actions:
        notes.append(f"actions are not drawn: {', '.join(dict.fromkeys(reader.actions))}")
    choices: dict[str, list[str]] = {}
    for wish, concept in zip(reader.wishes, chosen, strict=True):
        if wish.name != concept:
            choices.setdefault(wish.name or "an object", []).append(concept)
    notes += [f"chose {', '.join(dict.fromkeys(names))} for {word}" for word, names in choices.items()]
    if not scene.objects and reader.background is None:
        notes.append("nothing in the prompt could be drawn: the picture is an empty background")
    return tuple(dict.fromkeys(notes))
