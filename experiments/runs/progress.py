"""The live line of a run: counts, cost, pace and time left, on stderr."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agents.orchestration.host import HostCounts, HostHandle
from agents.orchestration.orchestrator import Event
from agents.study.faults import HostLostError
from experiments.setup.console import Console, money

_PACE_UNITS = 50
"""Units that the pace is measured over, at least: the first units of a run start cold."""
_PACE_WAVES = 4
"""The same in waves: units that begin together end together, and a part of a wave is not its pace."""
_COUNTS_TIMEOUT_S = 5.0
"""How long a host may take to report its counts: the line shows the others meanwhile."""


class Live:
    """Counts events of a run, and what hosts count of the rounds between them."""

    def __init__(
        self,
        total: int,
        done: int = 0,
        before: HostCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`done` units of `total` had a result already; `before` is what the run had spent."""
        self._clock, self._started = clock, clock()
        self.total, self.done, self.running, self.failed = total, done, 0, 0
        self._base = before or HostCounts()
        self._live = HostCounts()
        self._counts_by_host: dict[int, HostCounts] = {}
        self._ends: list[float] = []
        self._widest = 0

    def event(self, event: Event) -> None:
        """Take in what happened to an item."""
        if event.kind == "started":
            self.running += 1
            self._widest = max(self._widest, self.running)
            return
        self.running -= 1
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
        pace = self.units_per_hour
        return None if pace is None else 3600 * (self.total - self.done - self.failed) / pace

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

    def text(self) -> str:
        """Return the line."""
        base, live = self._base, self._live
        parts = [
            f"{self.done} of {self.total} done",
            f"{self.running} running",
            *([f"{self.failed} failed"] if self.failed else []),
            f"{base.rounds + live.rounds} rounds",
            f"{base.images + live.images} images made and tested",
            f"{base.tokens + live.tokens:,} tokens",
            money(base.dollars + live.dollars, base.unpriced + live.unpriced),
        ]
        # Of a run that has ended, `status` shows the pace.
        if (pace := self.units_per_hour) is not None and (left := self.left_s):
            parts += [f"{pace:.0f} units per hour", f"{_duration(left)} left"]
        return ", ".join(parts)

    @asynccontextmanager
    async def shown(
        self, console: Console, hosts: list[HostHandle], observe: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Keep the line up to date while the block runs; `observe` is called whenever it was."""
        with console.line() as show:

            async def keep() -> None:
                while True:
                    await self.refresh(hosts)
                    show(self.text())
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


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
