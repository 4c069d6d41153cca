"""A batch sealed only when the device is free, against Ray Serve's timers and against no batches at all."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from benchmarks import peers
from benchmarks.harness import Context, Curve, Metric, Result, Table, median_ratio, percentile
from benchmarks.simulated import Ask, PlainActor, Rush, rush

ID = "B5"
TITLE = "late binding: simulated device t(b) = 4 + 0.25 b ms, at most 32 a batch, 12 KB a request"

BASE_MS, ITEM_MS, MAX_BATCH = 4.0, 0.25, 32
CEILING = 1000 * MAX_BATCH / (BASE_MS + ITEM_MS * MAX_BATCH)
PAYLOAD = bytes(range(256)) * 48
SERVE_WAITS_MS = (0, 5, 10, 20, 50)
OURS, PLAIN, SERVE = "late binding", "one call a request", "Ray Serve, best wait"


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    import ray

    callers = (1, 16, 64, 256, 1000)
    seconds, rounds = (0.4, 1) if context.quick else (1.2, 3)
    notes: list[str] = []
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool(
            "device",
            "benchmarks.simulated:build",
            {"base_ms": BASE_MS, "item_ms": ITEM_MS, "max_batch": MAX_BATCH},
        )
        plain = ray.remote(PlainActor).options(max_concurrency=4096, num_cpus=0).remote(BASE_MS, ITEM_MS)

        async def one_call(ask: Ask) -> Any:
            return await plain.ask.remote(ask)

        asks: dict[str, Callable[[Ask], Awaitable[Any]]] = {OURS: pool.submit, PLAIN: one_call}
        serves: dict[int, Callable[[Ask], Awaitable[Any]]] = {}
        if peers.serve_is_installed():
            for wait in SERVE_WAITS_MS:
                serves[wait] = peers.deploy(f"wait{wait}", wait, BASE_MS, ITEM_MS, MAX_BATCH)
        else:
            notes.append(peers.MISSING)
        for ask in (*asks.values(), *serves.values()):
            await rush(ask, 8, 0.3, PAYLOAD)
        rushes: dict[str, dict[int, list[Rush]]] = {OURS: {}, PLAIN: {}}
        if serves:
            rushes[SERVE] = {}
        best_waits = {}
        for n in callers:
            if serves:
                tried = {
                    wait: (await rush(ask, n, seconds / 2, PAYLOAD)).rate for wait, ask in serves.items()
                }
                best_waits[n] = max(tried, key=lambda wait: tried[wait])
                asks[SERVE] = serves[best_waits[n]]
            for i in range(rounds):
                names = list(asks)
                for name in names[i % len(names) :] + names[: i % len(names)]:
                    rushes[name].setdefault(n, []).append(await rush(asks[name], n, seconds, PAYLOAD))
        context.check("every answer is its own request's", True)  # `rush` compares each
        (counts,) = await pool.replica_statistics()
        context.check(f"no batch holds more than {MAX_BATCH}", counts.mean_batch <= MAX_BATCH)
        if serves:
            from ray import serve

            with contextlib.suppress(Exception):
                serve.shutdown()

    def rates(name: str, n: int) -> list[float]:
        return [each.rate for each in rushes[name][n]]

    metrics = []
    if serves:
        for n, target in ((64, 3), (256, 4), (1000, 4)):
            ratio = median_ratio(rates(OURS, n), rates(SERVE, n))
            metrics.append(
                Metric(f"requests a second ÷ Serve's best, {n} callers", ratio, "", f">= {target}")
            )
    at_ceiling = max(statistics.median(rates(OURS, n)) for n in (256, 1000)) / CEILING
    metrics.append(
        Metric(
            f"share of the device's ceiling of {CEILING:.0f} requests/s",
            at_ceiling,
            "",
            ">= 0.85",
            "Bounded by the time from the end of one batch to the start of the next.",
        )
    )
    lone = {name: [percentile(each.latencies, 0.5) for each in rushes[name][1]] for name in (OURS, PLAIN)}
    metrics.append(
        Metric(
            "a lone caller's median time ÷ a bare call's",
            median_ratio(lone[OURS], lone[PLAIN]),
            "",
            "<= 1.15",
        )
    )
    rows = []
    for name, by_callers in rushes.items():
        for n in callers:
            runs = by_callers[n]
            p50, p99 = (
                1000 * statistics.median(percentile(each.latencies, q) for each in runs) for q in (0.5, 0.99)
            )
            label = f"Ray Serve, {best_waits[n]} ms" if name == SERVE else name
            rows.append((label, n, round(statistics.median(rates(name, n))), p50, p99, p99 / p50))
    series = {name: [(n, statistics.median(rates(name, n))) for n in callers] for name in rushes}
    series["ceiling"] = [(n, CEILING) for n in callers]
    return Result(
        metrics,
        [
            Table(
                "Medians of rounds",
                ("peer", "callers", "requests/s", "p50 ms", "p99 ms", "p99/p50"),
                tuple(rows),
            )
        ],
        [Curve("Requests a second by callers", "concurrent callers", "requests/s", series, "ceiling")],
        notes=notes,
    )
