"""Observers as witnesses of contexts: which real images show a context, and how often the answers are wrong.

Each question is a blind conversation of its own. The errors are measured on generated images whose content is
known: images of the audit's own screen, which the image maker has kept.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.errors import MaiaError
from actors.images import Image
from agents.critic.stimuli import lacks_something
from agents.critic.witness import Witness
from experiments.audit.context_survey import CONTEXTS, prompt_of, seed_of
from experiments.audit.real_images import Answers
from tools.toolbox import Studio

KNOWN = 12
"""Generated images with a context, and as many without, on which the observers' errors are measured."""


def question_of(context: str, class_name: str) -> str:
    """Return what observers are asked for: "something in the snow", "a person", "red umbrella"."""
    factor, _, level = context.partition(": ")
    if factor in ("background", "proposed"):
        return prompt_of(context, "something")
    return f"a {level}" if factor == "companion" else prompt_of(context, class_name)


@dataclass(frozen=True)
class ContextWitness:
    """Asks about one class of an audit. `seed` and `per_context` are those of its screen."""

    witness: Witness
    studio: Studio
    class_name: str
    """The name that it is drawn by."""
    seed: int
    per_context: int

    async def ask(
        self,
        context: str,
        ordinary: Sequence[str],
        images: Sequence[Image | None],
        rows: Sequence[int],
        name: str,
    ) -> Answers:
        """Return what the observers answer on real images (None: it cannot be read), which are `rows` of the
        record.

        `ordinary` are the contexts that the generated images without this one are taken from; `name` is the
        class's in the record.
        """
        known = await self._known(context, [other for other in ordinary if other != context])
        there = [(row, image) for row, image in zip(rows, images, strict=True) if image is not None]
        question = question_of(context, self.class_name)
        asked = [(image, question) for _, image in there]
        asked += [(image, question) for image, _ in known]
        order = list(range(len(asked)))
        random.Random(f"{self.seed} {context}").shuffle(order)
        replies = await self.witness.shows([asked[place] for place in order])
        said = dict(zip(order, replies, strict=True))
        shown = [said[place] for place in range(len(there))]
        judged = [
            (said[len(there) + place], present)
            for place, (_, present) in enumerate(known)
            if said[len(there) + place] is not None
        ]
        return Answers(
            name,
            context,
            [row for row, _ in there],
            shown,
            hits=sum(bool(answer) for answer, present in judged if present),
            present=sum(present for _, present in judged),
            alarms=sum(bool(answer) for answer, present in judged if not present),
            absent=sum(not present for _, present in judged),
        )

    async def _known(self, context: str, others: Sequence[str]) -> list[tuple[Image, bool]]:
        """Return images of the screen, and whether each was made of the context; what could not be drawn is
        left out.
        """
        numbers = range(min(KNOWN, self.per_context))
        asked: list[tuple[str, int, bool]] = [(context, number, True) for number in numbers]
        for place in range(KNOWN if others else 0):
            asked.append((others[place % len(others)], (place // len(others)) % self.per_context, False))
        asked = list(dict.fromkeys(asked))
        prompts = [prompt_of(name, self.class_name) for name, *_ in asked]
        seeds = [
            seed_of(self.seed, "screen", prompt, number)
            for prompt, (_, number, _) in zip(prompts, asked, strict=True)
        ]
        made = await self.studio.generate(prompts, seeds)
        return [
            (image.image, present)
            for image, (*_, present) in zip(made, asked, strict=True)
            if not isinstance(image, MaiaError) and not lacks_something(image)
        ]


def contexts_to_ask(biased: Mapping[str, Sequence[str]], everything: bool) -> dict[str, list[str]]:
    """Return the contexts to ask observers about by class: those `biased` on generated images, or the whole
    design's.
    """
    return {
        name: list(dict.fromkeys([*contexts, *(CONTEXTS if everything else ())]))
        for name, contexts in biased.items()
    }
