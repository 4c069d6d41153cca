"""The interface of vision-language models: messages in, one reply out.

Messages hold text and images in order. A backend encodes images as it needs; nothing above
it knows an endpoint's wire format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

from actors.chat.tasks import ChatTask
from actors.images import Image

Role = Literal["system", "user", "assistant"]
Part = str | Image
"""A piece of a message: text, or an image."""

FinishReason = Literal["stop", "length", "filtered", "refused"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
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


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call was billed for. `estimated` is true where the endpoint did not say how many tokens it
    took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    dollars: float = 0.0
    """US dollars, of what has a known price."""
    estimated: bool = False
    unpriced: int = 0
    """Requests (and paid images) whose price is unknown: they are not in `dollars`."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.requests + other.requests,
            self.dollars + other.dollars,
            self.estimated or other.estimated,
            self.unpriced + other.unpriced,
        )


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One assistant turn. An empty, cut off, filtered or refused reply is an answer, and says so."""

    text: str
    finish: FinishReason = "stop"
    usage: Usage = Usage()
    model: str = ""
    thoughts: str = ""
    """What the model thought, where the server returns it: kept and shown, never run and never read for an
    answer."""
    notes: tuple[str, ...] = ()
    """What the request had to go without: fields that the server refuses, images that it does not take."""

    def with_resends(self, times: int) -> ChatReply:
        """Return the reply with `times` more requests in its usage; see `CountsRequests`."""
        return replace(self, usage=self.usage + Usage(requests=times))


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
