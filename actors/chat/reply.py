"""What a chat model answers, and what it costs: plain values, as records keep them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FinishReason = Literal["stop", "length", "filtered", "refused"]


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
