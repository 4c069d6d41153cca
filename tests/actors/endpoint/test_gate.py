"""The gate by itself: limits, pauses, order. Time moves only during a sleep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.endpoint.faults import EndpointDownError, EndpointStopError
from actors.endpoint.gate import Gate, Permit, TokenBucket
from actors.endpoint.settings import EndpointSettings

NEW = Permit(10**9, 0.0)
"""A request newer than any slow-down."""


class Timeline:
    """A clock for many sleepers: time jumps to the earliest of them when nothing else can run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, len(self._sleepers), future))
        await future

    async def settle(self) -> None:
        """Let everything that can run without time do so."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def run_until(self, end: float) -> None:
        await self.settle()
        while self._sleepers and min(self._sleepers)[0] <= end:
            soonest = min(self._sleepers)
            self._sleepers.remove(soonest)
            self.now = max(self.now, soonest[0])
            if not soonest[2].done():
                soonest[2].set_result(None)
            await self.settle()
        self.now = max(self.now, end)


def make(timeline: Timeline, **settings: Any) -> Gate:
    return Gate(EndpointSettings(model="m", base_url="http://box:1/v1", **settings), timeline, timeline.sleep)


class Callers:
    """Tasks that pass the gate, note when, and leave when the test says so."""

    def __init__(self, gate: Gate, timeline: Timeline) -> None:
        self.gate, self.timeline = gate, timeline
        self.entered: list[tuple[str, float]] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str, tokens: float = 0, used: float | None = None, stay: bool = False) -> None:
        self.leave[name] = asyncio.Event()
        if not stay:
            self.leave[name].set()

        async def visit() -> None:
            async with self.gate.admit(tokens) as permit:
                self.entered.append((name, round(self.timeline.now, 3)))
                await self.leave[name].wait()
                permit.used_tokens = used

        self.tasks[name] = asyncio.ensure_future(visit())

    @property
    def inside_first(self) -> list[str]:
        return [name for name, _ in self.entered]


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


def test_a_bucket_gives_a_burst_and_then_its_rate() -> None:
    timeline = Timeline()
    bucket = TokenBucket(per_minute=60, burst=2, clock=timeline)
    assert [bucket.reserve(1) for _ in range(4)] == [0, 0, 1, 2]
    timeline.now = 100.0
    assert [bucket.reserve(1) for _ in range(3)] == [0, 0, 1]
    bucket.refund(1)
    assert bucket.reserve(1) == 1


def test_more_than_a_burst_goes_when_the_bucket_is_full() -> None:
    timeline = Timeline()
    bucket = TokenBucket(per_minute=60, burst=10, clock=timeline)
    assert bucket.reserve(100) == 0
    assert bucket.reserve(1) == 91  # the next pays the debt


async def test_requests_a_minute_hold_for_all_callers_in_order(timeline: Timeline) -> None:
    callers = Callers(make(timeline, requests_per_minute=60), timeline)
    for i in range(20):
        callers.come(str(i))
    await timeline.run_until(60)
    assert callers.inside_first == [str(i) for i in range(20)]
    times = [time for _, time in callers.entered]
    assert times[:6] == [0.0] * 6  # a tenth of a minute's worth at once
    assert times[6:] == [float(i) for i in range(1, 15)]


async def test_tokens_a_minute_are_reserved_and_settled(timeline: Timeline) -> None:
    callers = Callers(make(timeline, tokens_per_minute=600), timeline)  # burst 300, 10 a second
    callers.come("a", tokens=300, used=100)
    await timeline.run_until(0)
    callers.come("b", tokens=250)  # 200 came back
    callers.come("c", tokens=10)
    await timeline.run_until(100)
    assert callers.entered == [("a", 0.0), ("b", 5.0), ("c", 6.0)]


async def test_a_cancelled_caller_gives_its_reservation_and_its_place_back(timeline: Timeline) -> None:
    callers = Callers(make(timeline, requests_per_minute=10, max_concurrent=1), timeline)
    callers.come("a", stay=True)
    callers.come("b")
    await timeline.run_until(0)
    callers.tasks["b"].cancel()
    await timeline.settle()
    callers.come("c")
    await timeline.run_until(30)
    assert callers.inside_first == ["a"]
    callers.come("d")
    await timeline.run_until(30)
    callers.tasks["c"].cancel()
    callers.leave["a"].set()
    await timeline.run_until(60)
    assert callers.inside_first == ["a", "d"]
    assert callers.gate.statistics().in_flight == 0


async def test_places_are_given_in_order_of_arrival(timeline: Timeline) -> None:
    callers = Callers(make(timeline, max_concurrent=2), timeline)
    for name in "abcd":
        callers.come(name, stay=True)
    await timeline.settle()
    assert callers.inside_first == ["a", "b"]
    callers.leave["b"].set()
    await timeline.settle()
    assert callers.inside_first == ["a", "b", "c"]
    assert callers.gate.statistics().waiting == 1
    callers.leave["a"].set()
    callers.leave["c"].set()
    callers.leave["d"].set()
    await timeline.settle()
    assert callers.gate.statistics().in_flight == 0


async def test_overload_halves_the_width_and_success_restores_it(timeline: Timeline) -> None:
    gate = make(timeline, max_concurrent=8)
    async with gate.admit(0) as first, gate.admit(0) as second:
        gate.slow_down(second, None)
        assert gate.statistics().concurrency == 4
        gate.slow_down(first, None)  # of the same volley
        gate.failed(second, "boom")
        assert gate.statistics().concurrency == 4
    async with gate.admit(0) as third:
        gate.slow_down(third, 10)
    assert gate.statistics().concurrency == 2
    for _ in range(3):
        gate.succeeded()
    assert gate.statistics().concurrency == 5
    for _ in range(30):
        gate.succeeded()
    assert gate.statistics().concurrency == 8


async def test_everyone_waits_when_the_endpoint_asks_for_it(timeline: Timeline) -> None:
    callers = Callers(make(timeline), timeline)
    callers.gate.slow_down(NEW, 42)
    callers.come("a")
    callers.come("b")
    await timeline.run_until(100)
    assert callers.entered == [("a", 42.0), ("b", 42.0)]


async def test_after_many_failures_one_request_probes_and_the_rest_follow(timeline: Timeline) -> None:
    callers = Callers(make(timeline, breaker_failures=3, breaker_pause_s=15), timeline)
    for _ in range(3):
        callers.gate.failed(NEW, "boom")
    for name in "abc":
        callers.come(name, stay=True)
    await timeline.run_until(14)
    assert callers.entered == []
    await timeline.run_until(20)
    assert callers.inside_first == ["a"]
    callers.gate.succeeded()
    callers.leave["a"].set()
    await timeline.run_until(20)
    assert callers.inside_first == ["a", "b", "c"]
    for name in "bc":
        callers.leave[name].set()
    await timeline.settle()


async def test_a_failed_probe_pauses_for_longer_and_an_outage_fails_all(timeline: Timeline) -> None:
    gate = make(timeline, breaker_failures=1, breaker_pause_s=10, outage_patience_s=60, deadline_s=1000)
    callers = Callers(gate, timeline)
    gate.failed(NEW, "boom")
    for name in "abcd":
        callers.come(name, stay=True)
    for end in (10, 30, 70):  # pauses of 10, 20 and 40 s, a probe after each
        await timeline.run_until(end)
        probe = callers.inside_first[-1]
        gate.failed(NEW, "boom again")
        callers.leave[probe].set()
        await timeline.settle()
    assert callers.inside_first == ["a", "b", "c"]
    with pytest.raises(EndpointDownError, match="boom again"):
        await callers.tasks["d"]
    with pytest.raises(EndpointDownError, match=r"failed 4 times in a row for 1\.2 minutes"):
        async with gate.admit(0):
            pass


async def test_a_stopped_gate_fails_who_waits_and_who_comes(timeline: Timeline) -> None:
    callers = Callers(make(timeline, max_concurrent=1, breaker_pause_s=15), timeline)
    callers.come("a", stay=True)
    callers.come("b")
    await timeline.settle()
    callers.gate.stop(EndpointStopError("no credit", "pay"))
    callers.come("c")
    for name in "bc":
        with pytest.raises(EndpointStopError, match="no credit pay"):
            await callers.tasks[name]
    callers.leave["a"].set()
    await timeline.run_until(15)
    callers.come("d")
    await timeline.settle()
    assert callers.inside_first == ["a", "d"]
