"""What single words and short phrases mean to the grammar, and how a sentence is cut into them.

A sentence becomes `Token`s by longest match; every word ends up in exactly one, so that nothing that was
said can be lost between reading and drawing.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from actors.embedded.drawing.vocabulary import (
    BACKGROUND_WORDS,
    COLOR_WORDS,
    Concept,
    normal,
    vocabulary,
    word_table,
)

MAX_WORDS = 400
"""Words that are read of one text; the rest is reported as not drawn."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase and its kind: thing, generic, background, setting, color, size, count, position,
    relation, preposition, article, negation, and, comma, filler, action, unknown."""

    kind: str
    value: str
    words: tuple[str, ...]
    """The normal form of what was read; empty for a comma."""
    plural: bool = False
    also: str = ""
    """A second meaning that the grammar chooses by its neighbors: a color or a background."""


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, Token]:
    table: dict[str, Token] = {}

    def learn(kind: str, meanings: dict[str, str]) -> None:
        for phrase, value in meanings.items():
            table[phrase] = Token(kind, value, tuple(phrase.split()))

    words = word_table()
    for kind, plain in words["plain"].items():
        learn(kind, {word: word for word in plain})
    for kind in ("count", "size", "position", "relation"):
        learn(kind, {word: value for value, group in words[f"{kind}s"].items() for word in group})
    learn("color", COLOR_WORDS)
    learn("background", BACKGROUND_WORDS)
    for word in ("objects", "things", "items"):
        table[word] = Token("generic", word, (word,), plural=True)
    for phrase, (name, plural) in vocabulary().words().items():
        known = table.get(phrase)
        also = f"{known.kind}:{known.value}" if known and known.kind in ("color", "background") else ""
        table[phrase] = Token("thing", name, tuple(phrase.split()), plural, also)
    # Plain words of sentences that are also rare names of things.
    table["fall"] = Token("unknown", "fall", ("fall",))
    return table


@lru_cache(maxsize=1)
def words_digest() -> str:
    """Return 8 hex digits that change with the words and what they mean."""
    meanings = sorted((phrase, token.kind, token.value, token.also) for phrase, token in _lexicon().items())
    return hashlib.blake2b(repr(meanings).encode(), digest_size=4).hexdigest()


@lru_cache(maxsize=1)
def _longest() -> int:
    return max(len(phrase.split()) for phrase in _lexicon())


def _pieces(text: str) -> list[str]:
    """Return normal words, with "," for any mark that ends a phrase."""
    text = unicodedata.normalize("NFKC", text[:20_000])
    pieces: list[str] = []
    for chunk in re.split(r"[,.;:!?()\[\]\n\r|/]+", text):
        words = normal(chunk).split()
        if not words and (symbols := re.sub(r"[\s\-_'\"’“”]+", "", chunk)):
            words = [symbols[:20]]
        elif words:
            # A pictograph among the words is something that was asked for, too.
            words += [char for char in chunk if unicodedata.category(char) == "So"]
        if words:
            pieces += words if not pieces else [",", *words]
    return pieces


def read(text: str) -> list[Token]:
    """Return the text's tokens in order; every word is in exactly one, at most MAX_WORDS of them known."""
    lexicon, longest = _lexicon(), _longest()
    pieces = _pieces(text)
    tokens: list[Token] = []
    at = 0
    while at < len(pieces):
        if pieces[at] == ",":
            tokens.append(Token("comma", ",", ()))
            at += 1
            continue
        for length in range(min(longest, len(pieces) - at), 0, -1):
            words = tuple(pieces[at : at + length])
            token = lexicon.get(" ".join(words)) if at < MAX_WORDS else None
            if token is not None:
                tokens.append(token)
                at += length
                break
        else:
            word = pieces[at]
            kind = "count" if word.isascii() and word.isdigit() and at < MAX_WORDS else "unknown"
            tokens.append(Token(kind, word, (word,)))
            at += 1
    return tokens


def concepts_in(text: str) -> list[Concept]:
    """Return every concept that a text names, categories by all their members."""
    names = dict.fromkeys(token.value for token in read(text) if token.kind == "thing")
    return list(dict.fromkeys(concept for name in names for concept in vocabulary().members(name)))
