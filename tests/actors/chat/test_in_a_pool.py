"""Chat backends hosted as the program hosts them: in a replica, in this process and in a Ray actor."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from actors.chat.base import ChatRequest, Message, complete_reporting, ignore_sending
from actors.chat.client import PoolChatModel
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.reply import ChatReply
from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import ContextLengthError, EndpointStopError
from actors.endpoint.secrets import MissingKeyError
from actors.serving.pool import LocalPool
from tests.actors.chat.conftest import picture
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint, Fault, Seen


def ask(agent: int, turn: int = 0) -> ChatRequest:
    parts = (f"agent {agent} turn {turn}", picture(agent))
    return ChatRequest((Message("system", ("page",)), Message("user", parts)), f"agent {agent}")


def echo(seen: Seen) -> str:
    return f"{seen.texts[-1]} saw {len(seen.images)}"


async def test_agents_share_the_slots_of_one_endpoint(endpoint: FakeEndpoint) -> None:
    endpoint.script, endpoint.delay_s = echo, 0.01
    settings = OpenAIChat(model=MODEL, base_url=endpoint.base_url, api_key_env="K", max_concurrent=4)
    async with LocalPool(OpenAIBackend(settings, environ={"K": KEY})) as pool:
        model = PoolChatModel(pool, MODEL, True)
        replies = await asyncio.gather(*(model.complete(ask(agent)) for agent in range(20)))
    assert [reply.text for reply in replies] == [f"agent {i} turn 0 saw 1" for i in range(20)]
    assert 1 < endpoint.max_in_flight <= 4
    assert sum(endpoint.billed.values()) == 20


@pytest.mark.slow
async def test_a_call_is_reported_when_it_is_sent_and_not_while_it_waits(endpoint: FakeEndpoint) -> None:
    """Neither for a rate limit nor for its turn: a caller that ends meanwhile has nothing in doubt."""
    endpoint.script = echo
    settings = OpenAIChat(
        model=MODEL, base_url=endpoint.base_url, api_key_env="K", max_concurrent=2, requests_per_minute=30
    )
    leaving: list[int] = []

    async def ask_as(agent: int) -> ChatReply:
        async def on_send() -> None:
            assert sum(endpoint.billed.values()) < len(leaving) + 1
            leaving.append(agent)

        return await complete_reporting(model, ask(agent), on_send)

    async with LocalPool(OpenAIBackend(settings, environ={"K": KEY})) as pool:
        model = PoolChatModel(pool, MODEL, True, unqueued_calls=0)
        calls = [asyncio.ensure_future(ask_as(agent)) for agent in range(6)]
        replies = await asyncio.gather(*calls[:3])
        assert [reply.text for reply in replies] == [f"agent {i} turn 0 saw 1" for i in range(3)]
        for call in calls[3:]:
            call.cancel()
        await asyncio.wait(calls)
    assert leaving == [0, 1, 2]
    assert sum(endpoint.billed.values()) == 3


async def test_retries_do_not_wait_for_calls_that_hold_permits(endpoint: FakeEndpoint) -> None:
    endpoint.script = echo
    endpoint.faults.extend(Fault.error(500, "busy") for _ in range(9))
    settings = OpenAIChat(
        model=MODEL, base_url=endpoint.base_url, api_key_env="K", max_concurrent=1, backoff_s=0.001,
        max_attempts=20, breaker_failures=99,
    )  # fmt: skip
    async with LocalPool(OpenAIBackend(settings, environ={"K": KEY})) as pool:
        model = PoolChatModel(pool, MODEL, True, unqueued_calls=0)
        replies = await asyncio.gather(
            *(complete_reporting(model, ask(agent), ignore_sending) for agent in range(8))
        )
        assert pool.statistics().answered == 8
    assert len(replies) == 8
    assert endpoint.max_in_flight == 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
async def test_an_endpoint_behind_a_ray_actor(endpoint: FakeEndpoint) -> None:
    """Real client, real actor: answers, typed failures and a missing key all arrive; the key only there."""
    from actors.serving.cluster import Cluster

    endpoint.script = echo
    settings = OpenAIChat(
        model=MODEL, base_url=endpoint.base_url, api_key_env="MAIA_TEST_KEY", max_attempts=2, backoff_s=0.001
    )
    factory, kwargs = "actors.chat.factory:build_backend", {"settings": settings}
    async with (
        Cluster.start() as cluster,
        cluster.pool("chat", factory, kwargs, env={"MAIA_TEST_KEY": KEY}) as pool,
    ):
        model = PoolChatModel(pool, MODEL, True, unqueued_calls=0)
        asked = (complete_reporting(model, ask(agent), ignore_sending) for agent in range(6))
        replies = await asyncio.gather(*asked)
        assert [reply.text for reply in replies] == [f"agent {i} turn 0 saw 1" for i in range(6)]
        assert replies[0].usage.prompt_tokens > 85
        endpoint.faults.append(Fault.context_length())
        with pytest.raises(ContextLengthError):
            await model.complete(ask(1))
        endpoint.faults.append(Fault.no_quota())
        with pytest.raises(EndpointStopError, match="credit"):
            await model.complete(ask(1))
        assert KEY not in repr(await pool.describe())
    assert endpoint.complaints == []

    async with Cluster.start() as cluster, cluster.pool("chat", factory, kwargs) as pool:
        with pytest.raises(MissingKeyError, match="MAIA_TEST_KEY is not set"):
            await PoolChatModel(pool, MODEL, True).complete(ask(1))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
async def test_a_call_whose_actor_died_is_made_again_and_both_are_counted(endpoint: FakeEndpoint) -> None:
    from actors.serving.cluster import Cluster

    endpoint.script = echo
    endpoint.faults.append(Fault.hang())
    settings = OpenAIChat(model=MODEL, base_url=endpoint.base_url, api_key_env="MAIA_TEST_KEY")
    factory, kwargs = "actors.chat.factory:build_backend", {"settings": settings}
    async with (
        Cluster.start() as cluster,
        cluster.pool("chat", factory, kwargs, env={"MAIA_TEST_KEY": KEY}) as pool,
    ):
        model = PoolChatModel(pool, MODEL, True)
        pid = (await pool.describe()).pid
        asked = asyncio.ensure_future(model.complete(ask(1)))
        await endpoint.received(1)
        os.kill(pid, signal.SIGKILL)
        reply = await asked
        assert reply.text == "agent 1 turn 0 saw 1"
        assert reply.usage.requests == len(endpoint.seen) == 2
        assert (await model.complete(ask(2))).usage.requests == 1
