"""Requests that are asked in batches get the answers that they would get one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import EndpointStopError
from tests.fake_endpoint import FakeEndpoint, Fault

pytestmark = pytest.mark.anyio
Opened = Callable[..., Any]


def ask(words: str) -> ChatRequest:
    return ChatRequest((Message("user", (words,)),), seed=1)


async def test_requests_of_one_moment_are_one_batch(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Each gets its own answer, in whatever order the lines come back."""
    endpoint.script = lambda seen: f"to {seen.texts[0]}"
    async with opened(endpoint, batch={}) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(7)))
    assert [reply.text for reply in replies] == [f"to {n}" for n in range(7)]
    assert len(endpoint.batches) == 1
    assert replies[0].usage.requests == 1


async def test_a_line_that_failed_is_classed_and_asked_again(endpoint: FakeEndpoint, opened: Opened) -> None:
    """A field that the model does not know is left out in the next batch; the others have their answers."""
    endpoint.faults.extend([Fault.error(400, "Unknown parameter: 'seed'"), Fault.rate_limit()])
    async with opened(endpoint, batch={"collect_s": 0}) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(3)))
        assert backend.describe()["learned"] == {"not_sent": ["seed"]}
    assert all(reply.text for reply in replies)
    assert sorted(reply.usage.requests for reply in replies) == [1, 2, 2]


async def test_what_an_expired_batch_left_unanswered_is_asked_again(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Finished lines of a batch that expired are kept."""
    endpoint.batch_answers = 2
    async with opened(endpoint, batch={}) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(5)))
    assert sorted(reply.usage.requests for reply in replies) == [1, 1, 2, 2, 3]
    assert len(endpoint.batches) == 3


async def test_a_server_without_batches_says_so(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Nobody waits for ever."""
    async with opened(
        endpoint, batch={}, base_url=endpoint.base_url.replace("/v1", "/v2"), max_attempts=1
    ) as backend:
        with pytest.raises(EndpointStopError, match="404"):
            await backend.complete(ask("x"))


def test_a_batch_is_given_its_day_unless_the_settings_say_otherwise() -> None:
    """Waiting rules of its own, which settings beat."""
    settings = OpenAIChat(model="m", batch={}, deadline_s=5)  # type: ignore[arg-type]
    assert (settings.attempt_timeout_s, settings.deadline_s, settings.max_concurrent) == (90_000, 5, 4096)
