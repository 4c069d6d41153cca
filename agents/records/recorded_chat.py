"""Chat whose every call is on record before and after it is made."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable

from actors.chat.base import ChatModel, ChatReply, ChatRequest, complete_reporting
from actors.errors import MaiaError
from agents.records.journal import Journal, attempts_in_doubt
from agents.records.record_types import CallRecord
from agents.records.store import StoreError


def request_key(model: str, request: ChatRequest) -> str:
    """Return what a call is: the digest of everything that its answer may depend on."""
    digest = hashlib.sha256()
    head = [model, request.max_tokens, request.temperature, request.seed]
    digest.update(json.dumps(head).encode())
    for message in request.messages:
        parts = [part if isinstance(part, str) else {"image": part.id} for part in message.parts]
        digest.update(json.dumps([message.role, parts]).encode())
    return digest.hexdigest()[:32]


class RecordedChat:
    """A chat model whose every call goes through a journal: asked again, it answers from the record."""

    def __init__(
        self,
        model: ChatModel,
        journal: Journal,
        role: str,
        cost: Callable[[ChatRequest], CallRecord] = lambda _: CallRecord(),
    ) -> None:
        """`cost` returns the most that a call may cost."""
        self._model, self._journal, self._role, self._cost = model, journal, role, cost
        self.name, self.sees_images = model.name, model.sees_images

    async def complete(self, request: ChatRequest) -> ChatReply:
        # In threads: writing to disk takes milliseconds, and a host has hundreds of conversations on one
        # event loop.
        key = request_key(self.name, request)
        reply = await asyncio.to_thread(self._journal.answer, key)
        if reply is None:
            attempt = 0

            async def on_send() -> None:
                # Only now: what waits for a budget, a rate limit or its turn has not been sent, and is not in
                # doubt.
                nonlocal attempt
                attempt = await asyncio.to_thread(self._intend, key, request)

            try:
                bought = await complete_reporting(self._model, request, on_send)
            except MaiaError as error:
                if attempt and attempts_in_doubt(error) == 0:
                    with contextlib.suppress(StoreError):  # then it stays in doubt; the error is what matters
                        await asyncio.to_thread(self._journal.record_unbilled, key, attempt)
                raise
            # Shielded: once it is paid for, it is written down even if its caller is cancelled meanwhile.
            writing = asyncio.get_running_loop().run_in_executor(
                None, self._journal.record_answer, key, bought
            )
            reply = await asyncio.shield(writing)
        return reply

    def _intend(self, key: str, request: ChatRequest) -> int:
        about = {"role": self._role, "model": self.name, "turns": len(request.messages)}
        return self._journal.intend(key, self._cost(request).model_copy(update=about))
