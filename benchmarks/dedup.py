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
class Look:
    """A unit's response to an image, read at a depth of the network."""

    image: int
    unit: int
    depth: int


class CountingNetwork(Backend[Look, float]):
    """A network whose pass costs a fixed time an image; it keeps what it measured, unless told not to."""

    name = "counting network"

    def __init__(self, shares: bool) -> None:
        self.max_batch = MAX_BATCH
        self.passes: list[tuple[int, int]] = []
        """(image, depth) of each forward pass."""
        self._shares = shares
        self._deepest: dict[int, int] = {}
        self._thread = DeviceThread("network")

    def key(self, request: Look) -> Hashable | None:
        return request.image if self._shares else None

    def merge(self, first: Look, second: Look) -> Look:
        return first if first.depth >= second.depth else second

    def covers(self, running: Look, wanted: Look) -> bool:
        return running.depth >= wanted.depth

    def rank(self, request: Look) -> float:
        return request.depth

    def lookup(self, request: Look) -> float | None:
        if self._shares and self._deepest.get(request.image, -1) >= request.depth:
            return self.answer(request, 0.0)
        return None

    def answer(self, request: Look, result: float) -> float:
        return float(request.image * 1000 + request.unit)

    async def run(self, batch: Sequence[Look]) -> list[float]:
        await self._thread.run(time.sleep, BASE_S + ITEM_S * len(batch))
        for look in batch:
            self.passes.append((look.image, look.depth))
            self._deepest[look.image] = max(look.depth, self._deepest.get(look.image, -1))
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
                looks = [
                    Look(i if i < SHARED else 1000 + OWN * number + i, number, depth)
                    for i in range(start, start + 5)
                ]
                answers = await pool.map(looks, agent=str(number))
                if answers != [look.image * 1000 + look.unit for look in looks]:
                    raise AssertionError("an answer is another agent's")

        start = time.perf_counter()
        await asyncio.gather(*(agent(i) for i in range(n)))
        return time.perf_counter() - start, network, pool.coalescer


def run(context: Context) -> Result:
    rows, curve_shared, curve_plain, metrics = [], [], [], []
    counts = (1, 8, 32) if context.quick else (1, 8, 32, 128)
    for n in counts:
        served, distinct = n * (SHARED + OWN), SHARED + n * OWN
        shared = [asyncio.run(_agents(n, True, False, context.seed + i)) for i in range(3)]
        plain_s, plain, _ = asyncio.run(_agents(n, False, False, context.seed))
        context.check(f"{n} agents: every answer is its own", True)  # each agent compares its own
        context.check(f"{n} agents without sharing: a pass a request", len(plain.passes) == served)
        passes = {len(network.passes) for _, network, _ in shared}
        context.check(f"{n} agents: {distinct} passes for {distinct} distinct images", passes == {distinct})
        seconds = statistics.median(each[0] for each in shared)
        # The least time the device needs for the distinct images, in batches that are as full as can be.
        ideal = ITEM_S * distinct + BASE_S * -(-distinct // MAX_BATCH)
        rows.append(
            (n, served, distinct, served / distinct, seconds, ideal, ideal / seconds, plain_s / seconds)
        )
        curve_shared.append((n, served / seconds))
        curve_plain.append((n, served / plain_s))
        if n == 32:
            metrics.append(
                Metric("forwards ÷ distinct images, 32 agents", passes.pop() / distinct, "", "== 1")
            )
            metrics.append(
                Metric(
                    "throughput ÷ ideal, 32 agents",
                    ideal / seconds,
                    "",
                    ">= 0.9",
                    "Bounded by batches that are not full while few images are new, and by sleeping too long.",
                )
            )
    # Agents at different depths: an image seen deep enough is never run again.
    _, mixed, _ = asyncio.run(_agents(32, True, True, context.seed))
    context.check("depths mixed: no (image, depth) is run twice", len(set(mixed.passes)) == len(mixed.passes))
    deepest: dict[int, int] = {}
    for image, depth in mixed.passes:
        if deepest.get(image, -1) >= depth:
            context.check("depths mixed: no image is run again at a depth it has covered", False)
        deepest[image] = depth
    context.check("depths mixed: no image is run again at a depth it has covered", True)
    metrics.append(
        Metric("forwards ÷ distinct images, depths mixed, 32 agents", len(mixed.passes) / (SHARED + 32 * OWN))
    )
    columns = (
        "agents",
        "served",
        "distinct",
        "served/distinct",
        "s",
        "ideal s",
        "÷ ideal",
        "× without sharing",
    )
    return Result(
        metrics,
        [Table("Agents that share 15 of their 35 images", columns, tuple(rows))],
        [
            Curve(
                "Answers a second by agents",
                "agents",
                "answers/s",
                {"shared": curve_shared, "a pass a request": curve_plain},
            )
        ],
        notes=[
            "The device is simulated; with the real network the same counts are checked by the vision tests."
        ],
    )
