"""The interface of vision-language models: messages in, one reply out.

Messages hold text and images in order. A backend encodes images as it needs; nothing above
it knows an endpoint's wire format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from actors.chat.reply import ChatReply
from actors.chat.tasks import ChatTask
from actors.images import Image

MessageRole = Literal["system", "user", "assistant"]
Part = str | Image
"""A piece of a message: text, or an image."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: MessageRole
    parts: tuple[Part, ...]
    thoughts: str = ""
    """What the model thought before an assistant turn; sent again only to servers that want it."""

    @property
    def text(self) -> str:
        """The text parts joined by newlines; images are left out."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One conversation that waits for its next assistant turn.

    `conversation` names it for logs and fairness; it is never sent to the model. `seed` and
    `temperature` are passed on where the backend supports them; None leaves the model's own default.
    `task` says the same as the messages, for models that follow rules; other backends ignore it.
    """

    messages: tuple[Message, ...]
    conversation: str = ""
    max_tokens: int = 4096
    temperature: float | None = None
    seed: int | None = None
    task: ChatTask | None = field(default=None, compare=False)


class ChatModel(Protocol):
    """Answers conversations; many at once."""

    name: str
    sees_images: bool

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Return the next assistant turn.

        Raises:
            BackendError: If the endpoint stayed unreachable or unusable after all retries.
            UsageError: If it can never work as configured (no key, unknown model).
        """


OnSend = Callable[[], Awaitable[None]]
"""Awaited once, just before a request is sent. What it raises keeps the request from being sent."""


@runtime_checkable
class ReportsSending(Protocol):
    """A chat model that may wait for long before it sends anything, and reports when it does."""

    async def complete_reporting(self, request: ChatRequest, on_send: OnSend) -> ChatReply:
        """Do as `complete`, and await `on_send` after all waiting: until then nothing has been sent."""


async def complete_reporting(model: ChatModel, request: ChatRequest, on_send: OnSend) -> ChatReply:
    """Return the reply of any chat model; one that does not report may send as soon as it is asked."""
    if isinstance(model, ReportsSending):
        return await model.complete_reporting(request, on_send)
    await on_send()
    return await model.complete(request)


async def ignore_sending() -> None:
    """An `OnSend` that does nothing."""


@dataclass(frozen=True, slots=True)
class PermitRequest:
    """Asks a backend for a permit to send a conversation of about this size; the answer is its id.

    `tokens` are those of its text. A permit expires soon if it is not used.
    """

    tokens: int
    images: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class PermittedRequest:
    """A conversation that is to be sent at once, with a permit."""

    request: ChatRequest
    permit_id: str
