"""Models whose calls are charged to an account: reserved before they are sent, and settled after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.chat.base import ChatModel, ChatRequest, OnSend, complete_reporting, ignore_sending
from actors.chat.hosted.usage import estimate_prompt
from actors.chat.reply import ChatReply, Usage
from actors.chat.settings import IMAGE_TOKENS
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from actors.images import Image, Provenance
from agents.records.journal import attempts_in_doubt
from agents.records.record_types import CallRecord
from agents.study.budget import Account, Cost
from agents.study.faults import raise_infrastructure_errors
from tools.toolbox import Studio


@dataclass(frozen=True, slots=True)
class Rate:
    """What a language model charges: dollars for a million tokens, and tokens for an image."""

    prompt: float = 0.0
    completion: float = 0.0
    image_tokens: int = IMAGE_TOKENS
    known: bool = True
    """False: it charges, and its price is unknown."""

    def most(self, request: ChatRequest) -> Cost:
        """Return what a request costs if its answer is as long as it may be."""
        prompt = estimate_prompt(request.messages, self.image_tokens)
        dollars = (prompt * self.prompt + request.max_tokens * self.completion) / 1e6
        return Cost(dollars, prompt + request.max_tokens, 1, unpriced=0 if self.known else 1)


class MeteredChat:
    """A chat model whose calls are paid from an account."""

    def __init__(self, model: ChatModel, account: Account, rate: Rate) -> None:
        self._model, self._account, self._rate = model, account, rate
        self.name, self.sees_images = model.name, model.sees_images

    def most(self, request: ChatRequest) -> CallRecord:
        """Return the most that a call may cost, as it is written down before it is sent."""
        most = self._rate.most(request)
        return CallRecord(tokens=most.tokens, dollars=most.dollars, unpriced=most.unpriced)

    async def complete(self, request: ChatRequest) -> ChatReply:
        return await self.complete_reporting(request, ignore_sending)

    async def complete_reporting(self, request: ChatRequest, on_send: OnSend) -> ChatReply:
        most = self._rate.most(request)
        await self._account.reserve(most)
        spent = Cost()

        async def leaving() -> None:
            nonlocal spent
            await on_send()
            spent = most  # until it is known how it ended; of a call that is cancelled, it never is

        try:
            reply = await complete_reporting(self._model, request, leaving)
            spent = Cost.of(reply.usage)
        except MaiaError as error:
            # Where a replica was lost with the call, nobody knows: the most that it may cost stays counted.
            if (doubtful := attempts_in_doubt(error)) is not None:
                attempts = getattr(error, "attempts", 0)
                unpriced = doubtful * most.unpriced
                spent = Cost(doubtful * most.dollars, doubtful * most.tokens, attempts, unpriced=unpriced)
            raise
        finally:
            await self._account.settle(most, spent)
        return reply


class MeteredStudio:
    """An image maker whose images are paid from an account."""

    def __init__(
        self,
        studio: Studio,
        account: Account,
        expected: float = 0.0,
        record: Callable[[Usage], None] = lambda _: None,
    ) -> None:
        """`expected` is US dollars set aside for an image; `record` writes down the charge of a call."""
        self._studio, self._account = studio, account
        self._expected, self._record = expected, record
        self.images = 0
        """Images that were made."""

    async def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], *, agent: str = ""
    ) -> list[MadeImage | MaiaError]:
        return await self._paid(len(prompts), self._studio.generate(prompts, seeds, agent=agent))

    async def edit(
        self,
        images: Sequence[Image],
        instructions: Sequence[str],
        seeds: Sequence[int],
        provenances: Sequence[Provenance | None],
        *,
        agent: str = "",
    ) -> list[MadeImage | MaiaError]:
        work = self._studio.edit(images, instructions, seeds, provenances, agent=agent)
        return await self._paid(len(images), work)

    async def _paid(self, count: int, work: Any) -> list[MadeImage | MaiaError]:
        most = Cost(count * self._expected, images=count)
        try:
            await self._account.reserve(most)
        except BaseException:
            work.close()
            raise
        made: list[MadeImage | MaiaError] = []
        try:
            made = await work
        finally:
            await self._account.settle(most, await self._charged(made))
        raise_infrastructure_errors(made)
        return made

    async def _charged(self, made: Sequence[MadeImage | MaiaError]) -> Cost:
        """Return what the images cost; a failed call that may have been billed counts as one that was."""
        images = [each for each in made if isinstance(each, MadeImage)]
        doubtful = sum(attempts_in_doubt(each) or 0 for each in made if isinstance(each, MaiaError))
        dollars = sum(each.dollars or 0.0 for each in images) + doubtful * self._expected
        self.images += len(images)
        cost = Cost(dollars, images=len(images), unpriced=sum(each.dollars is None for each in images))
        if cost.dollars or cost.unpriced:
            usage = Usage(dollars=cost.dollars, unpriced=cost.unpriced)
            await asyncio.to_thread(self._record, usage)
        return cost
