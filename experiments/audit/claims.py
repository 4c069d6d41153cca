"""What a [BIAS] text claims, against what was measured: a claim that the numbers do not bear out is named.

The observers read a text and answer in a JSON form (`ask_claims`). Where they give no such answer, its known
words are read: with the embedded world's vocabulary, so that "jungle" is the forest, and without numbers in
brackets. A claim in words that neither reading knows cannot be checked, and is named as unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.embedded.drawing.lexicon import Token, read
from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS
from experiments.audit.context_survey import ContextEffect

DisagreementKind = Literal["unsupported", "opposite", "missed", "untested", "unchecked"]
ClaimReader = Literal["observers", "words"]

_LOWER = (
    r"lower|low|less|fewer|drops?|falls?|fails?|decreases?|decreased|reduced?|reduces|weaker|worse|"
    r"suppress\w*|poorly|below"
)
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
_ROLE = """\
You read what a report claims. Answer with one JSON object of this form and nothing else:
{"claims": [{"context": "background: snow", "direction": "lower"}]}
There is one claim for each context in which the report says that the probability is lower or higher. \
"direction" is "lower" or "higher". "context" is one of the names that you are given, whatever words the \
report uses for it; for a context that none of them names, it is "other: " and the report's own words. What \
the report denies, doubts or only mentions is no claim. A report that found nothing has no claims: \
{"claims": []}."""
_FENCED = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.S)
_OTHER = "other: "
_MAX_CHARS = 200
"""Characters of a context at most."""
_MAX_CLAIMS = 50


@dataclass(frozen=True, slots=True)
class Claim:
    """A context that a text names, and whether it says that the probability is lower (-1) or higher (1)
    there.
    """

    context: str
    sign: int


@dataclass(frozen=True, slots=True)
class TextClaims:
    """What a text claims: known contexts, each once, and the words of what it claims of no known context."""

    known: tuple[Claim, ...] = ()
    unknown: tuple[str, ...] = ()
    read_by: ClaimReader = "words"

    def says_lower(self, context: str) -> bool:
        """Return whether the text claims that the probability is lower in a context."""
        return any(claim.sign < 0 and _same(claim.context, context) for claim in self.known)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Where text and numbers part.

    unsupported: claimed, and the numbers show no such difference. opposite: they show the other direction.
    missed: the numbers show a difference that the text does not name. untested: nothing was measured there.
    unchecked: a claim of no known context; `context` is then the text's own words. `difference` is the
    measured one, None if there is none.
    """

    class_name: str
    kind: DisagreementKind
    context: str
    difference: float | None


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ClaimForm(_Form):
    context: str = Field(min_length=1, max_length=_MAX_CHARS)
    direction: Literal["lower", "higher"]


class _ReplyForm(_Form):
    claims: list[_ClaimForm] = Field(max_length=_MAX_CLAIMS)


async def ask_claims(
    model: ChatModel, text: str, contexts: Sequence[str], seed: int | None = None
) -> TextClaims | None:
    """Return what a model reads a text to claim, None where it does not answer in the form.

    It sees the text and the names of the contexts, and neither images nor figures.
    """
    question = f"The names of contexts: {json.dumps(list(contexts))}\nThe report: {json.dumps(text)}"
    messages = (Message("system", (_ROLE,)), Message("user", (question,)))
    request = ChatRequest(messages, conversation="claims", max_tokens=1000, seed=seed)
    reply = await model.complete(request)
    return read_reply(reply.text, contexts) if reply.finish == "stop" else None


def read_reply(reply: str, contexts: Collection[str]) -> TextClaims | None:
    """Return the claims of a reply in the form, None if it is in any other form or names an unknown
    context.
    """
    fenced = _FENCED.fullmatch(reply)
    try:
        form = _ReplyForm.model_validate_json(fenced[1] if fenced else reply)
    except ValidationError:
        return None
    known: dict[str, Claim] = {}
    unknown: list[str] = []
    for claim in form.claims:
        if claim.context in contexts:
            known.setdefault(claim.context, Claim(claim.context, -1 if claim.direction == "lower" else 1))
        elif words := claim.context.removeprefix(_OTHER).strip() * claim.context.startswith(_OTHER):
            unknown.append(words)
        else:
            return None
    return TextClaims(tuple(known.values()), tuple(dict.fromkeys(unknown)), "observers")


def read_words(text: str, class_name: str) -> TextClaims:
    """Return what the known words of a text claim. Clauses that deny, or name no direction, claim nothing."""
    own = {term.value for term in read(class_name)}
    known: dict[str, Claim] = {}
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
                known.setdefault(context, Claim(context, sign))
            words = " ".join(clause[0 if number == 0 else match.start() : end].split()).strip(" ,:.")
            if not contexts and any(term.kind == "unknown" for term in terms):
                unknown.append(words)
    return TextClaims(tuple(known.values()), tuple(dict.fromkeys(unknown)))


def _context(term: Token) -> str:
    """Return the name that an audit has for a term, "" if it is no context."""
    factor = _FACTORS.get(term.kind, "")
    if not factor:
        return ""
    return f"count: {' '.join(term.words)}" if factor == "count" else f"{factor}: {term.value}"


def _same(context: str, other: str) -> bool:
    """Return whether two names of contexts mean the same, as a place by its canonical name."""

    def canonical(name: str) -> tuple[str, str]:
        factor, _, level = name.partition(": ")
        if factor == "background":
            level = BACKGROUND_WORDS.get(level, level)
        elif factor == "companion":
            level = next((term.value for term in read(level) if term.kind == "thing"), level)
        return factor, level

    return canonical(context) == canonical(other)


def _is_quoted(context: str, text: str) -> bool:
    """Return whether a text names a proposed context by its own phrase; others are read by their words."""
    factor, _, phrase = context.partition(": ")
    return factor == "proposed" and phrase in " ".join(text.lower().split())


def disagreements(
    class_name: str, text: str, claims: TextClaims, effects: Sequence[ContextEffect]
) -> list[Disagreement]:
    """Return where a text and the measured effects of its class part: in order of its claims, then what it
    misses, last what could not be checked.
    """
    parted: list[Disagreement] = []
    named: set[str] = set()
    for claim in claims.known:
        effect = next((effect for effect in effects if _same(effect.context, claim.context)), None)
        if effect is None:
            parted.append(Disagreement(class_name, "untested", claim.context, None))
            continue
        named.add(effect.context)
        if not effect.biased:
            parted.append(Disagreement(class_name, "unsupported", effect.context, effect.difference))
        elif effect.difference * claim.sign < 0:
            parted.append(Disagreement(class_name, "opposite", effect.context, effect.difference))
    for effect in effects:
        # The observers have named every context that a text names; of proposed ones, words cannot.
        quoted = claims.read_by == "words" and _is_quoted(effect.context, text)
        if effect.biased and effect.context not in named and not quoted:
            parted.append(Disagreement(class_name, "missed", effect.context, effect.difference))
    return parted + [Disagreement(class_name, "unchecked", words, None) for words in claims.unknown]


def words_alone(claims: Mapping[str, TextClaims]) -> list[str]:
    """Return the classes whose texts the observers did not read."""
    return [name for name, claim in claims.items() if claim.read_by == "words"]
