"""Writers of the prompts that put a label to the test, and of which of them a label entails (MAIA
4.1).

Each question goes to a fresh conversation. A set-up without a language model has stand-ins: everyday
templates, and the words that label and prompt share.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from actors.chat.base import ChatModel, ChatRequest, Message
from actors.errors import BackendError
from agents.critic.stimuli import control_subjects
from experiments.paper.gym.score import senses
from tools.toolbox import seed_for

T = TypeVar("T")

PROMPTS = 7
"""Prompts of each kind that a method contributes, and that a label is paired with."""


class PromptError(BackendError):
    """The language model wrote no usable prompts or pairing, also when asked again."""


class PromptWriter(Protocol):
    """Writes prompts for a label, and pairs a label with prompts."""

    name: str

    async def write(self, label: str) -> tuple[list[str], list[str]]:
        """Return `PROMPTS` prompts of things that the label describes, and as many of things that it does
        not.
        """

    async def pair(self, label: str, prompts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the positions of the `PROMPTS` most entailed prompts, and of the least, without overlap."""


_WRITE = (
    "You write prompts for a text-to-image model, to test a claim about what a sensor answers to. Each "
    "prompt describes one realistic image in one line. Answer with lines only: each begins with + or with "
    "-."
)
_PAIR = (
    "You are given a description and numbered captions. Say which captions describe an image that fits the "
    "description best, and which fit it least. Answer with two lines: `MOST:` and `LEAST:`, each with "
    "numbers divided by commas."
)


class ChatPromptWriter:
    """Asks a language model."""

    def __init__(self, model: ChatModel, *, seed: int = 0) -> None:
        self._model, self._seed = model, seed
        self.name = model.name

    async def write(self, label: str) -> tuple[list[str], list[str]]:
        question = (
            f'The claim: the sensor answers to "{label}".\nWrite {PROMPTS} prompts, beginning with +, for '
            f"varied images that should drive it most, and {PROMPTS} prompts, beginning with -, for "
            "ordinary images that have nothing to do with the claim."
        )

        def read(reply: str) -> tuple[list[str], list[str]] | None:
            lines = [line.strip() for line in reply.splitlines()]
            kinds = [[_cleaned(line) for line in lines if line.startswith(sign)] for sign in ("+", "-")]
            positive, neutral = (list(dict.fromkeys(filter(None, kind)))[:PROMPTS] for kind in kinds)
            return (positive, neutral) if len(positive) == len(neutral) == PROMPTS else None

        return await self._ask(_WRITE, question, read, f"prompts for {label!r}")

    async def pair(self, label: str, prompts: Sequence[str]) -> tuple[list[int], list[int]]:
        listed = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1))
        count = min(PROMPTS, len(prompts) // 2)
        question = (
            f'The description: "{label}".\n{listed}\nGive the {count} most and the {count} least fitting.'
        )

        def read(reply: str) -> tuple[list[int], list[int]] | None:
            groups = []
            for word in ("MOST", "LEAST"):
                match = re.search(rf"{word}\W*((?:\d+\W+)*\d+)", reply, re.I)
                numbers = [int(text) - 1 for text in re.findall(r"\d+", match[1])] if match else []
                groups.append(list(dict.fromkeys(n for n in numbers if 0 <= n < len(prompts)))[:count])
            most, least = groups
            return (most, least) if len(most) == len(least) == count and not set(most) & set(least) else None

        return await self._ask(_PAIR, question, read, f"a pairing for {label!r}")

    async def _ask(self, role: str, question: str, read: Callable[[str], T | None], what: str) -> T:
        """Return what `read` finds in a reply; a reply that is no use is asked for once more."""
        for attempt in range(2):
            messages = (Message("system", (role,)), Message("user", (question,)))
            request = ChatRequest(
                messages, conversation="evaluation", max_tokens=1500, seed=self._seed + attempt
            )
            if (answer := read((await self._model.complete(request)).text)) is not None:
                return answer
        raise PromptError(
            f"{self._model.name} gave no usable {what}.", "Use a stronger model as the profile's observer."
        )


def _cleaned(line: str) -> str:
    return re.sub(r"^[+-]\s*(?:\d+[.)]\s*)?", "", line).strip(" \"'`*")


_WORDINGS = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a snapshot of {}",
    "a realistic photo of {}",
    "a detailed picture of {}",
)
"""As many as prompts, so that no two are equal."""


class TemplatePromptWriter:
    """The stand-in without a language model: everyday templates, and words in common."""

    name = "templates (stand-in)"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    async def write(self, label: str) -> tuple[list[str], list[str]]:
        rng = random.Random(seed_for(self._seed, "evaluation", label))
        parts = label.split(" OR ")
        others = rng.sample(control_subjects(parts), PROMPTS)
        positive = [wording.format(parts[n % len(parts)]) for n, wording in enumerate(_WORDINGS)]
        return positive, [wording.format(other) for wording, other in zip(_WORDINGS, others, strict=True)]

    async def pair(self, label: str, prompts: Sequence[str]) -> tuple[list[int], list[int]]:
        count = min(PROMPTS, len(prompts) // 2)
        order = sorted(range(len(prompts)), key=lambda index: -entailment(prompts[index], label))
        return order[:count], order[-count:]


def entailment(prompt: str, label: str) -> float:
    """Return how far what a prompt shows is what a label names, in [0, 1]: of the alternatives, the
    nearest.
    """
    shown = senses(prompt)

    def share(alternative: str) -> float:
        named = senses(alternative)
        if not named:
            return 0.0
        return sum(max((len(a & b) / len(b) for b in shown), default=0.0) for a in named) / len(named)

    return max(share(part) for part in label.split(" OR "))
