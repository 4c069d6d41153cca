"""Failures in a model's thread end neither the event loop nor a request that did not cause them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from actors.errors import BackendError, DeviceLostError, RefusedError
from actors.serving.blocking import BlockingBackend, DeviceThread, run_in_halves
from actors.serving.coalescer import Coalescer


async def ask(run: Callable[[Sequence[int]], list[int]]) -> int:
    backend: BlockingBackend[int, int] = BlockingBackend("model", run)
    coalescer: Coalescer[int, int] = Coalescer(backend)
    try:
        return await coalescer.submit(3)
    finally:
        await coalescer.aclose()
        await backend.close()


@pytest.mark.parametrize(
    "error", [SystemExit(2), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()]
)
async def test_a_model_that_would_end_the_process_fails_on_what_it_was_asked(error: BaseException) -> None:
    def run(_: Sequence[int]) -> list[int]:
        raise error

    with pytest.raises(BackendError, match=type(error).__name__):
        await ask(run)


@pytest.mark.parametrize("works", [True, False])
async def test_a_failure_while_the_gpu_is_lost_is_not_the_requests(works: bool) -> None:
    def run() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    thread = DeviceThread("gpu", devices_work=lambda: works)
    with pytest.raises(RuntimeError if works else DeviceLostError, match="illegal memory access"):
        await thread.run(run)
    thread.close()


async def test_a_typed_failure_stays_what_it_is() -> None:
    def run(_: Sequence[int]) -> list[int]:
        raise RefusedError("no.")

    with pytest.raises(RefusedError, match="no"):
        await ask(run)


async def test_a_device_that_hangs_is_lost_after_a_timeout() -> None:
    thread, goes_on = DeviceThread("hangs", timeout_s=0.05), threading.Event()
    with pytest.raises(DeviceLostError, match="has not returned"):
        await thread.run(goes_on.wait, 60)
    goes_on.set()
    thread.close()


async def test_work_that_waits_behind_slow_work_is_not_taken_for_hanging() -> None:
    now, turns = [0.0], [threading.Event() for _ in range(2)]
    thread = DeviceThread("slow", timeout_s=0.05, clock=lambda: now[0])
    first, second = (asyncio.ensure_future(thread.run(turn.wait, 60)) for turn in turns)
    await asyncio.sleep(0)
    now[0] = 0.04
    turns[0].set()
    assert await first
    now[0] = 0.08  # longer than the patience since it was asked, and not since its turn came
    turns[1].set()
    assert await second
    thread.close()


async def test_a_timeout_of_the_model_is_its_own_failure() -> None:
    def run() -> None:
        raise TimeoutError("no answer")

    thread = DeviceThread("slow")
    with pytest.raises(TimeoutError, match="no answer"):
        await thread.run(run)
    thread.close()


def typed_failure(request: int, error: Exception) -> BackendError:
    return BackendError(f"{request}: {error}")


def test_a_batch_that_does_not_fit_into_memory_is_halved() -> None:
    sizes = []

    def run(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return [-request for request in batch]

    assert run_in_halves([1, 2, 3, 4, 5], run, typed_failure) == [-1, -2, -3, -4, -5]
    assert sizes == [5, 2, 3, 1, 2]


def test_a_failing_request_does_not_fail_its_batch() -> None:
    def run(batch: Sequence[int]) -> list[int]:
        if 3 in batch:
            raise RefusedError("not three.")
        if 4 in batch:
            raise ValueError("odd")
        return list(batch)

    one, two, refused, failed = run_in_halves([1, 2, 3, 4], run, typed_failure)
    assert (one, two) == (1, 2)
    assert isinstance(refused, RefusedError)
    assert str(failed) == "4: odd"
