"""The driver's side of a sweep: hands steps to the pool as its least urgent work, until all are accounted
for.

The pool decides which replica takes a step, agents' requests go before, and the sweep can be ended and
resumed at any step: parts that replicas wrote stay in the sweep's folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import BackendError, UsageError
from actors.grouping import task_group
from actors.serving.backend import Priority
from actors.serving.pool import Pool
from actors.vision.readout.base import ImageDataset, SweepProgress
from actors.vision.readout.requests import SweepAck, SweepStep
from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import SweepPlan, disjoint_parts
from actors.vision.sweep.exemplars import ExemplarStore

_STEPS_PER_REPLICA = 2
"""Steps in flight: one on the device, one waiting."""

_ROUNDS = 5
"""Times that steps are sent again because the replica that took them in died before it wrote its part."""


Progress = Callable[[SweepProgress], None]


async def run_sweep(
    pool: Pool[Any, Any],
    store: ExemplarStore,
    dataset: ImageDataset,
    indices: np.ndarray,
    readouts: Sequence[Readout],
    *,
    k: int,
    step: int,
    progress: Progress | None = None,
) -> None:
    """Sweep `indices` of the data set and put the exemplars of `readouts` into the store.

    One process at a time does a sweep; others wait for it. What an interrupted run left is taken up.

    Raises:
        UsageError: If the store cannot be written, or no image is left or could be used.
        BackendError: If replicas keep dying.
    """
    if not len(indices):
        raise UsageError(
            f"all {len(dataset)} images of the data set {dataset.name!r} are held back for confirmation.",
            "Give it more images, or lower vision.reserve.",
        )
    folder = store.sweep_folder(readouts, k, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the cache folder {store.folder} cannot be written: {error}") from error
    async with _alone(store.folder / f"{folder.name}.lock"):
        if all(store.get(readout, k) is not None for readout in readouts):
            return
        folder.mkdir(exist_ok=True)
        plan = SweepPlan(dataset, indices, tuple(readouts), k, step)
        await asyncio.to_thread(plan.save, folder)
        await _all_steps(pool, plan, folder, progress)
        try:
            await pool.call("finish_sweep", str(folder), str(store.folder))
        except UsageError:
            # No image counted: whatever is mended then, the next attempt has to look at all of them again.
            await asyncio.to_thread(shutil.rmtree, folder)
            raise
        await asyncio.to_thread(shutil.rmtree, folder)


async def _all_steps(pool: Pool[Any, Any], plan: SweepPlan, folder: Path, progress: Progress | None) -> None:
    steps = plan.steps()
    for attempt in range(_ROUNDS):
        _, done = await asyncio.to_thread(disjoint_parts, folder)
        todo = [step for step in steps if step[0] not in done]
        if not todo:
            return
        n_before = sum(stop - start for start, stop in steps if start in done)
        await _round(pool, plan, folder, todo, n_before, attempt > 0, progress)
    raise BackendError(
        f"the sweep over {plan.dataset.name!r} lost steps {_ROUNDS} times: its replicas keep dying.",
        "Look at their logs; run again to go on from what is done.",
    )


async def _round(
    pool: Pool[Any, Any],
    plan: SweepPlan,
    folder: Path,
    todo: Sequence[tuple[int, int]],
    n_before: int,
    hand_over: bool,
    progress: Progress | None,
) -> None:
    """Send `todo` in order, a few at a time."""
    n_replicas = max(1, pool.statistics().replicas)
    window = asyncio.Semaphore(_STEPS_PER_REPLICA * n_replicas)
    # The last steps have each replica write its part; one that gets none of them is found out and made up
    # for.
    last = max(0, len(todo) - _STEPS_PER_REPLICA * n_replicas)
    n_done, n_skipped = n_before, 0
    total = len(plan.indices)

    async def send(place: int) -> None:
        nonlocal n_done, n_skipped
        start, stop = todo[place]
        then = todo[place + n_replicas] if place + n_replicas < len(todo) else None
        try:
            ack: SweepAck = await pool.submit(
                SweepStep(str(folder), start, stop, then, hand_over or place >= last),
                agent="sweep",
                priority=Priority.SWEEP,
            )
        finally:
            window.release()
        n_done += stop - start
        n_skipped += ack.skipped
        if progress is not None:
            progress(SweepProgress(n_done, total, n_skipped))

    async with task_group() as group:
        for place in range(len(todo)):
            await window.acquire()
            group.create_task(send(place))


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Hold the lock file `path`; another process that holds it is waited for."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield
