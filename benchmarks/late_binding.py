"""A batch sealed only when the device is free, against Ray Serve's timers and against no batches at all."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from benchmarks import peers
from benchmarks.harness import Context, Curve, Metric, Result, Table, median_ratio, percentile, rotated
from benchmarks.simulated import Ask, PlainActor, Rush, rush

ID = "B5"
TITLE = "late binding: simulated device t(b) = 4 + 0.25 b ms, at most 32 a batch, 12 KB a request"

BASE_MS, ITEM_MS, MAX_BATCH = 4.0, 0.25, 32
CEILING = 1000 * MAX_BATCH / (BASE_MS + ITEM_MS * MAX_BATCH)
PAYLOAD = bytes(range(256)) * 48
SERVE_WAITS_MS = (0, 5, 10, 20, 50)
CALLERS = (1, 16, 64, 256, 1000)
OURS, PLAIN, SERVE = "late binding", "one call a request", "Ray Serve, best wait"


Asker = Callable[[Ask], Awaitable[Any]]


@dataclass(slots=True)
class Measured:
    """The measurements of each peer by the number of callers, and the wait with which Serve was best."""

    rushes: dict[str, dict[int, list[Rush]]] = field(default_factory=dict)
    best_waits: dict[int, int] = field(default_factory=dict)

    def rates(self, name: str, n: int) -> list[float]:
        return [each.rate for each in self.rushes[name][n]]

    def medians(self, name: str) -> list[tuple[int, float]]:
        return [(n, statistics.median(self.rates(name, n))) for n in CALLERS]


def run(context: Context) -> Result:
    measured = asyncio.run(_measure(context))
    return Result(
        _metrics(measured),
        [_table(measured)],
        [_curve(measured)],
        notes=[] if SERVE in measured.rushes else [peers.MISSING],
    )


async def _measure(context: Context) -> Measured:
    import ray

    measured = Measured()
    async with Cluster.start(RaySettings()) as cluster:
        device = {"base_ms": BASE_MS, "item_ms": ITEM_MS, "max_batch": MAX_BATCH}
        pool = cluster.pool("device", "benchmarks.simulated:build", device)
        plain = ray.remote(PlainActor).options(max_concurrency=4096, num_cpus=0).remote(BASE_MS, ITEM_MS)

        async def one_call(ask: Ask) -> Any:
            return await plain.ask.remote(ask)

        asks: dict[str, Asker] = {OURS: pool.submit, PLAIN: one_call}
        serves: dict[int, Asker] = {}
        if peers.serve_is_installed():
            for wait in SERVE_WAITS_MS:
                serves[wait] = peers.deploy(f"wait{wait}", wait, BASE_MS, ITEM_MS, MAX_BATCH)
        for ask in (*asks.values(), *serves.values()):
            await rush(ask, 8, 0.3, PAYLOAD)
        await _rush_all(measured, asks, serves, *((0.4, 1) if context.quick else (1.2, 3)))
        context.check("every answer is its own request's", True)  # `rush` compares each
        (counts,) = await pool.replica_statistics()
        context.check(f"no batch holds more than {MAX_BATCH}", counts.mean_batch <= MAX_BATCH)
        peers.shut_down()
    return measured


async def _rush_all(
    measured: Measured, asks: dict[str, Asker], serves: dict[int, Asker], seconds: float, rounds: int
) -> None:
    for n in CALLERS:
        if serves:
            tried = {wait: (await rush(ask, n, seconds / 2, PAYLOAD)).rate for wait, ask in serves.items()}
            measured.best_waits[n] = max(tried, key=lambda wait: tried[wait])
            asks[SERVE] = serves[measured.best_waits[n]]
        for i in range(rounds):
            for name in rotated(list(asks), i):
                taken = measured.rushes.setdefault(name, {}).setdefault(n, [])
                taken.append(await rush(asks[name], n, seconds, PAYLOAD))


def _metrics(measured: Measured) -> list[Metric]:
    metrics = []
    if SERVE in measured.rushes:
        for n, target in ((64, 3), (256, 4), (1000, 4)):
            ratio = median_ratio(measured.rates(OURS, n), measured.rates(SERVE, n))
            metrics.append(
                Metric(f"requests a second ÷ Serve's best, {n} callers", ratio, "", f">= {target}")
            )
    at_ceiling = max(statistics.median(measured.rates(OURS, n)) for n in (256, 1000)) / CEILING
    bound = "Bounded by the time from the end of one batch to the start of the next."
    share = f"share of the device's ceiling of {CEILING:.0f} requests/s"
    lone = {
        name: [percentile(each.latencies, 0.5) for each in measured.rushes[name][1]] for name in (OURS, PLAIN)
    }
    ratio = median_ratio(lone[OURS], lone[PLAIN])
    return [
        *metrics,
        Metric(share, at_ceiling, "", ">= 0.85", bound),
        Metric("a lone caller's median time ÷ a bare call's", ratio, "", "<= 1.15"),
    ]


def _table(measured: Measured) -> Table:
    rows = []
    for name, by_callers in measured.rushes.items():
        for n in CALLERS:
            p50, p99 = (
                1000 * statistics.median(percentile(each.latencies, q) for each in by_callers[n])
                for q in (0.5, 0.99)
            )
            label = f"Ray Serve, {measured.best_waits[n]} ms" if name == SERVE else name
            rate = round(statistics.median(measured.rates(name, n)))
            rows.append((label, n, rate, p50, p99, p99 / p50))
    columns = ("peer", "callers", "requests/s", "p50 ms", "p99 ms", "p99/p50")
    return Table("Medians of rounds", columns, tuple(rows))


def _curve(measured: Measured) -> Curve:
    series = {name: measured.medians(name) for name in measured.rushes}
    series["ceiling"] = [(n, CEILING) for n in CALLERS]
    return Curve("Requests a second by callers", "concurrent callers", "requests/s", series, "ceiling")
