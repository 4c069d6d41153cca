"""The budgets of one program: its own time, and what it may cost the host."""

from __future__ import annotations

import asyncio

import pytest

from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox.calls import CallDesk, Clock, Pace
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf


async def test_a_clock_ends_what_takes_longer_than_its_budget() -> None:
    clock = Clock(0.01)
    with pytest.raises(TimeoutError):
        async with clock.running():
            await asyncio.Event().wait()
    assert clock.left_s <= 0


async def test_a_paused_clock_lets_others_take_their_time() -> None:
    clock = Clock(0.02)
    async with clock.running():
        with clock.paused():
            await asyncio.sleep(0.05)
    assert clock.left_s > 0


async def test_a_clock_goes_on_where_it_was_paused() -> None:
    clock = Clock(0.02)

    async def pause_and_go_on() -> None:
        async with clock.running():
            with clock.paused():
                await asyncio.sleep(0)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await pause_and_go_on()


async def test_a_clock_that_does_not_run_can_be_paused() -> None:
    clock = Clock(0.01)
    with clock.paused():
        await asyncio.sleep(0.02)
    assert clock.left_s == 0.01


def test_programs_wait_twenty_times_as_long_as_they_kept_the_host_beyond_the_burst() -> None:
    """The burst fills again in five seconds, and never beyond: who was quiet for an hour gets no hour's
    worth.
    """
    now = 3600.0
    pace = Pace(lambda: now)
    pace.spend(0.25)
    assert pace.owed_s() == 0
    pace.spend(0.5)
    assert pace.owed_s() == pytest.approx(10)
    now += 4
    assert pace.owed_s() == pytest.approx(6)
    now += 3600
    pace.spend(0.3)
    assert pace.owed_s() == pytest.approx(1)


async def test_the_time_of_a_tool_is_not_a_programs_own() -> None:
    """The desk pauses the program's clock while a tool works, and only then."""

    class SlowTools(FakeHost):
        async def call(self, method: str, arguments: dict[str, object]) -> object:
            await asyncio.sleep(0.05)
            return await super().call(method, arguments)

    desk = CallDesk(SandboxSettings(program_timeout_s=0.03), ImageShelf(1 << 20), SlowTools(), Pace())
    async with desk.own.running():
        answer, _ = await desk.reply({"op": "call", "method": "state", "arguments": {}}, bytearray())
    assert "value" in answer
    assert 0 < desk.own.left_s < 0.03
