"""The driver's side of a sweep: submits steps to the pool at the lowest priority, until all are stored.

The pool decides which replica takes a step, agents' requests go before, and the sweep can be ended and
resumed at any step: parts that replicas wrote stay in the sweep's folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.errors import BackendError, UsageError
from actors.grouping import task_group
from actors.serving.backend import Priority
from actors.serving.pool import Pool
from actors.vision.readout.base import SweepProgress
from actors.vision.readout.requests import NoticeKind, PassNotice, SweepAck, SweepStep
from actors.vision.readout.units import Readout
from actors.vision.sweep.accumulators import SweepPlan, disjoint_parts
from actors.vision.sweep.exemplars import ExemplarStore

_STEPS_PER_REPLICA = 2
"""Steps in flight: one on the device, one waiting."""

_MAX_ROUNDS = 5
"""Times that steps are sent again because the replica that took them in died before it wrote its part."""

ReportProgress = Callable[[SweepProgress], None]
Notify = Callable[[str], None]


async def run_sweep(
    pool: Pool[Any, Any],
    store: ExemplarStore,
    plan: SweepPlan,
    progress: ReportProgress | None = None,
    notify: Notify | None = None,
) -> None:
    """Run the sweep that `plan` describes and put the exemplars of its readouts into the store.

    One process at a time runs a sweep; others wait for it. An interrupted one is resumed. `notify` gets one
    line on each decision about compiling.

    Raises:
        UsageError: If the store cannot be written, or no image is left or could be used.
        BackendError: If replicas keep dying.
    """
    if not len(plan.indices):
        raise UsageError(
            f"all {len(plan.dataset)} images of the data set {plan.dataset.name!r} are held out for "
            "confirmation.",
            "Give it more images, or lower vision.reserve.",
        )
    folder = store.sweep_folder(plan.readouts, plan.k, plan.step, plan.keep)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the cache folder {store.folder} cannot be written: {error}") from error
    async with _locked(store.folder / f"{folder.name}.lock"):
        if all(_is_stored(store, plan, readout) for readout in plan.readouts):
            return
        folder.mkdir(exist_ok=True)
        digest = await asyncio.to_thread(plan.save, folder)
        await _SweepDriver(pool, plan, folder, digest, progress, notify).run_all_steps()
        try:
            await pool.call("finish_sweep", str(folder), digest, str(store.folder))
        except UsageError:
            # No image counted: once that is mended, the next attempt has to read all of them again.
            await asyncio.to_thread(shutil.rmtree, folder)
            raise
        await asyncio.to_thread(shutil.rmtree, folder)


def _is_stored(store: ExemplarStore, plan: SweepPlan, readout: Readout) -> bool:
    if plan.keep and store.activations(readout, plan.keep, plan.indices) is None:
        return False
    return store.get(readout, plan.k) is not None


@dataclass(frozen=True)
class _SweepDriver:
    """Sends the steps of `plan`, whose parts are kept in `folder`, to a pool's replicas."""

    pool: Pool[Any, Any]
    plan: SweepPlan
    folder: Path
    digest: str
    """Of the plan in the folder."""
    progress: ReportProgress | None
    notify: Notify | None
    notified: set[NoticeKind] = field(default_factory=set)

    async def run_all_steps(self) -> None:
        """Send steps until each is in a stored part; raises BackendError if replicas keep dying."""
        steps = self.plan.steps()
        for attempt in range(_MAX_ROUNDS):
            _, done = await asyncio.to_thread(disjoint_parts, self.folder)
            missing = [step for step in steps if step[0] not in done]
            if not missing:
                return
            n_done = sum(stop - start for start, stop in steps if start in done)
            await self._send_round(missing, n_done, flush_each=attempt > 0)
        raise BackendError(
            f"the sweep over {self.plan.dataset.name!r} lost steps {_MAX_ROUNDS} times: replicas keep dying.",
            "Read their logs; run again to resume.",
        )

    async def _send_round(self, steps: Sequence[tuple[int, int]], n_done: int, *, flush_each: bool) -> None:
        """Send `steps` in order, a few at a time; `n_done` images are in stored parts already."""
        n_replicas = max(1, self.pool.statistics().replicas)
        window = asyncio.Semaphore(_STEPS_PER_REPLICA * n_replicas)
        # The last steps have each replica write its part; the next round makes up for one that gets none.
        first_flushed = 0 if flush_each else max(0, len(steps) - _STEPS_PER_REPLICA * n_replicas)
        n_skipped = 0

        async def send(place: int) -> None:
            nonlocal n_done, n_skipped
            start, stop = steps[place]
            prefetch = steps[place + n_replicas] if place + n_replicas < len(steps) else None
            try:
                ack: SweepAck = await self.pool.submit(
                    SweepStep(
                        str(self.folder),
                        self.digest,
                        start,
                        stop,
                        prefetch,
                        place >= first_flushed,
                        n_replicas,
                    ),
                    agent="sweep",
                    priority=Priority.SWEEP,
                )
            finally:
                window.release()
            n_done += stop - start
            n_skipped += ack.skipped
            self._pass_on(ack.notices)
            if self.progress is not None:
                self.progress(SweepProgress(n_done, len(self.plan.indices), n_skipped))

        async with task_group() as group:
            for place in range(len(steps)):
                await window.acquire()
                group.create_task(send(place))

    def _pass_on(self, notices: Sequence[PassNotice]) -> None:
        """Hand on what replicas decided, the same of several once."""
        for notice in notices:
            if self.notify is not None and notice.kind not in self.notified:
                self.notified.add(notice.kind)
                self.notify(notice.text)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file `path`; another process that holds it is waited for."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield
