"""How many requests a second pass when the device costs nothing: aggregated calls against one call each."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from benchmarks import peers
from benchmarks.harness import Context, Curve, Metric, Result, Table, median_ratio
from benchmarks.simulated import Ask, PlainActor, rush

ID = "B6"
TITLE = "calls: no-op device, 32 bytes a request, agents that ask again at once"

OURS, PLAIN, SERVE = "aggregated", "one call a request", "Ray Serve, wait 0"
AGENTS = 256


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    import ray

    callers = (1, 16, 64, AGENTS, 1000)
    seconds, rounds = (0.4, 1) if context.quick else (1.5, 5)
    payload = bytes(32)
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool("noop", "benchmarks.simulated:build", {"max_batch": 256})
        plain = ray.remote(PlainActor).options(max_concurrency=4096, num_cpus=0).remote(0, 0)

        async def one_call(ask: Ask) -> Any:
            return await plain.ask.remote(ask)

        asks: dict[str, Callable[[Ask], Awaitable[Any]]] = {OURS: pool.submit, PLAIN: one_call}
        notes = []
        if peers.serve_is_installed():
            asks[SERVE] = peers.deploy("noop", 0, 0, 0, 256)
        else:
            notes.append(peers.MISSING)
        for ask in asks.values():
            await rush(ask, 8, 0.3, payload)
        rates: dict[str, dict[int, list[float]]] = {name: {n: [] for n in callers} for name in asks}
        for i in range(rounds):
            names = list(asks)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                for n in callers if i < 2 else (AGENTS,):
                    rates[name][n].append((await rush(asks[name], n, seconds, payload)).rate)
        context.check("every answer is its own request's", True)  # `rush` compares each
        counts = pool.statistics()
        if SERVE in asks:
            from ray import serve

            with contextlib.suppress(Exception):
                serve.shutdown()
    bound = "Bounded by one Python core on either side: about 10 µs a request here and 5 µs in the replica."
    ours, calls = rates[OURS][AGENTS], rates[PLAIN][AGENTS]
    metrics = [
        Metric(
            f"requests a second ÷ one call a request, {AGENTS} agents",
            median_ratio(ours, calls),
            "",
            ">= 40",
            bound,
        )
    ]
    if SERVE in asks:
        ratio = median_ratio(ours, rates[SERVE][AGENTS])
        metrics.append(Metric(f"requests a second ÷ Ray Serve, {AGENTS} agents", ratio, "", ">= 100", bound))
    metrics.append(Metric(f"requests a second, {AGENTS} agents", statistics.median(ours), "/s"))
    metrics.append(Metric("requests in a call", counts.requests / counts.calls))
    rows = tuple((name, *(round(statistics.median(by[n])) for n in callers)) for name, by in rates.items())
    return Result(
        metrics,
        [Table("Requests a second by agents", ("peer", *(str(n) for n in callers)), rows)],
        [
            Curve(
                "Requests a second by agents, no-op device",
                "agents",
                "requests/s",
                {name: [(n, statistics.median(by[n])) for n in callers] for name, by in rates.items()},
            )
        ],
        notes=notes,
    )
