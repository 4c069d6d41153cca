"""How far a run is while it works: a bar, the time left, counts, cost and the units at work, on stderr.

Before the first unit ends, the time left follows from the rounds of studies and from what is expected of
them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agents.orchestration.host import HostCounts, HostHandle
from agents.orchestration.orchestrator import Event
from agents.study.faults import HostLostError
from experiments.records.names import UnitName
from experiments.records.numbers import duration
from experiments.setup.console import Console, RunProgress, counted, money

_PACE_UNITS = 50
"""Units that the pace is measured over, at least: the first units of a run start cold."""
_PACE_WAVES = 4
"""The same in waves: units that begin together end together, and a part of a wave is not its pace."""
_COUNTS_TIMEOUT_S = 5.0
"""How long a host may take to report its counts: the line shows the others meanwhile."""


_UNITS_SHOWN = 5
"""Units at work that are named."""
_MOST_EXPECTED = 4.0
"""The most units that an expectation counts as."""
_ALMOST = 0.95
"""The most of a study that rounds alone can tell."""
_LEAST_LEFT = 0.25
"""Part of the expected rounds that a study has left at least: until it ends nobody knows that it does, and
its answer is tested then.
"""


@dataclass(frozen=True, slots=True)
class ExpectedStudies:
    """What the studies of a run are expected to take."""

    rounds: float
    """Of one study; 0 where none are made."""
    seconds: float
    """Of all of them together."""


class Live:
    """Counts events of a run, and what hosts count of the rounds between them."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        before: HostCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
        expected: ExpectedStudies | None = None,
    ) -> None:
        """`done` units of `total` had a result already; `before` is what the run had spent, and `expected`
        what the others take.
        """
        self._clock, self._started = clock, clock()
        self.total, self.done, self.failed = total, done, 0
        self._expected, self._before = expected, done
        self.working: dict[str, None] = {}
        """Units at work, in the order in which they began."""
        self._base = before or HostCounts()
        self._live = HostCounts()
        self._counts_by_host: dict[int, HostCounts] = {}
        self._ends: list[float] = []
        self._widest = 0

    def event(self, event: Event) -> None:
        """Take in what happened to an item."""
        if event.kind == "started":
            self.working[event.item.unit] = None
            self._widest = max(self._widest, self.running)
            return
        self.working.pop(event.item.unit, None)
        if event.kind == "done":
            self.done += 1
            self._ends.append(self._clock())
        elif event.kind == "failed":
            self.failed += 1

    async def refresh(self, hosts: list[HostHandle]) -> None:
        """Ask the hosts what they have done since this run began; one that is lost keeps its last counts."""
        for host in hosts:
            if (count := await _counts(host)) is not None:
                self._counts_by_host[id(host)] = count
        counts = self._counts_by_host.values()
        self._live = HostCounts(
            sum(count.rounds for count in counts),
            sum(count.tokens for count in counts),
            sum(count.dollars for count in counts),
            sum(count.images for count in counts),
            sum(count.unpriced for count in counts),
        )

    def settle(self, spent: HostCounts) -> None:
        """Go by what is on record now that the run has ended: a host that was lost could not count what it
        redid.
        """
        self._base, self._live = spent, HostCounts()

    @property
    def running(self) -> int:
        return len(self.working)

    @property
    def _partly(self) -> float:
        """How many units the rounds of studies that have not ended make, by the number that is expected."""
        if self._expected is None or not self._expected.rounds or not self.running:
            return 0.0
        ended = self.done - self._before + self.failed
        each = max(self._live.rounds / self._expected.rounds - ended, 0.0) / self.running
        return self.running * min(each / (each + max(1 - each, _LEAST_LEFT)), _ALMOST)

    @property
    def share(self) -> float:
        """The part of the run that is done, from 0 to 1."""
        return min(1.0, (self.done + self.failed + self._partly) / max(self.total, 1))

    @property
    def units_per_hour(self) -> float | None:
        """The pace over the last units that ended; None before the first has."""
        if not self._ends:
            return None
        over = max(_PACE_UNITS, _PACE_WAVES * self._widest)
        recent = self._ends[-over:]
        since = self._ends[-over - 1] if len(self._ends) > over else self._started
        return 3600 * len(recent) / max(recent[-1] - since, 1e-3)

    @property
    def left_s(self) -> float | None:
        """Seconds left by the pace of units that ended, else by rounds, else as expected; None if unknown."""
        todo = self.total - self.done - self.failed - self._partly
        pace = self.units_per_hour
        if pace is not None and len(self._ends) >= self._widest:
            return 3600 * todo / pace
        elapsed, finished = self._clock() - self._started, len(self._ends) + self._partly
        if self._expected is None:
            return elapsed * todo / finished if finished else None
        if not finished:
            # What has not shown any progress for so long takes as long again, in the median.
            return max(self._expected.seconds - elapsed, elapsed)
        # The first rounds are cold: what was expected counts as much as a quarter of the units.
        n = self.total - self._before
        weight = min(n / 4, _MOST_EXPECTED)
        return todo * (elapsed + self._expected.seconds * weight / n) / (finished + weight)

    def values(self) -> dict[str, float]:
        """Return the numbers of the line by name."""
        base, live = self._base, self._live
        return {
            "units_total": self.total,
            "units_done": self.done,
            "units_running": self.running,
            "units_failed": self.failed,
            "rounds": base.rounds + live.rounds,
            "images": base.images + live.images,
            "tokens": base.tokens + live.tokens,
            "dollars": base.dollars + live.dollars,
        }

    def progress(self) -> RunProgress:
        """Return what is shown; of a run that has ended, neither its pace nor units at work."""
        base, live = self._base, self._live
        head = [f"{self.done:,} of {counted(self.total, 'unit')}"]
        head += [f"{self.failed:,} failed"] if self.failed else []
        if self.total > self.done + self.failed:
            pace, left = self.units_per_hour, self.left_s
            head += [] if pace is None else [f"{pace:,.0f} per hour"]
            head += [] if left is None else [f"about {duration(max(left, 1))} left"]
        spent = (
            counted(base.rounds + live.rounds, "round"),
            f"{base.images + live.images:,} images made and tested",
            counted(base.tokens + live.tokens, "token"),
            money(base.dollars + live.dollars, base.unpriced + live.unpriced),
        )
        return RunProgress(self.share, ", ".join(head), (", ".join(spent), *self._at_work()))

    def _at_work(self) -> list[str]:
        shown = [UnitName.parse(unit).short for unit in list(self.working)[:_UNITS_SHOWN]]
        more = self.running - len(shown)
        named = ", ".join(shown) + (f" and {more:,} more" if more else "")
        return [f"at work: {named}"] if named else []

    @asynccontextmanager
    async def shown(
        self, console: Console, hosts: list[HostHandle], observe: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Keep the line up to date while the block runs; `observe` is called whenever it was."""
        with console.live() as show:

            async def keep() -> None:
                while True:
                    await self.refresh(hosts)
                    show(self.progress())
                    await observe()
                    await asyncio.sleep(1)

            task = asyncio.create_task(keep())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])


async def _counts(host: HostHandle) -> HostCounts | None:
    try:
        async with asyncio.timeout(_COUNTS_TIMEOUT_S):
            return await host.counts()
    except (HostLostError, TimeoutError):
        return None
