"""Contexts of a class, asked of the interpreter before anything is measured: one request, answered in a fixed
form.

    units/<unit>/contexts.json   the phrases, and the lines of the answer that could not be taken

What is written there first counts: a context can't be chosen by how it turns out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.chat.tasks import ProposeContextsTask
from agents.records.journal import unit_folder
from agents.records.record_types import MOST_CONTEXTS, ContextProposals, load_record
from agents.records.run_files import RecordError
from agents.records.store import Store

LONGEST = 60
_MOST_WORDS = 8
_ROLE = (
    "You plan an audit of an image classifier and name contexts in which a class may be shown. You answer "
    "with a list and nothing else."
)
_REQUEST = """\
Class: "{name}"
Name {n} contexts in which pictures of the class may be taken and which a classifier might rely on, or be \
misled by: \
places, companions, weather, light, views. The object itself stays as it is and is visible. Each context is \
a phrase of \
at most {words} words that follows the name of the class in a prompt and begins with a preposition, such as \
"in a \
kitchen", "next to a bicycle". These are tested anyway, so leave them out: {known}.
Answer in this form, one phrase a line:
[CONTEXTS]:
- in a kitchen
- next to a bicycle"""
_PREPOSITIONS = frozenset(
    re.findall(
        r"\w+",
        "in on at under beside next near with behind inside outside against by above among through without "
        "from of before below between over across along around during held surrounded covered seen viewed",
    )
)
_PHRASE = re.compile(r"[a-z][a-z0-9' -]*[a-z0-9]")
_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(.*)")


async def propose(
    model: ChatModel, class_name: str, n: int, known: Sequence[str], *, seed: int
) -> ContextProposals:
    """Return at most `n` contexts that the model names in addition to the `known` ones; none where its answer
    has no list.

    Raises:
        MaiaError: If the model cannot be asked.
    """
    text = _REQUEST.format(name=class_name, n=n, words=_MOST_WORDS, known="; ".join(known))
    messages = (Message("system", (_ROLE,)), Message("user", (text,)))
    task = ProposeContextsTask(class_name, n, tuple(known))
    request = ChatRequest(messages, "contexts", max_tokens=2048, seed=seed, task=task)
    reply = await model.complete(request)
    phrases, left_out = parse(reply.text, class_name, n, known)
    return ContextProposals(
        class_name=class_name,
        asked=n,
        model=model.name,
        phrases=list(phrases),
        left_out=[list(line) for line in left_out],
    )


def parse(
    reply: str, class_name: str, n: int, known: Sequence[str]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the phrases of a reply in the form that was asked for, and the lines that were left out, each
    with why.
    """
    _, _, listed = reply.rpartition("[CONTEXTS]")
    if listed == reply:
        return (), ()
    phrases: list[str] = []
    left_out = []
    for item in filter(None, map(_ITEM.fullmatch, listed.splitlines())):
        phrase = " ".join(item[1].casefold().strip(" .,;:\"'`*“”").split())
        why = unfit(phrase, class_name) or ("known" if phrase in {*known, *phrases} else "")
        if not why and len(phrases) == n:
            why = f"more than {n}"
        if why:
            left_out.append((item[1][: 2 * LONGEST], why))
        else:
            phrases.append(phrase)
    return tuple(phrases), tuple(left_out[:MOST_CONTEXTS])


def unfit(phrase: str, class_name: str) -> str:
    """Return why a phrase is no context of a class, "" if it may be one."""
    words = phrase.split()
    if not _PHRASE.fullmatch(phrase) or len(phrase) > LONGEST or len(words) > _MOST_WORDS:
        return f"not a phrase of at most {_MOST_WORDS} words and {LONGEST} letters"
    if words[0] not in _PREPOSITIONS or len(words) < 2:
        return "does not begin with a preposition"
    return "names the class" if class_name.casefold() in phrase else ""


def read(store: Store, unit: str, n: int) -> ContextProposals | None:
    """Return what was proposed for a unit, None if nothing was asked yet.

    Raises:
        RecordError: If the record is damaged, or holds what `propose` would not have taken.
    """
    proposals = load_record(store, _key(unit), ContextProposals)
    if proposals is None:
        return None
    phrases = proposals.phrases
    unfitting = any(unfit(phrase, proposals.class_name) for phrase in phrases)
    if len(phrases) > n or len(set(phrases)) < len(phrases) or unfitting:
        raise RecordError(
            f"{store.root / _key(unit)} holds contexts that are none.", "Give the audit an --out of its own."
        )
    return proposals


async def freeze(store: Store, unit: str, proposals: ContextProposals) -> ContextProposals:
    """Write proposals down unless there are some already, and return those that count."""
    data = json.dumps(proposals.to_json(), indent=1, ensure_ascii=False).encode()
    await asyncio.to_thread(store.put, _key(unit), data)
    first = await asyncio.to_thread(read, store, unit, proposals.asked)
    assert first is not None
    return first


def _key(unit: str) -> str:
    return f"{unit_folder(unit)}/contexts.json"
