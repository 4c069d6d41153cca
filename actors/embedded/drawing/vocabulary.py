"""The embedded world's words: concepts, their other names, their categories and their colors.

The table is `assets/concepts.txt`, the sprites' measured facts are `assets/sprites.json`. Nothing here
knows of pixels or sentences. A category ("animal", "fruit") is a word for all of its members.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 45),
    "orange": (245, 130, 30),
    "yellow": (248, 212, 40),
    "green": (50, 160, 62),
    "cyan": (40, 190, 200),
    "blue": (40, 95, 215),
    "purple": (128, 60, 180),
    "pink": (246, 130, 180),
    "brown": (126, 78, 44),
    "black": (34, 34, 38),
    "gray": (132, 134, 138),
    "white": (244, 244, 246),
}
"""Color names and the sRGB value each stands for."""

COLOR_WORDS: dict[str, str] = {
    **{name: name for name in COLORS},
    **dict.fromkeys(("crimson", "scarlet", "maroon", "reddish"), "red"),
    **dict.fromkeys(("amber", "orangish"), "orange"),
    **dict.fromkeys(("golden", "gold", "blond", "blonde", "yellowish"), "yellow"),
    **dict.fromkeys(("lime", "emerald", "greenish"), "green"),
    **dict.fromkeys(("turquoise", "teal", "aqua"), "cyan"),
    **dict.fromkeys(("navy", "azure", "bluish", "light blue", "dark blue"), "blue"),
    **dict.fromkeys(("violet", "magenta", "lilac", "indigo"), "purple"),
    **dict.fromkeys(("rosy", "fuchsia", "hot pink"), "pink"),
    **dict.fromkeys(("tan", "beige", "chestnut", "brownish"), "brown"),
    **dict.fromkeys(("grey", "silver", "greyish", "grayish"), "gray"),
    **dict.fromkeys(("ivory", "cream colored", "cream coloured"), "white"),
}
"""Every color word the grammar knows, and the color it means."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing that can be drawn. `lineage` is its categories, nearest first ("bird", "animal")."""

    name: str
    index: int
    glyph: str
    names: tuple[str, ...]
    """Singular names, the canonical one first, in the normal form of `normal`."""
    plurals: tuple[str, ...]
    lineage: tuple[str, ...]
    color: str
    """The color, of `COLORS`, that most of its sprite has."""

    @property
    def category(self) -> str:
        return self.lineage[0]


def normal(text: str) -> str:
    """Return lower-case words divided by single spaces: hyphens, accents, punctuation and possessives
    gone.
    """
    flat = unicodedata.normalize("NFKD", text).casefold()
    flat = "".join(char for char in flat if not unicodedata.combining(char))
    flat = re.sub(r"['’](s\b)?", "", flat)
    return " ".join(re.findall(r"[^\W_]+", flat))


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
    if concept is not None and normal(name) in concept.plurals:
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
            lineage = tuple(self._lineage(category))
            self._concepts.append(
                Concept(name, len(self._concepts), glyph, names, plurals, lineage, colors.get(name, "gray"))
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

    def categories(self) -> list[str]:
        return list(self._parents)

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
        return [concept for concept in self._concepts if name in concept.lineage]

    def category_of(self, name: str) -> str:
        """Return a concept's nearest category."""
        return self._by_name[name].category

    def similar(self, name: str) -> list[Concept]:
        """Return the other members of the concept's nearest category."""
        return [other for other in self.members(self.category_of(name)) if other.name != name]

    def find(self, text: str) -> list[str]:
        """Return the concepts and categories that the text names, longest names first in each place."""
        words = normal(text).split()
        found: list[str] = []
        at = 0
        while at < len(words):
            for length in range(min(5, len(words) - at), 0, -1):
                hit = self._words.get(" ".join(words[at : at + length]))
                if hit is not None:
                    if hit[0] not in found:
                        found.append(hit[0])
                    at += length
                    break
            else:
                at += 1
        return found

    def resolve(self, text: str) -> list[Concept]:
        """Return every concept the text names, categories by all their members; empty if it names none."""
        found: dict[str, Concept] = {}
        for name in self.find(text):
            found.update((concept.name, concept) for concept in self.members(name))
        return list(found.values())

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


def resolve(text: str) -> list[Concept]:
    """Return every concept the text names; see `Vocabulary.resolve`."""
    return vocabulary().resolve(text)


def category_of(name: str) -> str:
    return vocabulary().category_of(name)
