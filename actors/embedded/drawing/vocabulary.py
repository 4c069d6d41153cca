"""The embedded world's words: concepts, their other names, their categories and their colors.

Concepts are in `assets/concepts.txt`, all other words in `assets/words.toml`, and the sprites' measured facts
in `assets/sprites.json`. Nothing here knows of pixels or sentences. A category ("animal", "fruit") is a
word for all of its members.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"


def word_table() -> dict[str, dict[str, Any]]:
    """Return `assets/words.toml`, which says what all words mean but the names of concepts."""
    return tomllib.loads((ASSETS / "words.toml").read_text("utf-8"))


_TABLE = word_table()

COLORS: dict[str, tuple[int, int, int]] = {
    name: tuple(color["rgb"]) for name, color in _TABLE["colors"].items()
}
"""Color names and the sRGB value each stands for."""

COLOR_WORDS: dict[str, str] = {name: name for name in COLORS} | {
    word: name for name, color in _TABLE["colors"].items() for word in color["words"]
}
"""Every color word the grammar knows, and the color it means."""

PLAIN = "plain background"


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing or a kind of things. `names` are other words for it; `colors` what it has unless said
    otherwise.
    """

    name: str
    plural: str = ""
    names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    """Every kind that it belongs to, nearest first ("bird", "animal")."""
    colors: tuple[str, ...] = ()

    @property
    def plural_name(self) -> str:
        return self.plural or pluralize(self.name)

    @property
    def is_plural(self) -> bool:
        """Whether its own name is a plural: "scissors"."""
        return normal(self.name) in (self.plural, *self.names)


@dataclass(frozen=True, slots=True)
class Concept(Noun):
    """A thing that can be drawn; its color, of `COLORS`, is what most of its sprite has."""

    index: int = 0
    glyph: str = ""

    @property
    def color(self) -> str:
        return self.colors[0]


@dataclass(frozen=True, slots=True)
class Setting:
    """A place or surface. `phrase` is how a prompt says it ("on grass"), `names` are other words for it, in
    the form of `normal`, and `colors` are those that it usually has.
    """

    name: str
    phrase: str
    names: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()


SETTINGS: dict[str, Setting] = {
    name: Setting(name, setting["phrase"], tuple(setting["words"]), tuple(setting["colors"]))
    for name, setting in _TABLE["settings"].items()
}
"""Every background by its canonical name."""

BACKGROUND_WORDS: dict[str, str] = {
    word: setting.name for setting in SETTINGS.values() for word in (setting.name, *setting.names)
}
"""Every word for a background, and the canonical name that it means."""


def normal(text: str) -> str:
    """Return lower-case words divided by single spaces: hyphens, accents, punctuation and possessives
    gone.
    """
    flat = unicodedata.normalize("NFKD", text).casefold()
    flat = "".join(char for char in flat if not unicodedata.combining(char))
    flat = re.sub(r"['’](s\b)?", "", flat)
    return " ".join(re.findall(r"[^\W_]+", flat))


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"


def pluralize(name: str) -> str:
    """Return the regular English plural of a singular name; of "cup of tea", that of the cup."""
    head, of, rest = name.partition(" of ")
    if of:
        return f"{pluralize(head)}{of}{rest}"
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name + "es"
    if re.search(r"[^aeiou]y$", name):
        return name[:-1] + "ies"
    return name + "s"


def article(name: str) -> str:
    """Return the name with "a" or "an"; a name that is already plural gets none."""
    concept = vocabulary().get(name)
    if concept is not None and concept.is_plural:
        return name
    return f"{'an' if name[:1] in 'aeiou' and not name.startswith(('eu', 'uni')) else 'a'} {name}"


class Vocabulary:
    """All concepts and categories, and the way from words to them."""

    def __init__(self, table: str, colors: dict[str, str]) -> None:
        self._concepts: list[Concept] = []
        self._parents: dict[str, str | None] = {}
        self._words: dict[str, tuple[str, bool]] = {}
        """Every name of a concept or category -> (its canonical name, whether it is a plural)."""
        self._plurals: dict[str, str] = {}
        category = ""
        for line in table.splitlines():
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if line.startswith("["):
                head, _, rest = line.strip("[]").partition(":")
                head, _, extra = head.partition(",")
                form, _, parent = (part.strip() for part in head.partition("<"))
                category = form.partition("~")[0].strip()
                self._parents[category] = parent or None
                self._learn(category, [form, *extra.split(","), *rest.split(",")])
                continue
            glyph, _, rest = line.partition(" ")
            head, _, synonyms = rest.partition(":")
            name = head.partition("~")[0].strip()
            names, plurals = self._learn(name, [head, *synonyms.split(",")])
            self._concepts.append(
                Concept(
                    name,
                    plurals[0],
                    (*names[1:], *plurals[1:]),
                    tuple(self._lineage(category)),
                    (colors.get(name, "gray"),),
                    len(self._concepts),
                    glyph,
                )
            )
        self._by_name = {concept.name: concept for concept in self._concepts}

    def _lineage(self, category: str | None) -> Iterator[str]:
        while category:
            yield category
            category = self._parents[category]

    def _learn(self, meaning: str, forms: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names, plurals = [], []
        for form in forms:
            singular, _, plural = (normal(part) for part in form.partition("~"))
            if not singular:
                continue
            names.append(singular)
            plurals.append(plural or pluralize(singular))
            self._plurals.setdefault(singular, plurals[-1])
        for plural in plurals:
            self._words.setdefault(plural, (meaning, True))
        for singular, plural in zip(names, plurals, strict=True):
            # A concept's own name beats another's synonym ("fish" the concept, not the hook's catch).
            if singular == normal(meaning) or singular not in self._words:
                self._words[singular] = (meaning, singular == plural)
        return tuple(names), tuple(plurals)

    def concepts(self) -> list[Concept]:
        return list(self._concepts)

    def categories(self) -> list[Noun]:
        return [
            Noun(category, categories=tuple(self._lineage(parent)))
            for category, parent in self._parents.items()
        ]

    def get(self, name: str) -> Concept | None:
        """Return the concept of exactly this canonical name."""
        return self._by_name.get(name)

    def __getitem__(self, name: str) -> Concept:
        return self._by_name[name]

    def words(self) -> dict[str, tuple[str, bool]]:
        """Return every known name in normal form -> (concept or category, is it a plural)."""
        return dict(self._words)

    def plural(self, name: str) -> str:
        """Return the plural of any name: the known one, that of its longest known ending ("grey wolf"), or
        the regular one.
        """
        head, of, rest = name.partition(" of ")
        if of and normal(name) not in self._plurals:
            return f"{self.plural(head)}{of}{rest}"
        words = name.split()
        for start in range(len(words)):
            known = self._plurals.get(normal(" ".join(words[start:])))
            if known is not None:
                return " ".join([*words[:start], known])
        return pluralize(name)

    def members(self, name: str) -> list[Concept]:
        """Return the concept of this name, or all concepts of this category, in table order."""
        if name in self._by_name:
            return [self._by_name[name]]
        return [concept for concept in self._concepts if name in concept.categories]

    def nearest(self, text: str, n: int = 3) -> list[str]:
        """Return the known names that look most like the text, for an error message."""
        return difflib.get_close_matches(normal(text), self._words, n=n, cutoff=0.5)


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """Return the one vocabulary, read from the assets on first use."""
    facts = ASSETS / "sprites.json"
    colors = json.loads(facts.read_text("utf-8"))["colors"] if facts.exists() else {}
    return Vocabulary((ASSETS / "concepts.txt").read_text("utf-8"), colors)


def concepts() -> list[Concept]:
    return vocabulary().concepts()
