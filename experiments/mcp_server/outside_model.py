"""A client in the place of a language model: it waits for replies that come from elsewhere."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from actors.chat.base import ChatRequest, OnSend, Part, ignore_sending
from actors.chat.reply import ChatReply
from actors.chat.tasks import DescribeUnitTask
from actors.errors import UsageError

PREFIX = "mcp:"
"""Begins the name of every interpreter that is a client."""
_LONGEST_NAME = 60


def interpreter_name(client: str, version: str) -> str:
    """Return the name under which a client is on record.

    A client says of itself what it likes: control characters and all but its beginning are left out.
    """
    words = re.sub(r"[^\w .()+/@-]+", " ", f"{client} {version}")
    return PREFIX + (" ".join(words.split())[:_LONGEST_NAME].strip() or "unknown client")


@dataclass(frozen=True, slots=True)
class Turn:
    """What the interpreter was last shown, and that its next reply is awaited."""

    rounds: int
    """Finished rounds."""
    shown: tuple[Part, ...]
    final: bool
    """The reply must be the answer."""

    @classmethod
    def of(cls, request: ChatRequest) -> Turn:
        rounds = sum(message.role == "assistant" for message in request.messages)
        last = request.messages[-1]
        final = isinstance(request.task, DescribeUnitTask) and request.task.final
        return cls(rounds, last.parts if rounds and last.role == "user" else (), final)


class OutsideModel:
    """A chat model without a model: `reply` gives what `complete` returns."""

    sees_images = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn: Turn | None = None
        """The turn that waits for a reply; None while there is none."""
        self.waiting = asyncio.Event()
        """Set while a turn waits."""
        self._reply: asyncio.Future[str] | None = None

    def reply(self, text: str) -> None:
        """Give the reply to the turn that waits.

        Raises:
            UsageError: If none does.
        """
        if self._reply is None or self._reply.done():
            raise UsageError("the study is at work.", "Wait for the result of the last call with `wait`.")
        self._reply.set_result(text)
        self.turn = None
        self.waiting.clear()

    async def complete(self, request: ChatRequest) -> ChatReply:
        return await self.complete_reporting(request, ignore_sending)

    async def complete_reporting(self, request: ChatRequest, on_send: OnSend) -> ChatReply:
        self._reply = asyncio.get_running_loop().create_future()
        self.turn = Turn.of(request)
        self.waiting.set()
        try:
            text = await self._reply
        finally:
            self._reply, self.turn = None, None
            self.waiting.clear()
        # Only now is there a call: one that waits for its client has cost nothing, and is not in doubt.
        await on_send()
        return ChatReply(text, model=self.name)
