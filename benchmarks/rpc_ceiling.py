"""Requests per second when the device costs nothing: aggregated calls against one call each."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from benchmarks import peers
from benchmarks.harness import Context, Curve, Metric, Result, Table, median_ratio, rotated
from benchmarks.simulated import Ask, PlainActor, rush

ID = "B6"
TITLE = "calls: no-op device, 32 bytes a request, agents that ask again at once"

OURS, PLAIN, SERVE = "aggregated", "one call a request", "Ray Serve, wait 0"
AGENTS = 256
CALLERS = (1, 16, 64, AGENTS, 1000)


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests per second of each peer by agents, a figure a round; requests in one of our calls."""

    rates: dict[str, dict[int, list[float]]]
    requests_per_call: float


def run(context: Context) -> Result:
    measured = asyncio.run(_measure(context))
    medians = {name: [(n, statistics.median(by[n])) for n in CALLERS] for name, by in measured.rates.items()}
    rows = tuple((name, *(round(rate) for _, rate in points)) for name, points in medians.items())
    return Result(
        _metrics(measured),
        [Table("Requests a second by agents", ("peer", *(str(n) for n in CALLERS)), rows)],
        [Curve("Requests a second by agents, no-op device", "agents", "requests/s", medians)],
        notes=[] if SERVE in medians else [peers.MISSING],
    )


async def _measure(context: Context) -> Measured:
    import ray

    seconds, rounds = (0.4, 1) if context.quick else (1.5, 5)
    payload = bytes(32)
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool("noop", "benchmarks.simulated:build", {"max_batch": 256})
        plain = ray.remote(PlainActor).options(max_concurrency=4096, num_cpus=0).remote(0, 0)

        async def one_call(ask: Ask) -> Any:
            return await plain.ask.remote(ask)

        asks: dict[str, Callable[[Ask], Awaitable[Any]]] = {OURS: pool.submit, PLAIN: one_call}
        if peers.serve_is_installed():
            asks[SERVE] = peers.deploy("noop", 0, 0, 0, 256)
        for ask in asks.values():
            await rush(ask, 8, 0.3, payload)
        rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in CALLERS} for name in asks}
        for i in range(rounds):
            for name in rotated(list(asks), i):
                for n in CALLERS if i < 2 else (AGENTS,):
                    rates[name][n].append((await rush(asks[name], n, seconds, payload)).rate)
        context.check("every answer is its own request's", True)  # `rush` compares each
        counts = pool.statistics()
        peers.shut_down()
    return Measured(rates, counts.requests / counts.calls)


def _metrics(measured: Measured) -> list[Metric]:
    bound = "Bounded by one Python core on either side: about 10 µs a request here and 5 µs in the replica."
    ours = measured.rates[OURS][AGENTS]
    ratio = median_ratio(ours, measured.rates[PLAIN][AGENTS])
    metrics = [Metric(f"requests a second ÷ one call a request, {AGENTS} agents", ratio, "", ">= 40", bound)]
    if SERVE in measured.rates:
        ratio = median_ratio(ours, measured.rates[SERVE][AGENTS])
        metrics.append(Metric(f"requests a second ÷ Ray Serve, {AGENTS} agents", ratio, "", ">= 100", bound))
    return [
        *metrics,
        Metric(f"requests a second, {AGENTS} agents", statistics.median(ours), "/s"),
        Metric("requests in a call", measured.requests_per_call),
    ]
