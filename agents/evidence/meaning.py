"""What a label's words mean, asked of a language model in a fixed form: core, conditions, and words beside
it.

Whoever is asked sees the label alone, and neither images nor figures. An answer in another form counts as
none: then the label is taken apart by its prepositions (`agents.evidence.simpler_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.chat.tasks import ExplainLabelTask
from agents.evidence.simpler_labels import Doubt, doubts, is_combination

ROLE = """\
You take short phrases apart for a scientist, by what they mean and not by their grammar. Answer with lines of this form and \
nothing else:
CORE: the thing, property or scene that the phrase is about, by itself
QUALIFIER: something that must be there as well, as it could be shown alone | the whole phrase without it
EXCEPTION: something that must not be there | the whole phrase without mention of it
BROADER: the whole phrase with the next wider kind in place of the core
NARROWER: the whole phrase with one narrower kind in place of the core
SYNONYM: the whole phrase in other words
There is one line QUALIFIER for each, and one line EXCEPTION for each, or none. Write "none" after BROADER, NARROWER or SYNONYM if \
there is no such phrase.

For "a red car without people on a street":
CORE: car
QUALIFIER: red things | car without people on a street
QUALIFIER: a street | red car without people
EXCEPTION: people | red car on a street
BROADER: red vehicle without people on a street
NARROWER: red sports car without people on a street
SYNONYM: red automobile without people on a street"""

_SINGLE = ("CORE", "BROADER", "NARROWER", "SYNONYM")
_PAIRS = ("QUALIFIER", "EXCEPTION")
_LONGEST = 120
"""Characters of a phrase at most: what is longer is no phrase that an image could be asked for with."""
_MOST = 4
"""Qualifiers and exceptions at most: each costs images."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a label asks for, or excepts: what it is, and the label without it."""

    what: str
    without: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a label says. `broader`, `narrower` and `synonym` are whole labels, "" where there is none."""

    core: str
    qualifiers: tuple[Part, ...] = ()
    exceptions: tuple[Part, ...] = ()
    broader: str = ""
    narrower: str = ""
    synonym: str = ""

    @property
    def combines(self) -> bool:
        """Whether the label holds a condition: something else that must be there, or must not."""
        return bool(self.qualifiers or self.exceptions)


def read_meaning(reply: str) -> Meaning | None:
    """Return what a reply in the fixed form says, None if it is in any other form: a missing line, another,
    or one too long.
    """
    single: dict[str, str] = {}
    pairs: dict[str, list[Part]] = {name: [] for name in _PAIRS}
    for line in filter(None, (line.strip() for line in reply.strip().splitlines())):
        name, colon, text = line.partition(":")
        what, bar, without = (part.strip() for part in text.partition("|"))
        if not colon or not what or len(what) > _LONGEST or len(without) > _LONGEST:
            return None
        if name in _SINGLE and not bar and name not in single:
            single[name] = "" if what.lower() == "none" else what
        elif name in _PAIRS and without:
            pairs[name].append(Part(what, without))
        else:
            return None
    if set(single) != set(_SINGLE) or not single["CORE"] or sum(map(len, pairs.values())) > _MOST:
        return None
    return Meaning(
        single["CORE"],
        tuple(pairs["QUALIFIER"]),
        tuple(pairs["EXCEPTION"]),
        *(single[name] for name in _SINGLE[1:]),
    )


async def ask_meaning(model: ChatModel, label: str, seed: int | None = None) -> Meaning | None:
    """Return what a label means, None where the model does not say so in the form."""
    messages = (Message("system", (ROLE,)), Message("user", (f'Take this phrase apart: "{label}"',)))
    request = ChatRequest(messages, "meaning", max_tokens=400, seed=seed, task=ExplainLabelTask(label))
    reply = await model.complete(request)
    return read_meaning(reply.text) if reply.finish == "stop" else None


def doubts_about(label: str, meaning: Meaning | None) -> list[Doubt]:
    """Return every way to say less than a label does, by its meaning, or by its words where that is not
    known.

    A broader word says less, too: where its other images drive the unit as much, the label names one example
    of what does.
    """
    if meaning is None:
        return doubts(label)
    found = [
        Doubt(each.without, f"{each.without} with {each.what}", each.without) for each in meaning.exceptions
    ]
    for each in meaning.qualifiers:
        found += [Doubt(text, text) for text in (each.without, each.what)]
    if meaning.combines:
        found.append(Doubt(meaning.core, meaning.core))
    if meaning.broader:
        found.append(Doubt(meaning.broader, meaning.broader, wider=True))
    return [each for each in _distinct(found) if _same(each.simpler) != _same(label)]


def rivals_of(label: str, meaning: Meaning | None) -> list[str]:
    """Return labels that may say the same or more exactly what drives the unit: a narrower word, and a
    synonym.
    """
    if meaning is None:
        return []
    return [each for each in (meaning.narrower, meaning.synonym) if each and _same(each) != _same(label)]


def combines(label: str, meaning: Meaning | None) -> bool:
    """Say whether a label holds a condition, by its meaning or else by its words."""
    return is_combination(label) if meaning is None else meaning.combines


def _distinct(doubted: Sequence[Doubt]) -> list[Doubt]:
    return list({(_same(each.simpler), _same(each.weaker)): each for each in reversed(doubted)}.values())[
        ::-1
    ]


def _same(phrase: str) -> str:
    return " ".join(phrase.lower().split())
