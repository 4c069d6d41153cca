"""What a workbench makes of a profile's settings."""

from __future__ import annotations

from typing import Any

import pytest

from actors.chat.base import Admission, ChatRequest, Message
from actors.chat.settings import OpenAIChat
from agents.orchestrator import SweepSettings
from experiments.workbench import _chat

pytestmark = pytest.mark.anyio


class Pool:
    """Keeps what it is asked; answers nothing that is looked at."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def submit(self, request: Any, **_: Any) -> Any:
        self.asked.append(request)
        return "leave"


@pytest.mark.parametrize(
    ("limits", "sweep", "waits"),
    [
        ({"max_concurrent": 64}, {"agents": 32, "hosts": 2}, False),
        ({"max_concurrent": 63}, {"agents": 32, "hosts": 2}, True),
        ({"max_concurrent": 32}, {"agents": 32, "hosts": 0}, False),
        ({"max_concurrent": 4096}, {"agents": 2, "hosts": "per-node"}, True),
        ({"max_concurrent": 64, "requests_per_minute": 500}, {"agents": 2}, True),
        ({"max_concurrent": 64, "tokens_per_minute": 5000}, {"agents": 2}, True),
    ],
)
async def test_leave_to_send_is_asked_for_only_where_a_call_may_have_to_wait(
    limits: dict[str, Any], sweep: dict[str, Any], waits: bool
) -> None:
    pool: Any = Pool()
    announced = []

    async def sending() -> None:
        announced.append(len(pool.asked))

    settings = OpenAIChat(model="m", **limits)
    model: Any = await _chat(pool, settings, SweepSettings(**sweep).at_once)
    await model.announced(ChatRequest((Message("user", ("hello",)),), "agent"), sending)
    assert isinstance(pool.asked[0], Admission) == waits
    assert announced == [int(waits)], "it is told just before the conversation leaves"
