"""Whole studies: agents that think, generate and measure, against the least time that the resources allow."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from actors.serving.replica_pool import PoolOptions
from benchmarks import peers
from benchmarks.harness import Context, Curve, Metric, Result, Table
from benchmarks.simulated import Ask

ID = "B12"
TITLE = "makespan: 6 rounds of thinking (0.27 s), 10 images generated, 10 measured"

ROUNDS, IMAGES = 6, 10
GENERATOR = {"base_ms": 4.0, "item_ms": 1.0, "max_batch": 16}
NETWORK = {"base_ms": 4.0, "item_ms": 0.1, "max_batch": 256}
SERVE_WAIT_MS = 10
OURS, SERVE = "late binding", f"Ray Serve, {SERVE_WAIT_MS} ms"

Asker = Callable[[Ask], Awaitable[Any]]


def _thinking(agents: int, seed: int) -> list[list[float]]:
    """Return the seconds that each agent's model takes in each round: lognormal, median 0.25, mean 0.27."""
    draw = random.Random(seed)
    return [[draw.lognormvariate(-1.386, 0.4) for _ in range(ROUNDS)] for _ in range(agents)]


def _duration(device: dict[str, float], n: int) -> float:
    return (device["base_ms"] + device["item_ms"] * n) / 1000


def lower_bound(thinking: list[list[float]]) -> float:
    """Return seconds that no schedule can beat: each device's work in full batches, the longest agent's
    chain.
    """
    n = len(thinking) * ROUNDS * IMAGES
    works = []
    for device in (GENERATOR, NETWORK):
        full, rest = divmod(n, int(device["max_batch"]))
        works.append(
            full * _duration(device, int(device["max_batch"])) + (_duration(device, rest) if rest else 0)
        )
    first = min(rounds[0] for rounds in thinking)
    own = ROUNDS * (_duration(GENERATOR, IMAGES) + _duration(NETWORK, IMAGES))
    return max(first + works[0], first + works[1], max(sum(rounds) for rounds in thinking) + own)


async def _study(thinking: list[list[float]], generate: Asker, measure: Asker) -> float:
    async def agent(number: int) -> None:
        for i, seconds in enumerate(thinking[number]):
            await asyncio.sleep(seconds)
            first = (number * ROUNDS + i) * IMAGES
            images = await asyncio.gather(*(generate(Ask(first + j)) for j in range(IMAGES)))
            measured = await asyncio.gather(*(measure(Ask(image)) for image in images))
            if measured != [first + j + 2 for j in range(IMAGES)]:
                raise AssertionError("an answer is another agent's")

    start = time.perf_counter()
    await asyncio.gather(*(agent(i) for i in range(len(thinking))))
    return time.perf_counter() - start


def run(context: Context) -> Result:
    plan = ((8, 1), (64, 1)) if context.quick else ((8, 2), (64, 2), (256, 1), (1000, 1))
    thinking = {n: _thinking(n, context.seed) for n, _ in plan}
    bounds = {n: lower_bound(seconds) for n, seconds in thinking.items()}
    taken = asyncio.run(_measure(context, dict(plan), thinking))
    ours = {n: statistics.median(taken[OURS][n]) for n in thinking}
    rows = [(n, bounds[n], ours[n], ours[n] / bounds[n], _alone(thinking[n]) / ours[n]) for n in thinking]
    columns = ("agents", "lower bound", "makespan", "÷ bound", "one after another ÷ makespan")
    title = "Seconds (one agent after another, one image a call: computed from the same times)"
    series = {"makespan": list(ours.items()), "lower bound": list(bounds.items())}
    return Result(
        _metrics(taken, ours, bounds),
        [Table(title, columns, tuple(rows))],
        [Curve("Makespan by agents", "agents", "seconds", series, "lower bound")],
        notes=[] if SERVE in taken else [peers.MISSING],
    )


async def _measure(
    context: Context, rounds: dict[int, int], thinking: dict[int, list[list[float]]]
) -> dict[str, dict[int, list[float]]]:
    """Return the seconds of each study, by the way of asking and the number of agents."""
    taken: dict[str, dict[int, list[float]]] = {OURS: {}}
    async with Cluster.start(RaySettings()) as cluster:
        ways: dict[str, tuple[Asker, Asker]] = {
            OURS: (
                cluster.pool(
                    "generator", "benchmarks.simulated:build", GENERATOR, options=PoolOptions(limit=20000)
                ).submit,
                cluster.pool(
                    "network", "benchmarks.simulated:build", NETWORK, options=PoolOptions(limit=20000)
                ).submit,
            )
        }
        if peers.serve_is_installed():
            ways[SERVE] = (
                peers.deploy("generator", SERVE_WAIT_MS, 4.0, 1.0, 16),
                peers.deploy("network", SERVE_WAIT_MS, 4.0, 0.1, 256),
            )
            taken[SERVE] = {}
        for generate, measure in ways.values():
            await _study([[0.01] * ROUNDS] * 2, generate, measure)
        for n, seconds in thinking.items():
            for i in range(rounds[n]):
                for name, way in ways.items():
                    if name == OURS or (n <= 64 and not i):  # the peer takes too long for more
                        taken[name].setdefault(n, []).append(await _study(seconds, *way))
        context.check("every measurement is that of its own agent's image", True)  # each agent compares
        peers.shut_down()
    return taken


def _alone(thinking: list[list[float]]) -> float:
    """Return the seconds of one agent after another, one image a call."""
    images_s = ROUNDS * IMAGES * (_duration(GENERATOR, 1) + _duration(NETWORK, 1))
    return sum(sum(rounds) + images_s for rounds in thinking)


def _metrics(
    taken: dict[str, dict[int, list[float]]], ours: dict[int, float], bounds: dict[int, float]
) -> list[Metric]:
    metrics = []
    bound = "Bounded by the end of the study, when too few agents are left for full batches."
    for n, seconds in ours.items():
        target = "<= 1.06" if n >= 64 else ""
        metrics.append(Metric(f"makespan ÷ lower bound, {n} agents", seconds / bounds[n], "", target, bound))
        if n in taken.get(SERVE, {}):
            ratio = taken[SERVE][n][0] / taken[OURS][n][0]
            metrics.append(Metric(f"Ray Serve's makespan ÷ ours, {n} agents", ratio))
    return metrics
