"""What a workbench makes of a profile's settings."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from actors.chat.base import ChatRequest, Message, PermitRequest, PermittedRequest
from actors.chat.settings import OpenAIChat
from experiments.setup.workbench import _chat


class Pool:
    """Keeps what it is asked, by conversation, and answers when everybody has had their turn."""

    def __init__(self) -> None:
        self.asked: defaultdict[int, list[Any]] = defaultdict(list)

    async def submit(self, request: Any, *, agent: str, **_: Any) -> Any:
        self.asked[int(agent)].append(request)
        for _turn in range(3):
            await asyncio.sleep(0)
        return "permit"


@pytest.mark.parametrize(
    ("limits", "hosts", "at_once"),
    [
        ({"max_concurrent": 4}, 0, 4),
        ({"max_concurrent": 4}, 1, 4),
        ({"max_concurrent": 9}, 2, 4),
        ({"max_concurrent": 4}, "per-node", 0),
        ({"max_concurrent": 4, "requests_per_minute": 500}, 1, 0),
        ({"max_concurrent": 4, "tokens_per_minute": 5000}, 1, 0),
    ],
)
async def test_leave_to_send_is_asked_for_where_a_call_may_have_to_wait(
    limits: dict[str, Any], hosts: Any, at_once: int
) -> None:
    pool: Any = Pool()
    model: Any = await _chat(pool, OpenAIChat(model="m", **limits), hosts)

    async def ask(number: int) -> None:
        async def on_send() -> None:
            await asyncio.sleep(0)  # it is written down first
            announced.append(len(pool.asked[number]))

        announced: list[int] = []
        await model.complete_reporting(ChatRequest((Message("user", ("hello",)),), str(number)), on_send)
        assert announced == [int(number >= at_once)], "it is told just before the conversation leaves"

    for _ in range(2):
        pool.asked.clear()
        await asyncio.gather(*(ask(number) for number in range(6)))
        kinds = [[type(message) for message in pool.asked[number]] for number in range(6)]
        assert kinds == [[ChatRequest]] * at_once + [[PermitRequest, PermittedRequest]] * (6 - at_once)
