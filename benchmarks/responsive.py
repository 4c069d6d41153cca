"""A busy replica still answers, and keeps its rate when other processes want the cores."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actors.cluster.settings import RaySettings
from actors.runtime import pick_device
from actors.serving.blocking import BlockingBackend
from actors.serving.cluster import Cluster
from actors.vision_libraries import import_torchvision
from benchmarks.harness import Context, Metric, Result, Table, percentile
from benchmarks.simulated import Ask

ID = "B14"
TITLE = "responsive: pings to a busy replica; its rate beside busy processes (EfficientNet-lite0)"

BATCH, FEW = 32, 8


class Network:
    """EfficientNet-lite0 with random weights on constant images: the time counts, not the answers."""

    def __init__(self, device: str) -> None:
        import_torchvision()
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


Work = Callable[[], Awaitable[int]]
"""Keeps a replica busy once; returns how many images that were."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of pings to either busy replica; images a second by kind of work and busy processes."""

    ours: list[float]
    theirs: list[float]
    rates: dict[tuple[str, int], list[float]]

    def rate(self, name: str, n_busy: int) -> float:
        return statistics.median(self.rates[name, n_busy])

    def kept(self, batch: int) -> float:
        """Return our rate over the stock replica's while two processes are busy."""
        return self.rate(f"ours, batch {batch}", 2) / self.rate(f"stock, batch {batch}", 2)


def run(context: Context) -> Result:
    measured = asyncio.run(_measure(context))
    pings = (("in a thread", measured.ours), ("in the event loop", measured.theirs))
    p99, their_p99 = (1000 * percentile(taken, 0.99) for _, taken in pings)
    bound = "Bounded by the cores: all are computing."
    return Result(
        [
            Metric("p99 of a ping to a busy replica", p99, "ms", "<= 15", bound),
            Metric("p99 with the forward pass in the event loop ÷ ours", their_p99 / p99),
            Metric("rate ÷ stock beside 2 busy processes, batch 1", measured.kept(1)),
            Metric(f"rate ÷ stock beside 2 busy processes, batch {FEW}", measured.kept(FEW)),
        ],
        [
            Table(
                "Pings while the device is busy",
                ("forward pass", "pings", "p50 ms", "p99 ms"),
                tuple(
                    (name, len(taken), *(1000 * percentile(taken, q) for q in (0.5, 0.99)))
                    for name, taken in pings
                ),
            ),
            Table(
                "Images a second beside busy processes",
                ("replica", "0 busy", "1 busy", "2 busy"),
                tuple(
                    (name, *(measured.rate(name, n) for n in (0, 1, 2)))
                    for name in dict.fromkeys(name for name, _ in measured.rates)
                ),
            ),
        ],
        notes=["Stock: torch's own threads and allocator, spinning OpenMP threads."],
    )


async def _measure(context: Context) -> Measured:
    seconds = 1.5 if context.quick else 4.0
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool("network", "benchmarks.responsive:build", {"device": context.device})
        stock = _stock_replica(context.device)
        answers = await pool.map(map(Ask, range(40)))
        context.check("every answer is its own request's", answers == list(range(1, 41)))
        context.check("the peer answers alike", await stock.ask.remote([Ask(1)]) == [2])

        def ours(n: int) -> Work:
            async def work() -> int:
                if n == 1:
                    return int(await pool.submit(Ask(1)) > 0)
                return len(await pool.map([Ask(i) for i in range(n)]))

            return work

        def theirs(n: int) -> Work:
            async def work() -> int:
                return len(await stock.ask.remote([Ask(i) for i in range(n)]))

            return work

        (link,) = pool._links
        our_pings = await _pings(link.handle.ping, ours(BATCH), seconds)
        their_pings = await _pings(stock.ping.remote, theirs(BATCH), seconds)
        works = {
            f"ours, batch {FEW}": ours(FEW),
            f"stock, batch {FEW}": theirs(FEW),
            "ours, batch 1": ours(1),
            "stock, batch 1": theirs(1),
        }
        rates = await _rates(works, seconds / 2, rounds=1 if context.quick else 2)
    return Measured(our_pings, their_pings, rates)


def _stock_replica(device: str) -> Any:
    import ray

    cores = os.cpu_count() or 1
    options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(cores)}}}
    return ray.remote(InTheLoop).options(**options).remote(device, cores)


async def _pings(ping: Callable[[], Awaitable[Any]], work: Work, seconds: float) -> list[float]:
    """Return the seconds of each ping while `work` keeps the replica busy."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def worker() -> None:
        while time.perf_counter() < end:
            await work()

    workers = [asyncio.ensure_future(worker()) for _ in range(2)]
    while time.perf_counter() < end:
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        await ping()
        taken.append(time.perf_counter() - began)
    await asyncio.gather(*workers)
    return taken


async def _rates(works: dict[str, Work], seconds: float, rounds: int) -> dict[tuple[str, int], list[float]]:
    """Return images a second of each kind of work with 0, 1 and 2 busy processes, a figure a round."""
    rates: dict[tuple[str, int], list[float]] = {}
    for n in (0, 1, 2):
        with busy(n):
            for _ in range(rounds):
                for name, work in works.items():
                    rates.setdefault((name, n), []).append(await _rate(work, seconds))
    return rates


async def _rate(work: Work, seconds: float) -> float:
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += await work()
    return images / (time.perf_counter() - start)
