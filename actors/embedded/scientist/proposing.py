"""Contexts for an audit, from the vocabulary: settings and companions, those left out that are known."""

from __future__ import annotations

import random

from actors.chat.tasks import ProposeContextsTask
from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Words, plain_name


def proposed_contexts(task: ProposeContextsTask, words: Words, rng: random.Random) -> str:
    """Return the list: every setting that is not known, then companions at random."""
    own = plain_name(task.class_name)
    things = [name for name in words.concepts if name != own]
    phrases = [setting.phrase for setting in words.backgrounds.values()]
    phrases += [f"next to {with_article(name)}" for name in rng.sample(things, len(things))]
    new = [phrase for phrase in phrases if phrase not in task.known]
    return "\n".join(["[CONTEXTS]:", *(f"- {phrase}" for phrase in new[: task.count])])
