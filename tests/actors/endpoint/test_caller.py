"""Leave to send: who has it has waited, and who only wants it has sent nothing."""

from __future__ import annotations

import asyncio

import pytest

from actors.endpoint.caller import PERMIT_LIFETIME_S, EndpointCaller, Sent
from actors.endpoint.faults import Fault, FaultyAnswerError
from actors.endpoint.secrets import Secrets
from actors.endpoint.settings import EndpointSettings
from tests.actors.endpoint.test_gate import Timeline


class Endpoint:
    """Answers when asked; `sent` are the times."""

    def __init__(self, timeline: Timeline, *faults: Fault) -> None:
        self.timeline, self.faults, self.sent = timeline, list(faults), []

    async def send(self) -> Sent[str]:
        self.sent.append(self.timeline.now)
        if self.faults:
            raise FaultyAnswerError(self.faults.pop(0))
        return Sent("yes", 10)


def make(timeline: Timeline, **settings: float) -> EndpointCaller:
    return EndpointCaller(
        EndpointSettings(model="m", base_url="http://box:1/v1", **settings),
        Secrets([]),
        clock=timeline,
        sleep=timeline.sleep,
        random=lambda: 0.0,
    )


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


async def test_leave_is_waited_for_and_then_used_at_once(timeline: Timeline) -> None:
    caller, endpoint = make(timeline, requests_per_minute=10), Endpoint(timeline)
    first, second = (asyncio.ensure_future(caller.admit(5)) for _ in range(2))
    await timeline.settle()
    assert (first.done(), second.done(), endpoint.sent) == (True, False, [])
    assert (await caller.call(endpoint.send, 5, lambda _: None, await first)).value == "yes"
    await timeline.run_until(6)
    assert (await caller.call(endpoint.send, 5, lambda _: None, await second)).value == "yes"
    assert endpoint.sent == [0.0, 6.0], "a second request was not reserved for it"
    assert caller.gate.statistics().in_flight == 0


async def test_leave_holds_a_place_and_gives_it_back_if_nothing_comes(timeline: Timeline) -> None:
    caller, endpoint = make(timeline, max_concurrent=1, tokens_per_minute=100), Endpoint(timeline)
    gone = await caller.admit(50)
    call = asyncio.ensure_future(caller.call(endpoint.send, 50, lambda _: None))
    await timeline.run_until(PERMIT_LIFETIME_S - 1)
    assert not endpoint.sent
    await timeline.run_until(40)
    assert (await call).value == "yes"
    late = asyncio.ensure_future(caller.call(endpoint.send, 5, lambda _: None, gone))
    await timeline.run_until(100)
    assert (await late).value == "yes", "leave that is over is asked for again"
    assert caller.gate.statistics().in_flight == 0


async def test_with_leave_a_faulty_attempt_is_made_again_like_any_other(timeline: Timeline) -> None:
    caller = make(timeline, max_concurrent=1)
    endpoint = Endpoint(timeline, Fault("overloaded", "busy"), Fault("timeout", "late", in_doubt=True))
    call = asyncio.ensure_future(caller.call(endpoint.send, 5, lambda _: None, await caller.admit(5)))
    other = asyncio.ensure_future(caller.admit(5))
    await timeline.run_until(300)
    sent = await call
    assert (sent.attempts, sent.in_doubt) == (3, 1)
    assert await other
    caller.close()
