"""A backend that answers when a test says so, for tests of coalescers, replicas and pools."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.errors import DeviceLostError, MaiaError, RefusedError, UsageError
from actors.images import Image
from actors.serving.backend import Backend, Priority
from actors.serving.coalescer import Coalescer


@dataclass(frozen=True, slots=True)
class Show:
    """Asks how bright an image is; the answer is (number, sum of the pixels)."""

    number: int
    image: Image | None = None
    unit: str = "a"


class ScriptedBackend(Backend[Show, Any]):
    """Holds every batch until `release`; `held` are the batches that run, `seen` all of them."""

    name = "scripted"
    controls = frozenset({"layers", "fail", "echo", "environment", "counts", "open_gate", "die"})

    def __init__(self, max_batch: int = 4, gated: bool = True) -> None:
        self.max_batch = max_batch
        self.gated = gated
        self.seen: list[list[Show]] = []
        self.held: list[asyncio.Event] = []
        self.closed = False

    def key(self, request: Show) -> Hashable | None:
        return request if request.number >= 1000 else None

    async def run(self, batch: Sequence[Show]) -> list[Any | MaiaError]:
        assert len(batch) <= self.max_batch
        self.seen.append(list(batch))
        if self.gated:
            gate = asyncio.Event()
            self.held.append(gate)
            await gate.wait()
        return [self.result(request) for request in batch]

    def result(self, request: Show) -> Any:
        if request.number < 0:
            return RefusedError(f"number {request.number} is negative")
        if request.unit == "image":
            return Image.from_pixels(np.full((2, 3, 3), request.number, np.uint8))
        if request.unit == "unpicklable":
            return lambda: None
        if request.unit == "deadly":
            os._exit(1)
        if request.unit == "on a device that lasts for two batches" and len(self.seen) > 2:
            return DeviceLostError("the GPU is gone.")
        return request.number, None if request.image is None else int(request.image.pixels.sum())

    async def release(self) -> None:
        """Let the batches that run now end."""
        held, self.held = self.held, []
        for gate in held:
            gate.set()
        await settle()

    async def close(self) -> None:
        self.closed = True

    # Control methods.

    def layers(self) -> list[str]:
        return ["conv1", "conv2"]

    async def echo(self, value: Any, *, twice: bool = False) -> Any:
        return [value, value] if twice else value

    def fail(self, typed: bool) -> None:
        raise UsageError("no such layer.") if typed else RuntimeError("broken")

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def counts(self) -> tuple[int, int]:
        """Return how many batches and requests were seen."""
        return len(self.seen), sum(len(batch) for batch in self.seen)

    async def open_gate(self) -> None:
        self.gated = False
        await self.release()

    def die(self) -> None:
        os._exit(1)


def submit(
    coalescer: Coalescer[Any, Any],
    request: Any,
    *,
    agent: str = "",
    priority: Priority = Priority.INTERACTIVE,
) -> asyncio.Future[Any]:
    """Enter a request at once; cancelling the future withdraws it."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def deliver(outcome: Any) -> None:
        if not future.done():
            if isinstance(outcome, MaiaError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    waiter = coalescer.enter(request, deliver, agent=agent, priority=priority)
    future.add_done_callback(lambda _: waiter.withdraw())
    return future


def build(max_batch: int = 4, gated: bool = True) -> ScriptedBackend:
    return ScriptedBackend(max_batch, gated)


def build_badly(reason: str) -> ScriptedBackend:
    raise UsageError(f"there are no weights: {reason}.", "Download them.")


def image(value: int, side: int = 5) -> Image:
    return Image.from_pixels(np.full((side, side + 1, 3), value, np.uint8))


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(30):
        await asyncio.sleep(0)
