"""The orchestrator alone, with many hosts and units: what it costs, and how long slots stand idle.

    python -m benchmarks.bench_orchestrator [--hosts 64] [--agents 64] [--units 100000]

Hosts are stand-ins whose studies do nothing for lognormal times (median 60 s, the longest tenth above 216 s).
A clock that jumps to the next event makes days of such waiting pass at once, so that all seconds of the
processor are the orchestrator's and the event loop's. `bare` is the same waiting by as many tasks that take
units from a list: the event loop's own part.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import selectors
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.orchestration.host import HostCounts
from agents.orchestration.orchestrator import Orchestrator
from agents.records.record_types import StudyResult
from agents.records.store import Store
from agents.records.work import WorkItem

_MEDIAN_S, _SPREAD = 60.0, 1.0


class _Jumping(selectors.DefaultSelector):
    """Waits for no time: what was asked for is added to a clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self.now += timeout
        return list(super().select(0))


@dataclass
class StandInHost:
    """Implements `HostHandle`."""

    seconds: Callable[[str], float]
    ends: list[float] = field(default_factory=list)
    """When its studies ended."""
    first: float | None = None

    async def study(self, item: WorkItem) -> StudyResult:
        loop = asyncio.get_running_loop()
        if self.first is None:
            self.first = loop.time()
        await asyncio.sleep(self.seconds(item.unit))
        self.ends.append(loop.time())
        return StudyResult(unit=item.unit, task=item.task, status="answered")

    async def ready(self) -> None: ...

    async def pause(self) -> None: ...

    async def counts(self) -> HostCounts:
        return HostCounts()

    async def stop(self) -> None: ...


def _timed(work: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Return processor seconds, and seconds of the clock that jumps."""
    selector = _Jumping()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    started = time.process_time()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    return time.process_time() - started, selector.now


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--agents", type=int, default=64, help="studies at once on each host")
    parser.add_argument("--units", type=int, default=100_000)
    asked = parser.parse_args()
    draw = random.Random(0)
    items = [WorkItem(f"network/layer/{number}", "layer", str(number)) for number in range(asked.units)]
    lasts = {item.unit: _MEDIAN_S * draw.lognormvariate(0, _SPREAD) for item in items}
    slots = asked.hosts * asked.agents
    hosts = [StandInHost(lasts.__getitem__) for _ in range(asked.hosts)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:

        async def orchestrated() -> None:
            run = Orchestrator(Store(Path(folder)), hosts, agents_per_host=asked.agents)
            outcome = await run.run(items)
            assert len(outcome.done) == len(items)

        seconds, span = _timed(orchestrated)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    async def bare() -> None:
        waiting = [item.unit for item in reversed(items)]

        async def work() -> None:
            for unit in iter(lambda: waiting.pop() if waiting else None, None):
                await asyncio.sleep(lasts[unit])

        await asyncio.gather(*(work() for _ in range(slots)))

    plain, _ = _timed(bare)
    bound = max(sum(lasts.values()) / slots, max(lasts.values()))
    ends = sorted(end for host in hosts for end in host.ends)
    print(f"hosts, studies at once, units          {asked.hosts}, {slots:,}, {asked.units:,}")
    print(f"processor s, of them the loop's alone  {seconds:.1f}, {plain:.1f}")
    print(f"units a second of the processor        {len(items) / seconds:,.0f}")
    print(f"memory, KB a unit                      {grown / len(items):.2f}")
    print(f"makespan ÷ bound                       {span / bound:.3f}")
    print(f"first study begun on all hosts after   {max(host.first or 0.0 for host in hosts):.1f} s")
    tail = ends[-1] - ends[-min(slots, len(ends))]
    print(f"the last {slots:,} studies end within     {tail:.0f} s of {span:.0f}")


if __name__ == "__main__":
    main()
