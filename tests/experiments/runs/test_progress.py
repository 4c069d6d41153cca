"""The live line counts what happened, what was there before, and how fast it goes."""

from __future__ import annotations

from itertools import count

import pytest

from agents.orchestration.host import HostCounts
from agents.orchestration.orchestrator import Event
from agents.records.work import WorkItem
from agents.study.faults import HostLostError
from experiments.runs.progress import ExpectedStudies, Live


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Host:
    """Says what it is told to, or is lost."""

    def __init__(self, counts: HostCounts) -> None:
        self.said: HostCounts | None = counts

    async def counts(self) -> HostCounts:
        if self.said is None:
            raise HostLostError("gone.")
        return self.said


NUMBERS = count()


def happened(live: Live, *kinds: str) -> None:
    """Units end in the order in which they began."""
    for kind in kinds:
        unit = f"net/a:{next(NUMBERS)}" if kind == "started" else next(iter(live.working))
        live.event(Event(kind, WorkItem(unit, "a", "1")))


def test_events_of_units_are_counted() -> None:
    live = Live(7, done=2)
    happened(live, "started", "started", "started", "started", "done", "failed", "again")
    assert (live.total, live.done, live.running, live.failed) == (7, 3, 1, 1)
    assert live.progress().headline.startswith("3 of 7 units, 1 failed")
    assert live.progress().lines[1].startswith("at work: a:")


def test_pace_and_time_left_are_those_of_this_stretch() -> None:
    clock = Clock()
    live = Live(10, done=5, clock=clock)
    assert live.left_s is None, "nothing is known before the first end"
    for _ in range(2):
        clock.now += 30
        happened(live, "started", "done")
    assert live.units_per_hour == pytest.approx(120)
    assert live.left_s == pytest.approx(90)
    assert live.progress().headline == "7 of 10 units, 120 per hour, about 2 min left"
    happened(live, *("started", "done") * 3)
    assert live.progress().headline == "10 of 10 units", "of a run that has ended, the summary tells it"


async def test_time_left_is_told_from_the_first_second() -> None:
    """As expected, then by rounds, of those that are expected of a study, as well."""
    clock, host = Clock(), Host(HostCounts(rounds=8))
    live = Live(4, clock=clock, expected=ExpectedStudies(rounds=10, seconds=90))
    happened(live, "started", "started")
    assert (live.share, live.left_s) == (0, 90)
    clock.now += 20
    assert live.left_s == 70
    clock.now += 280
    assert live.left_s == 300, "it takes longer than was expected, and nobody knows how much"
    clock.now -= 280
    await live.refresh([host])  # type: ignore[list-item]
    assert live.share == pytest.approx(0.2)
    assert live.left_s == pytest.approx(3.2 * (20 + 90 / 4) / 1.8)
    host.said = HostCounts(rounds=20)
    await live.refresh([host])  # type: ignore[list-item]
    assert live.share == pytest.approx(0.4), "of a study that has made its rounds a fifth is left"
    host.said = HostCounts(rounds=99)
    await live.refresh([host])  # type: ignore[list-item]
    assert live.share == pytest.approx(0.475), "a study is not done before it ends"


def test_units_that_end_in_waves_do_not_make_the_pace_jump() -> None:
    clock = Clock()
    live = Live(1000, clock=clock)
    happened(live, *["started"] * 32)
    paces = []
    for _ in range(12):  # a wave of 31 and a straggler, 20 s together: 5,760 an hour
        for size, seconds in ((31, 15), (1, 5)):
            clock.now += seconds
            happened(live, *["done", "started"] * size)
            paces.append(live.units_per_hour)
    settled = paces[8:]
    assert max(settled) / min(settled) < 1.35
    assert sum(settled) / len(settled) == pytest.approx(5760, rel=0.2)


async def test_a_lost_host_keeps_its_last_counts_and_earlier_costs_are_added() -> None:
    live = Live(4, before=HostCounts(rounds=3, tokens=1000, dollars=0.5, images=7))
    hosts = [Host(HostCounts(2, 50, 0.25, 1)), Host(HostCounts(1, 10, 0.0, 0))]
    await live.refresh(hosts)  # type: ignore[arg-type]
    hosts[0].said = None
    await live.refresh(hosts)  # type: ignore[arg-type]
    assert live.values() == {
        "units_total": 4, "units_done": 0, "units_running": 0, "units_failed": 0,
        "rounds": 6, "images": 8, "tokens": 1060, "dollars": 0.75,
    }  # fmt: skip
