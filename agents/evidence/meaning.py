"""What a label's words mean, asked of a language model in a fixed form: core, conditions, and alternative
labels.

The model sees the label alone, and neither images nor figures. An answer in another form counts as
none: then the label is taken apart by its prepositions (`agents.evidence.simpler_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.chat.tasks import ExplainLabelTask
from agents.evidence.evidence_record import LabelMeaning, LabelPart
from agents.evidence.simpler_labels import Doubt, doubts

ROLE = """\
You take short phrases apart for a scientist, by what they mean and not by their grammar. Answer with lines \
of this form and \
nothing else:
CORE: the thing, property or scene that the phrase is about, by itself
QUALIFIER: something that must be there as well, as it could be shown alone | the whole phrase without it
EXCEPTION: something that must not be there | the whole phrase without mention of it
BROADER: the whole phrase with the next wider kind in place of the core
NARROWER: the whole phrase with one narrower kind in place of the core
SYNONYM: the whole phrase in other words
There is one line QUALIFIER for each, and one line EXCEPTION for each, or none. Write "none" after BROADER, \
NARROWER or SYNONYM if \
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


def read_meaning(reply: str) -> LabelMeaning | None:
    """Return what a reply in the fixed form says, None if it is in any other form: a missing line, another,
    or one too long.
    """
    single: dict[str, str] = {}
    pairs: dict[str, list[LabelPart]] = {name: [] for name in _PAIRS}
    for line in filter(None, (line.strip() for line in reply.strip().splitlines())):
        name, colon, text = line.partition(":")
        what, bar, without = (part.strip() for part in text.partition("|"))
        if not colon or not what or len(what) > _LONGEST or len(without) > _LONGEST:
            return None
        if name in _SINGLE and not bar and name not in single:
            single[name] = "" if what.lower() == "none" else what
        elif name in _PAIRS and without:
            pairs[name].append(LabelPart(what=what, without=without))
        else:
            return None
    if set(single) != set(_SINGLE) or not single["CORE"] or sum(map(len, pairs.values())) > _MOST:
        return None
    return LabelMeaning(
        core=single["CORE"],
        qualifiers=pairs["QUALIFIER"],
        exceptions=pairs["EXCEPTION"],
        broader=single["BROADER"],
        narrower=single["NARROWER"],
        synonym=single["SYNONYM"],
    )


async def ask_meaning(model: ChatModel, label: str, seed: int | None = None) -> LabelMeaning | None:
    """Return what a label means, None where the model does not say so in the form."""
    messages = (Message("system", (ROLE,)), Message("user", (f'Take this phrase apart: "{label}"',)))
    request = ChatRequest(messages, "meaning", max_tokens=400, seed=seed, task=ExplainLabelTask(label))
    reply = await model.complete(request)
    return read_meaning(reply.text) if reply.finish == "stop" else None


def doubts_about(label: str, meaning: LabelMeaning | None) -> list[Doubt]:
    """Return every way to say less than a label does, by its meaning, or by its words where that is not
    known.

    A broader word says less, too: where its other images drive the unit as much, the label names one example
    of what does.
    """
    if meaning is None:
        return doubts(label)
    doubted = [
        Doubt(part.without, f"{part.without} with {part.what}", part.without) for part in meaning.exceptions
    ]
    for part in meaning.qualifiers:
        doubted += [Doubt(text, text) for text in (part.without, part.what)]
    if meaning.combines:
        doubted.append(Doubt(meaning.core, meaning.core))
    if meaning.broader:
        doubted.append(Doubt(meaning.broader, meaning.broader, wider=True))
    return [doubt for doubt in _distinct(doubted) if _normalized(doubt.simpler) != _normalized(label)]


def rivals_of(label: str, meaning: LabelMeaning | None) -> list[str]:
    """Return labels that may say the same or more exactly what drives the unit: a narrower word, and a
    synonym.
    """
    if meaning is None:
        return []
    return [
        text
        for text in (meaning.narrower, meaning.synonym)
        if text and _normalized(text) != _normalized(label)
    ]


def _distinct(doubted: Sequence[Doubt]) -> list[Doubt]:
    by_text = {(_normalized(doubt.simpler), _normalized(doubt.weaker)): doubt for doubt in reversed(doubted)}
    return list(by_text.values())[::-1]


def _normalized(phrase: str) -> str:
    return " ".join(phrase.lower().split())
