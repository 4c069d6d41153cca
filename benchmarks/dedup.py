"""Agents that look at the same images pay for one pass: forwards against distinct pieces of work."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from actors.serving.backend import Backend
from actors.serving.blocking import DeviceThread
from actors.serving.coalescer import Coalescer
from actors.serving.pool import LocalPool
from benchmarks.harness import Context, Curve, Metric, Result, Table

ID = "B8"
TITLE = "de-duplication: N agents, 15 shared and 20 own images each, simulated device t(b) = 2 + b ms"

SHARED, OWN, MAX_BATCH = 15, 20, 32
BASE_S, ITEM_S = 0.002, 0.001


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """A unit's response to an image, read at a depth of the network."""

    image: int
    unit: int
    depth: int


class CountingNetwork(Backend[UnitRequest, float]):
    """A network whose pass costs a fixed time an image; it keeps what it measured if `shares`."""

    name = "counting network"

    def __init__(self, shares: bool) -> None:
        self.max_batch = MAX_BATCH
        self.passes: list[tuple[int, int]] = []
        """(image, depth) of each forward pass."""
        self._shares = shares
        self._deepest: dict[int, int] = {}
        self._thread = DeviceThread("network")

    def key(self, request: UnitRequest) -> Hashable | None:
        return request.image if self._shares else None

    def merge(self, first: UnitRequest, second: UnitRequest) -> UnitRequest:
        return first if first.depth >= second.depth else second

    def covers(self, running: UnitRequest, wanted: UnitRequest) -> bool:
        return running.depth >= wanted.depth

    def rank(self, request: UnitRequest) -> float:
        return request.depth

    def lookup(self, request: UnitRequest) -> float | None:
        if self._shares and self._deepest.get(request.image, -1) >= request.depth:
            return self.answer(request, 0.0)
        return None

    def answer(self, request: UnitRequest, result: float) -> float:
        return float(request.image * 1000 + request.unit)

    async def run(self, batch: Sequence[UnitRequest]) -> list[float]:
        await self._thread.run(time.sleep, BASE_S + ITEM_S * len(batch))
        for request in batch:
            self.passes.append((request.image, request.depth))
            self._deepest[request.image] = max(request.depth, self._deepest.get(request.image, -1))
        return [0.0] * len(batch)

    async def close(self) -> None:
        self._thread.close()


async def _agents(n: int, shares: bool, mixed: bool, seed: int) -> tuple[float, CountingNetwork, Coalescer]:
    network = CountingNetwork(shares)
    async with LocalPool(network) as pool:

        async def agent(number: int) -> None:
            draw = random.Random(seed * 1000 + number)
            depth = draw.randrange(1, 4) if mixed else 2
            for start in range(0, SHARED + OWN, 5):  # five images a program
                requests = [
                    UnitRequest(i if i < SHARED else 1000 + OWN * number + i, number, depth)
                    for i in range(start, start + 5)
                ]
                answers = await pool.map(requests, agent=str(number))
                if answers != [request.image * 1000 + request.unit for request in requests]:
                    raise AssertionError("an answer is another agent's")

        start = time.perf_counter()
        await asyncio.gather(*(agent(i) for i in range(n)))
        return time.perf_counter() - start, network, pool.coalescer


@dataclass(frozen=True, slots=True)
class Measured:
    """The cost of `n` agents: passes, and seconds with sharing (median of three) and without it."""

    n: int
    passes: int
    seconds: float
    plain_s: float

    @property
    def served(self) -> int:
        return self.n * (SHARED + OWN)

    @property
    def distinct(self) -> int:
        return SHARED + self.n * OWN

    @property
    def ideal_s(self) -> float:
        """The device's time for the distinct images, in batches that are as full as can be."""
        return ITEM_S * self.distinct + BASE_S * -(-self.distinct // MAX_BATCH)

    def row(self) -> tuple[float, ...]:
        seconds, ideal = self.seconds, self.ideal_s
        repeats = self.served / self.distinct
        cells = (self.n, self.served, self.distinct, repeats, seconds, ideal)
        return (*cells, ideal / seconds, self.plain_s / seconds)


COLUMNS = ("agents", "served", "distinct", "served/distinct", "s", "ideal s", "÷ ideal", "× without sharing")


def run(context: Context) -> Result:
    counts = (1, 8, 32) if context.quick else (1, 8, 32, 128)
    measured = [_measure(context, n) for n in counts]
    at_32 = measured[counts.index(32)]
    bound = "Bounded by batches that are not full while few images are new, and by sleeping too long."
    series = {
        "shared": [(each.n, each.served / each.seconds) for each in measured],
        "a pass a request": [(each.n, each.served / each.plain_s) for each in measured],
    }
    note = "The device is simulated; with the real network the same counts are checked by the vision tests."
    repeats = at_32.passes / at_32.distinct
    return Result(
        [
            Metric("forwards ÷ distinct images, 32 agents", repeats, "", "== 1"),
            Metric("throughput ÷ ideal, 32 agents", at_32.ideal_s / at_32.seconds, "", ">= 0.9", bound),
            Metric("forwards ÷ distinct images, depths mixed, 32 agents", _mixed_depths(context)),
        ],
        [Table("Agents that share 15 of their 35 images", COLUMNS, tuple(each.row() for each in measured))],
        [Curve("Answers a second by agents", "agents", "answers/s", series)],
        notes=[note],
    )


def _measure(context: Context, n: int) -> Measured:
    shared = [asyncio.run(_agents(n, True, False, context.seed + i)) for i in range(3)]
    plain_s, plain, _ = asyncio.run(_agents(n, False, False, context.seed))
    passes = {len(network.passes) for _, network, _ in shared}
    measured = Measured(n, min(passes), statistics.median(each[0] for each in shared), plain_s)
    distinct = measured.distinct
    context.check(f"{n} agents: every answer is its own", True)  # each agent compares its own
    context.check(f"{n} agents without sharing: a pass a request", len(plain.passes) == measured.served)
    context.check(f"{n} agents: {distinct} passes for {distinct} distinct images", passes == {distinct})
    return measured


def _mixed_depths(context: Context) -> float:
    """Return forwards over distinct images of 32 agents at different depths.

    An image seen deep enough is never run again.
    """
    _, mixed, _ = asyncio.run(_agents(32, True, True, context.seed))
    context.check("depths mixed: no (image, depth) is run twice", len(set(mixed.passes)) == len(mixed.passes))
    deepest: dict[int, int] = {}
    covered = False
    for image, depth in mixed.passes:
        covered |= deepest.get(image, -1) >= depth
        deepest[image] = depth
    context.check("depths mixed: no image is run again at a depth it has covered", not covered)
    return len(mixed.passes) / (SHARED + 32 * OWN)
