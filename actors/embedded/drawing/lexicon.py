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

from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS, COLOR_WORDS, normal, vocabulary

MAX_WORDS = 400
"""Words that are read of one text; the rest is reported as not drawn."""

_DIGITS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: number for number, word in enumerate(_DIGITS.split())}
_COUNTS = {
    "single": 1, "couple of": 2, "couple": 2, "pair of": 2, "both": 2, "trio of": 3, "few": 3, "several": 4,
    "some": 2, "multiple": 3, "many": 6, "lots of": 6, "lot of": 6, "plenty of": 6, "crowd of": 8,
    "group of": 4, "herd of": 5, "flock of": 5, "pack of": 4, "bunch of": 5, "pile of": 5, "row of": 4,
    "school of": 5, "swarm of": 6, "dozen": 12, "various": 4, "numerous": 6, "stack of": 4, "team of": 4,
}  # fmt: skip
_SIZES = {
    **dict.fromkeys(
        ("tiny", "very small", "minuscule", "miniature", "little tiny", "distant", "far away"), "tiny"
    ),
    **dict.fromkeys(("small", "little", "smaller", "in the background", "in the distance"), "small"),
    **dict.fromkeys(("medium", "medium sized", "mid sized", "normal sized"), "medium"),
    **dict.fromkeys(("large", "big", "tall", "close up of", "close up", "closeup of", "closeup"), "large"),
    **dict.fromkeys(("macro shot of", "macro photo of", "in the foreground", "larger", "bigger"), "large"),
    **dict.fromkeys(("huge", "giant", "enormous", "gigantic", "massive", "very large", "very big"), "huge"),
}
_POSITIONS = {
    **dict.fromkeys(("left", "left side", "left hand side", "left half"), "left"),
    **dict.fromkeys(("right", "right side", "right hand side", "right half"), "right"),
    **dict.fromkeys(("top", "upper", "top half", "top part"), "top"),
    **dict.fromkeys(("bottom", "lower", "bottom half", "bottom part"), "bottom"),
    **dict.fromkeys(("center", "centre", "middle", "centered", "centred", "central"), "center"),
    **dict.fromkeys(("corner", "edge"), "corner"),
}
_RELATIONS = {
    **dict.fromkeys(
        ("next to", "beside", "near", "close to", "alongside", "adjacent to", "by", "by the side of"), "near"
    ),
    **dict.fromkeys(
        ("around", "surrounding", "facing", "looking at", "playing with", "together with"), "near"
    ),
    **dict.fromkeys(("to the left of", "on the left of", "left of", "on the left side of"), "left of"),
    **dict.fromkeys(("to the right of", "on the right of", "right of", "on the right side of"), "right of"),
    **dict.fromkeys(("above", "over", "flying over", "hovering over"), "above"),
    **dict.fromkeys(("below", "under", "underneath", "beneath"), "below"),
    **dict.fromkeys(
        ("on top of", "atop", "sitting on", "standing on", "lying on", "resting on", "riding"), "on"
    ),
    **dict.fromkeys(("behind", "in back of", "hiding behind"), "behind"),
    **dict.fromkeys(("in front of", "before"), "in front of"),
    **dict.fromkeys(("inside", "inside of", "within", "into"), "in"),
    **dict.fromkeys(("wearing", "wears", "wear", "dressed in"), "worn by"),
    **dict.fromkeys(("holding", "holds", "carrying", "carries", "with a", "with an"), "held by"),
}
_PREPOSITIONS = "on in at against upon across through onto to from along"
_ARTICLES = "a an the this that these those its his her their my your our"
_NEGATIONS = ("without", "no", "not", "excluding", "except", "minus", "but no", "with no", "without any")
_GENERIC = "object thing item something subject objects things items stuff anything"
_STOPS = ("and", "or", "with", "as well as", "plus", "also", "but", "then", "while")
_SETTING = """
background backdrop backgrounds scene scenes setting settings landscape landscapes environment
environments area areas scenery surroundings
"""
_FILLERS = """
photo photos photograph picture image images illustration painting drawing rendering render sketch art
artwork shot snapshot portrait view depiction realistic photorealistic hyperrealistic cartoon style stylized
styled high quality resolution detailed highly hd 4k 8k professional beautiful nice pretty cute lovely
amazing stunning clear sharp focus vivid bright colorful colourful of is are was were be being been there it
that which who has have having just only very really quite please can could would should you i we show shows
showing shown displaying depicting featuring feature containing contains contain displayed appearing visible
color colored coloured colour colors colours made type kind sort typical common standard classic ordinary
regular simple natural real actual isolated whole full entire complete body generic standing sitting lying
placed positioned located situated resting set seen up close s t side front wide angle shallow depth field
dof bokeh lighting lit soft well studio 3d rendered digital old young new fresh wild domestic adult
different other another same day daytime sunny so such like for example emoji icon clip clipart sticker
"""
_ACTIONS = """
running run runs walking walk walks jumping jump jumps flying flies eating eat eats sleeping sleep sleeps
playing play plays swimming swim swims barking bark climbing climb driving drive drives parked moving
dancing dance smiling smile laughing crying fighting fight chasing chase hunting hunt kissing hugging
reading read writing singing sing drinking drink cooking waving wave throwing throw catching catch kicking
kick pulling pushing burning growing hanging floating floats diving dives crawling crawls grazing hiding
looking watching waiting working racing galloping stretching yawning roaring falling rolling spinning
glowing shining blooming leaning perched perching
"""


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

    learn("filler", {word: word for word in _FILLERS.split()})
    learn("action", {word: word for word in _ACTIONS.split()})
    learn("article", {word: word for word in _ARTICLES.split()})
    learn("preposition", {word: word for word in _PREPOSITIONS.split()})
    learn("negation", {word: word for word in _NEGATIONS})
    learn("generic", {word: word for word in _GENERIC.split()})
    learn("and", {word: word for word in _STOPS})
    learn("setting", {word: word for word in _SETTING.split()})
    learn("count", {word: str(count) for word, count in (*_COUNTS.items(), *NUMBERS.items())})
    learn("size", _SIZES)
    learn("position", _POSITIONS)
    learn(
        "relation", {phrase: value for phrase, value in _RELATIONS.items() if not phrase.startswith("with")}
    )
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
