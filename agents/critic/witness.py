"""The witness: a blind observer that says of one image whether it shows one thing.

Each question is a conversation of its own, without hypotheses or history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from actors.chat.base import ChatModel, ChatRequest, Message, Part
from actors.chat.tasks import CheckLabelTask, ImageTask
from actors.endpoint.faults import ImageRejectedError
from actors.grouping import all_of
from actors.images import Image

_ROLE = "You describe images for a scientist. Answer with one word: yes or no."


class Witness:
    """Says what images show, by one chat model."""

    def __init__(self, model: ChatModel, *, seed: int | None = None) -> None:
        self._model, self._seed = model, seed

    async def shows(self, questions: Sequence[tuple[Image, str]]) -> list[bool | None]:
        """Return for each (image, thing) whether the image shows it; None where its answer is unclear."""

        async def ask(image: Image, thing: str) -> bool | None:
            question = f"Does this image show {thing}? Answer yes or no."
            reply = await self._ask(_ROLE, [question, image], CheckLabelTask(thing), max_tokens=16)
            words = re.findall(r"[a-z]+", reply.lower())
            return words[0] == "yes" if words and words[0] in ("yes", "no") else None

        return await all_of(ask(image, thing) for image, thing in questions)

    async def _ask(self, role: str, parts: Sequence[Part], task: ImageTask, max_tokens: int) -> str:
        messages = (Message("system", (role,)), Message("user", tuple(parts)))
        request = ChatRequest(messages, "skeptic", max_tokens=max_tokens, seed=self._seed, task=task)
        try:
            return (await self._model.complete(request)).text
        except ImageRejectedError:
            return ""  # as an answer that cannot be read: unclear
