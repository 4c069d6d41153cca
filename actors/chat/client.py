"""A language model behind a pool, and one that cannot see and gets descriptions of another.

Both are plain collaborators without state worth keeping; the model itself lives in a replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from actors.chat.base import (
    ChatModel,
    ChatRequest,
    OnSend,
    PermitRequest,
    PermittedRequest,
    complete_reporting,
    ignore_sending,
)
from actors.chat.history import NOT_SHOWN
from actors.chat.hosted.usage import estimate_prompt
from actors.chat.reply import ChatReply
from actors.images import Image
from actors.serving.pool import Pool

_WORDS_KEPT = 20_000
"""Descriptions remembered by one `TextOnlyChat`: far more images than its open conversations hold."""

DescribeImage = Callable[[Image], Awaitable[str]]
"""Returns a description of one image by a model that knows nothing of the conversation."""


class PoolChatModel:
    """A `ChatModel` whose replicas live in a pool; conversations are the unit of fairness.

    `unqueued_calls` is how many calls of this process its backend sends at once, None where it gives no
    permits (`PermitRequest`). A call beyond them may have to wait there, for its turn or for a rate limit,
    and asks for a permit first, so that it is not reported as sent meanwhile.
    """

    def __init__(
        self, pool: Pool[Any, Any], name: str, sees_images: bool, *, unqueued_calls: int | None = None
    ) -> None:
        self._pool, self._unqueued_calls = pool, unqueued_calls
        self._unanswered = 0
        self.name = name
        self.sees_images = sees_images

    async def complete(self, request: ChatRequest) -> ChatReply:
        with self._unanswered_call():
            reply: ChatReply = await self._pool.submit(request, agent=request.conversation)
            return reply

    async def complete_reporting(self, request: ChatRequest, on_send: OnSend) -> ChatReply:
        waits = self._unqueued_calls is not None and self._unanswered >= self._unqueued_calls
        with self._unanswered_call():
            asked: ChatRequest | PermittedRequest = request
            if waits:
                n_images = sum(len(message.images) for message in request.messages)
                size = PermitRequest(estimate_prompt(request.messages, 0), n_images, request.max_tokens)
                asked = PermittedRequest(request, await self._pool.submit(size, agent=request.conversation))
            await on_send()
            reply: ChatReply = await self._pool.submit(asked, agent=request.conversation)
            return reply

    @contextmanager
    def _unanswered_call(self) -> Iterator[None]:
        self._unanswered += 1
        try:
            yield
        finally:
            self._unanswered -= 1


class TextOnlyChat:
    """A `ChatModel` for a model that cannot see: images become words before they reach it.

    With `describe`, each image is described once, blind, and the same words stand for it in every later
    round, so that the conversation stays append-only. Without, a text says that the image is not shown.
    A failure of the describer is the request's failure: a missing description would look like evidence.
    """

    sees_images = False

    def __init__(self, model: ChatModel, describe: DescribeImage | None = None) -> None:
        self.name = model.name
        self._model, self._describe = model, describe
        self._words: dict[str, asyncio.Future[str]] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        return await self.complete_reporting(request, ignore_sending)

    async def complete_reporting(self, request: ChatRequest, on_send: OnSend) -> ChatReply:
        if not any(message.images for message in request.messages):
            return await complete_reporting(self._model, request, on_send)
        images = {image.id: image for message in request.messages for image in message.images}
        words = dict(zip(images, await asyncio.gather(*map(self._in_words, images.values())), strict=True))
        messages = tuple(
            replace(m, parts=tuple(part if isinstance(part, str) else words[part.id] for part in m.parts))
            for m in request.messages
        )
        return await complete_reporting(self._model, replace(request, messages=messages), on_send)

    async def _in_words(self, image: Image) -> str:
        if self._describe is None:
            return NOT_SHOWN
        task = self._words.get(image.id)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._words[image.id] = asyncio.ensure_future(self._describe(image))
            # Those who wait see the failure; if none does, it is not reported as unhandled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            if len(self._words) > _WORDS_KEPT:
                del self._words[next(iter(self._words))]
        # Shielded: two conversations may wait for one description, and one of them may be cancelled.
        return f"[image, described by another model: {await asyncio.shield(task)}]"
