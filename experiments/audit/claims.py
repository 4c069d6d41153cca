"""What a [BIAS] text claims, against what was measured: a claim that the numbers do not bear out is named.

Read with the embedded world's words, so that "jungle" is the forest; numbers in brackets are passed over.
What says "lower" or "higher" of something in other words cannot be held against anything, and is named as
unchecked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS

Kind = Literal["unsupported", "opposite", "missed", "untested", "unchecked"]

_LOWER = r"lower|low|less|fewer|drops?|falls?|fails?|decreases?|decreased|reduced?|reduces|weaker|worse|suppress\w*|poorly|below"
_HIGHER = r"higher|high|more|rises?|increases?|increased|stronger|better|prefers?|favou?rs?|boosts?|above"
_DIRECTION = re.compile(rf"\b(?:(?P<lower>{_LOWER})|(?P<higher>{_HIGHER}))\b", re.I)
_DENIAL = re.compile(
    r"\b(no|not|without|nor|neither|never|uniform\w*|unaffected|did not hold|would have been)\b", re.I
)
_FACTORS = {
    "background": "background",
    "color": "colour",
    "count": "count",
    "size": "size",
    "thing": "companion",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A context that a text names, and whether it says that the probability is lower (-1) or higher (1)
    there.
    """

    context: str
    sign: int


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where text and numbers part.

    unsupported: claimed, and the numbers show no such difference. opposite: they show the other direction.
    missed: the numbers show a difference that the text does not name. untested: nothing was measured there.
    unchecked: a claim of no context that the reader knows; `context` is then the text's own words.
    `difference` is the measured one, None if there is none.
    """

    class_name: str
    kind: Kind
    context: str
    difference: float | None


def read_claims(text: str, class_name: str) -> tuple[list[Claim], list[str]]:
    """Return what a text claims, each context once, and the words of what it claims of no known context.

    Clauses that deny, or name no direction, claim nothing.
    """
    own = {term.value for term in read(class_name)}
    claims: dict[str, Claim] = {}
    unknown: list[str] = []
    bare = re.sub(r"\([^()]*\)|\d*\.\d+|\d+ ?%", " ", text)
    for clause in re.split(r"[;\n]|\.\s|\.$|\bbut\b|\bwhile\b|\bwhereas\b", bare):
        directions = list(_DIRECTION.finditer(clause))
        if not directions or _DENIAL.search(clause):
            continue
        ends = [match.start() for match in directions[1:]] + [len(clause)]
        for number, (match, end) in enumerate(zip(directions, ends, strict=True)):
            # What stands before the first direction ("in snow it is lower") belongs to it as well.
            part = clause[0 if number == 0 else match.end() : end]
            sign = -1 if match["lower"] else 1
            terms = read(_DIRECTION.sub(" ", part))
            contexts = [_context(term) for term in terms if term.value not in own and _context(term)]
            for context in contexts:
                claims.setdefault(context, Claim(context, sign))
            words = " ".join(clause[0 if number == 0 else match.start() : end].split()).strip(" ,:.")
            if not contexts and any(term.kind == "unknown" for term in terms) and words not in unknown:
                unknown.append(words)
    return list(claims.values()), unknown


def _context(term: Token) -> str:
    """Return the name that an audit has for a term, "" if it is no context."""
    factor = _FACTORS.get(term.kind, "")
    if not factor:
        return ""
    if factor == "count":
        return f"count: {' '.join(term.words)}"
    return f"{factor}: {term.value}"


def _same(context: str, other: str) -> bool:
    """Say whether two names of contexts mean the same, as a place by its canonical name."""

    def plain(name: str) -> tuple[str, str]:
        factor, _, level = name.partition(": ")
        if factor == "background":
            level = BACKGROUND_WORDS.get(level, level)
        elif factor == "companion":
            level = next((term.value for term in read(level) if term.kind == "thing"), level)
        return factor, level

    return plain(context) == plain(other)


def _quoted(context: str, text: str) -> bool:
    """Say whether a text names a proposed context by its own phrase; others are read by their words."""
    factor, _, phrase = context.partition(": ")
    return factor == "proposed" and phrase in " ".join(text.lower().split())


def says_lower(text: str, class_name: str, context: str) -> bool:
    """Say whether a text claims that the probability is lower in a context."""
    claims, _ = read_claims(text, class_name)
    return any(claim.sign < 0 and _same(claim.context, context) for claim in claims)


def disagreements(text: str, class_name: str, effects: Sequence[Mapping[str, Any]]) -> list[Disagreement]:
    """Return where a text and the measured effects of its class part, in order of the text, then what it
    misses.

    Last comes what could not be checked.

    `effects` are the audit's: `context`, `difference`, `biased`.
    """
    found: list[Disagreement] = []
    named: list[str] = []
    claims, unknown = read_claims(text, class_name)
    for claim in claims:
        effect = next((each for each in effects if _same(each["context"], claim.context)), None)
        if effect is None:
            found.append(Disagreement(class_name, "untested", claim.context, None))
            continue
        named.append(effect["context"])
        difference = float(effect["difference"])
        if not effect["biased"]:
            found.append(Disagreement(class_name, "unsupported", effect["context"], difference))
        elif difference * claim.sign < 0:
            found.append(Disagreement(class_name, "opposite", effect["context"], difference))
    found += [
        Disagreement(class_name, "missed", each["context"], float(each["difference"]))
        for each in effects
        if each["biased"] and each["context"] not in named and not _quoted(each["context"], text)
    ]
    return found + [Disagreement(class_name, "unchecked", words, None) for words in unknown]
