"""Images of one subject in varied contexts: how they are asked for, printed and read back.

Here the subject is any words (a class label need not be in the vocabulary), and a context is a set of named
factors, of which each image has one level each. One printed line holds one image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.chat.base import Message
from actors.embedded.drawing.vocabulary import vocabulary, with_article
from actors.embedded.language.words import Words, number_word

NONE = "none"
"""The level of a factor that was left alone."""
MAX_FAILURES = 3
"""Programs without a measurement after which a test of contexts ends."""

_LINE = re.compile(r"^CONTEXT \| ([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?) \| (.*?) ;\s*$", re.M)

_PROGRAM = """\
# {purpose}
trials = [
{trials}
]
images = tools.text2image([prompt for context, prompt in trials])
activations, masked = system.call_neuron(images)
for (context, prompt), activation in zip(trials, activations):
    print(f"CONTEXT | {{activation}} | {{context}} ;")
order = sorted(range(len(trials)), key=lambda index: activations[index])
for index in order[:2] + order[-2:]:
    tools.display(f"{{trials[index][1]}}: {{activations[index]}}", masked[index])
"""


@dataclass(frozen=True, slots=True)
class Context:
    """One image to make: factor -> level."""

    levels: Mapping[str, str]

    @property
    def code(self) -> str:
        return ", ".join(f"{factor}={level}" for factor, level in self.levels.items())

    def get(self, factor: str) -> str:
        return self.levels.get(factor, NONE)


@dataclass(frozen=True, slots=True)
class MeasuredContext:
    """One measured image of a context."""

    round: int
    context: Context
    activation: float


def prompt_of(context: Context, subject: str, words: Words) -> str:
    """Return the prompt for the subject in a context (factors: background, color, size, count, companion)."""
    count = int(context.get("count")) if context.get("count") != NONE else 1
    noun = vocabulary().plural(subject) if count > 1 else subject
    described = " ".join(level for f in ("size", "color") if (level := context.get(f)) != NONE)
    described = f"{described} {noun}".strip() if subject else ""
    things = (
        [f"{number_word(count)} {described}" if count > 1 else with_article(described)] if subject else []
    )
    if (companion := context.get("companion")) != NONE:
        things.append(with_article(companion))
    place = context.get("background")
    if place == NONE:
        return " and ".join(things)
    if not things:
        return place
    known = words.backgrounds.get(place)
    return f"{' and '.join(things)} {known.phrase if known else f'with {with_article(place)} background'}"


def context_program(purpose: str, trials: Sequence[tuple[Context, str]]) -> str:
    """Return a program that makes and measures one image for each (context, prompt)."""
    lines = "\n".join(f"    ({context.code!r}, {prompt!r})," for context, prompt in trials)
    return _PROGRAM.format(purpose=purpose, trials=lines)


def read_contexts(messages: Sequence[Message]) -> list[MeasuredContext]:
    """Return every measured context in a conversation, with the round it belongs to, from 0."""
    contexts: list[MeasuredContext] = []
    rounds = 0
    for message in messages:
        if message.role == "assistant":
            rounds += 1
        elif message.role == "user" and rounds:
            for value, code in _LINE.findall(message.text):
                pairs = [part.partition("=") for part in code.split(", ") if part]
                if all(mark for _, mark, _ in pairs):
                    levels = {factor: level for factor, _, level in pairs}
                    contexts.append(MeasuredContext(rounds - 1, Context(levels), float(value)))
    return contexts
