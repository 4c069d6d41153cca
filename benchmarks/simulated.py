"""A device whose time for a batch of b requests is base + item * b, and nothing else: it sleeps in its
thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.serving.backend import Backend
from actors.serving.blocking import DeviceThread


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with some bytes to carry; its answer is `number` + 1."""

    number: int
    payload: bytes = b""


class SimulatedDevice(Backend[Ask, int]):
    """Answers after `base_ms` + `item_ms` for each request of the batch; at once if both are 0."""

    def __init__(self, base_ms: float, item_ms: float, max_batch: int) -> None:
        self.name = f"simulated t(b)={base_ms:g}+{item_ms:g}b ms"
        self.max_batch = max_batch
        self._base_s, self._item_s = base_ms / 1000, item_ms / 1000
        self._thread = DeviceThread("device")

    async def run(self, batch: Sequence[Ask]) -> list[int]:
        if self._base_s or self._item_s:
            await self._thread.run(time.sleep, self._base_s + self._item_s * len(batch))
        return [ask.number + 1 for ask in batch]

    async def close(self) -> None:
        self._thread.close()


def build(base_ms: float = 0.0, item_ms: float = 0.0, max_batch: int = 256) -> SimulatedDevice:
    return SimulatedDevice(base_ms, item_ms, max_batch)


class PlainActor:
    """The peer without coalescing: one call a request, one request a batch."""

    def __init__(self, base_ms: float, item_ms: float) -> None:
        self._device = SimulatedDevice(base_ms, item_ms, 1)

    async def ask(self, ask: Ask) -> int:
        return (await self._device.run([ask]))[0]


@dataclass(frozen=True, slots=True)
class Rush:
    """The experience of concurrent callers: requests a second, and each request's seconds."""

    rate: float
    latencies: list[float]


async def rush(
    ask: Callable[[Ask], Awaitable[Any]], callers: int, seconds: float, payload: bytes = b""
) -> Rush:
    """Let each caller ask again as soon as it is answered, for `seconds`; every answer is checked."""
    latencies: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds

    async def caller(number: int) -> None:
        while (start := clock()) < end:
            answer = await ask(Ask(number, payload))
            if answer != number + 1:
                raise AssertionError(f"asked {number}, answered {answer}")
            latencies.append(clock() - start)

    start = clock()
    await asyncio.gather(*(caller(i) for i in range(callers)))
    return Rush(len(latencies) / (clock() - start), latencies)
