"""A scripted language model and a scripted sandbox."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.images import Image
from tools.sandbox import ProgramOutcome, ToolHost


class ScriptedChat:
    """Says its lines in order; checks that the conversation only ever grows, but after a filtered reply."""

    name = "scripted"
    sees_images = True

    def __init__(self, replies: Sequence[str | ChatReply]) -> None:
        self._replies = [ChatReply(each) if isinstance(each, str) else each for each in replies]
        self.requests: list[ChatRequest] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        roles = [message.role for message in request.messages]
        assert roles[:2] == ["system", "user"]
        assert roles[-1] == "user", "the model answers to a user's turn"
        assert all(first != second for first, second in itertools.pairwise(roles))
        if self.requests and self._replies[len(self.requests) - 1].finish != "filtered":
            before = self.requests[-1].messages
            assert request.messages[: len(before)] == before, "the conversation is append-only"
        self.requests.append(request)
        assert len(self.requests) <= len(self._replies), "the study went on after its last line"
        return self._replies[len(self.requests) - 1]


class FakeSandbox:
    """Runs each program as the Python function that the test gave for it."""

    def __init__(self, programs: dict[str, Callable[[ToolHost], Any]]) -> None:
        self._programs = programs
        self.ran: list[str] = []
        self.restored: list[Any] = []

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        self.ran.append(program)
        result = self._programs[program](host)
        if isinstance(result, ProgramOutcome):
            return result
        return outcome(output=await result)

    @property
    def record(self) -> list[dict[str, Any]]:
        return [{"program": program} for program in self.ran]

    def restore(self, records: Any, images: Mapping[str, Image]) -> None:
        self.restored.append(records)
        self.ran = [each["program"] for each in records]

    async def close(self) -> None: ...


def outcome(**values: Any) -> ProgramOutcome:
    """Return an outcome that went well but for `values`."""
    usual = {
        "status": "ok",
        "output": "",
        "output_truncated": False,
        "value": None,
        "error": "",
        "duration_s": 0.0,
        "calls": 0,
        "tier": "fake",
    }
    return ProgramOutcome(**{**usual, **values})
