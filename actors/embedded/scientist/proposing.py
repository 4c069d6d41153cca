"""Contexts for an audit, from the vocabulary: settings and companions, those left out that the request names."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from actors.chat.base import Message
from actors.embedded.language.words import Words, with_article
from actors.embedded.scientist.audit import class_named

_NUMBER = re.compile(r"\bname (\d{1,3}) contexts\b", re.I)


def is_proposing(messages: Sequence[Message]) -> bool:
    """Say whether a conversation asks for contexts, in a list under [CONTEXTS]."""
    users = [message for message in messages if message.role == "user"]
    return len(users) == 1 and "[CONTEXTS]" in users[0].text and bool(_NUMBER.search(users[0].text))


def proposed_contexts(messages: Sequence[Message], words: Words, rng: random.Random) -> str:
    """Return the list: every setting that was not named, then companions at random."""
    text = next(message.text for message in messages if message.role == "user")
    number = _NUMBER.search(text)
    wanted = int(number[1]) if number else 0
    own = class_named(text, words)
    things = [name for name in words.concepts if name != own]
    phrases = [setting.phrase for setting in words.backgrounds.values()]
    phrases += [f"next to {with_article(name)}" for name in rng.sample(things, len(things))]
    new = [phrase for phrase in phrases if phrase not in text]
    return "\n".join(["[CONTEXTS]:", *(f"- {phrase}" for phrase in new[:wanted])])
