"""Requests that are asked in batches get the answers that they would get one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.batches import Batches
from actors.chat.settings import BatchSettings, OpenAIChat
from actors.endpoint.faults import EndpointStopError, FaultyAnswerError
from actors.endpoint.openai_client import connect
from tests.actors.chat.conftest import picture
from tests.fake_endpoint import FakeEndpoint, Fault

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


async def test_requests_that_an_expired_batch_left_unanswered_are_sent_again(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Finished lines of a batch that expired are kept."""
    endpoint.batch_answers = 2
    async with opened(endpoint, batch={}) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(5)))
    assert sorted(reply.usage.requests for reply in replies) == [1, 1, 2, 2, 3]
    assert len(endpoint.batches) == 3


async def test_a_batch_that_cannot_be_read_for_a_while_is_read_later(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """It is billed all the same: its requests are not asked again."""
    endpoint.failing_looks = 3
    async with opened(endpoint, batch={}) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(str(n))) for n in range(3)))
    assert [reply.usage.requests for reply in replies] == [1, 1, 1]
    assert len(endpoint.batches) == 1


async def test_requests_of_a_batch_that_was_not_made_fail(endpoint: FakeEndpoint) -> None:
    """What was still being collected when the endpoint was closed is cancelled."""
    settings = OpenAIChat(model="m", base_url=endpoint.base_url, api_key_env=None)
    connection = connect(settings, {})
    batches = Batches(connection, BatchSettings(), sleep=lambda _: asyncio.Event().wait())
    asked = asyncio.create_task(batches.ask({}))
    await asyncio.sleep(0)
    batches.close()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await connection.client.close()


async def test_requests_of_a_batch_that_fails_get_an_error_each(endpoint: FakeEndpoint) -> None:
    """Whoever raises one adds to its traceback, which is no business of the others."""
    settings = OpenAIChat(model="m", base_url=endpoint.base_url.replace("/v1", "/v2"), api_key_env=None)
    connection = connect(settings, {})
    batches = Batches(connection, BatchSettings(collect_s=0))
    first, second = await asyncio.gather(batches.ask({}), batches.ask({}), return_exceptions=True)
    assert isinstance(first, FaultyAnswerError)
    assert isinstance(second, FaultyAnswerError)
    assert first.fault == second.fault
    assert first is not second
    await connection.client.close()


async def test_images_are_tried_alone_without_waiting_for_a_batch_each(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """One batch brings the fault, and one the answer without the image that the server fails on."""
    bad = picture(7, 40, 44)
    endpoint.script = lambda seen: (
        Fault.error(400, "Failed to load image")
        if any(each.size[0] != 80 for each in seen.images)
        else "fine"
    )
    shown = Message("user", ("look", picture(1, 60, 80), bad))
    turns = (Message("user", ("go",)), Message("assistant", ("code",)), shown)
    async with opened(endpoint, batch={"collect_s": 0}) as backend:
        reply = await backend.complete(ChatRequest(turns))
    assert reply.text == "fine"
    assert f"{bad.id[:8]} (44x40 px)" in reply.notes[0]
    assert len(endpoint.batches) == 2
    assert len(endpoint.seen) > 2


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
