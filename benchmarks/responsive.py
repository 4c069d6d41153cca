"""A busy replica still answers, and keeps its rate when other processes want the cores."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from actors.cluster.settings import RaySettings
from actors.runtime import import_vision_libraries, pick_device
from actors.serving.blocking import BlockingBackend
from actors.serving.cluster import Cluster
from benchmarks.harness import Context, Metric, Result, Table, percentile
from benchmarks.simulated import Ask

ID = "B14"
TITLE = "responsive: pings to a busy replica; its rate beside busy processes (EfficientNet-lite0)"

BATCH, FEW = 32, 8


class Network:
    """EfficientNet-lite0 with random weights on constant images: the time counts, not the answers."""

    def __init__(self, device: str) -> None:
        import_vision_libraries()
        import timm
        import torch

        self._torch, self._device = torch, pick_device(device)
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        self._network = network.to(self._device, memory_format=torch.channels_last)

    def forward(self, asks: Sequence[Ask]) -> list[int]:
        with self._torch.inference_mode():
            images = self._torch.ones(len(asks), 3, 224, 224, device=self._device)
            self._network(images.contiguous(memory_format=self._torch.channels_last)).cpu()
        return [ask.number + 1 for ask in asks]


def build(device: str, max_batch: int = BATCH) -> BlockingBackend[Ask, int]:
    return BlockingBackend("lite0", Network(device).forward, max_batch=max_batch)


class InTheLoop:
    """The peer: the same network, run where its calls are answered, with torch's own defaults."""

    def __init__(self, device: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._network = Network(device)

    async def ask(self, asks: list[Ask]) -> list[int]:
        return self._network.forward(asks)

    async def ping(self) -> int:
        return 0


_SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:  # a benchmark that is killed must not leave the machine busy
    sum(range(100_000))
"""


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Keep `n` processes busy on one core each."""
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    import os

    import ray

    seconds = 1.5 if context.quick else 4.0
    cores = os.cpu_count() or 1
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool("network", "benchmarks.responsive:build", {"device": context.device})
        loop = (
            ray.remote(InTheLoop)
            .options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cores)}})
            .remote(context.device, cores)
        )
        context.check(
            "every answer is its own request's", await pool.map(map(Ask, range(40))) == list(range(1, 41))
        )
        context.check("the peer answers alike", await loop.ask.remote([Ask(1)]) == [2])
        (link,) = pool._links

        async def pings(ping: Any, work: Any) -> tuple[list[float], float]:
            """Return the seconds of each ping while `work` keeps the replica busy, and images a second."""
            taken: list[float] = []
            images = 0
            end = time.perf_counter() + seconds
            start = time.perf_counter()

            async def worker() -> None:
                nonlocal images
                while time.perf_counter() < end:
                    images += await work()

            workers = [asyncio.ensure_future(worker()) for _ in range(2)]
            while time.perf_counter() < end:
                await asyncio.sleep(0.01)
                began = time.perf_counter()
                await ping()
                taken.append(time.perf_counter() - began)
            await asyncio.gather(*workers)
            return taken, images / (time.perf_counter() - start)

        asks, few = [Ask(i) for i in range(BATCH)], [Ask(i) for i in range(FEW)]

        async def ours() -> int:
            return len(await pool.map(asks))

        async def theirs() -> int:
            return len(await loop.ask.remote(asks))

        async def rate(work: Any) -> float:
            images, start = 0, time.perf_counter()
            while time.perf_counter() - start < seconds / 2:
                images += await work()
            return images / (time.perf_counter() - start)

        async def ours_few() -> int:
            return len(await pool.map(few))

        async def theirs_few() -> int:
            return len(await loop.ask.remote(few))

        async def ours_alone() -> int:
            return int(await pool.submit(Ask(1)) > 0)

        async def theirs_alone() -> int:
            return len(await loop.ask.remote([Ask(1)]))

        ours_pings, _ = await pings(link.handle.ping, ours)
        their_pings, _ = await pings(loop.ping.remote, theirs)
        rates: dict[tuple[str, int], list[float]] = {}
        works = {
            f"ours, batch {FEW}": ours_few,
            f"stock, batch {FEW}": theirs_few,
            "ours, batch 1": ours_alone,
            "stock, batch 1": theirs_alone,
        }
        for n in (0, 1, 2):
            with busy(n):
                for _ in range(1 if context.quick else 2):
                    for name, work in works.items():
                        rates.setdefault((name, n), []).append(await rate(work))
    p99 = 1000 * percentile(ours_pings, 0.99)
    their_p99 = 1000 * percentile(their_pings, 0.99)

    def kept(name: str) -> float:
        return statistics.median(rates[name, 2])

    return Result(
        [
            Metric(
                "p99 of a ping to a busy replica",
                p99,
                "ms",
                "<= 15",
                "Bounded by the cores: all are computing.",
            ),
            Metric("p99 with the forward pass in the event loop ÷ ours", their_p99 / p99),
            Metric(
                "rate ÷ stock beside 2 busy processes, batch 1",
                kept("ours, batch 1") / kept("stock, batch 1"),
            ),
            Metric(
                f"rate ÷ stock beside 2 busy processes, batch {FEW}",
                kept(f"ours, batch {FEW}") / kept(f"stock, batch {FEW}"),
            ),
        ],
        [
            Table(
                "Pings while the device is busy",
                ("forward pass", "pings", "p50 ms", "p99 ms"),
                tuple(
                    (name, len(taken), 1000 * percentile(taken, 0.5), 1000 * percentile(taken, 0.99))
                    for name, taken in (("in a thread", ours_pings), ("in the event loop", their_pings))
                ),
            ),
            Table(
                "Images a second beside busy processes",
                ("replica", "0 busy", "1 busy", "2 busy"),
                tuple((name, *(statistics.median(rates[name, n]) for n in (0, 1, 2))) for name in works),
            ),
        ],
        notes=["Stock: torch's own threads and allocator, spinning OpenMP threads."],
    )
