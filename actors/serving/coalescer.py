"""Merges many callers' small requests into full batches for one device.

Pure asyncio: knows nothing of Ray, torch or images. What it must know of a request it asks the backend.

Binding is late and there are no timers: a batch is formed only at the moment when the device is free, so
an idle device never waits and a busy one accumulates. (Closing batches earlier, at a size or a timeout as Ray
Serve does, leaves small batches queued behind a busy device.)

Order. A more urgent priority always goes first, and a batch never mixes priorities: filling an agent's batch
with sweep work would make the agent wait for it. A steady stream of urgent work may therefore starve less
urgent work; agents are slow callers, so in practice it fills the gaps between them. Within a priority, the
bucket whose oldest job has waited longest is next; within a bucket the queue is fair (round-robin): agents
take turns, one job each, and a turn goes by the backend's rank.

A backend may have requests that bypass the queue (`bypasses_queue`) and run at once, outside its slots: what
they would wait for, another request of theirs has waited for.

Deduplication. Callers whose requests have the same key share one job while it waits, and join a running job
that covers what they want. A caller that is cancelled withdraws: a job that has no caller left and has not
started is dropped; a running one finishes.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actors.errors import BackendError, MaiaError, OverloadedError
from actors.serving.backend import Backend, Priority, RequestT, ResultT
from actors.serving.capacity import CapacityLimiter
from actors.serving.fair_queue import FairQueue, Job, Waiter, rank_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_BOUNDS_MS = tuple(2**i for i in range(16))
"""Upper bounds of the wait-time histogram's bins in milliseconds (1, 2, 4 ... 32768); the last bin is open.
"""


class BatchMismatchError(BackendError):
    """A backend answered a batch with another number of results: none of them can be trusted."""


class ClosedError(BackendError):
    """The coalescer, replica or pool was closed before the request was answered."""


@dataclass(frozen=True, slots=True)
class CoalescerStatistics:
    """A snapshot, to find out why work stalls. Counts are since the start.

    `queued` and `running` are jobs, `waiting` callers. `duplicates_saved` callers shared a job that another
    had asked for, `lookups_answered` callers needed none. `batch_items` is the number of jobs in all
    `batches`. `wait_ms` counts jobs by the time they were queued, in bins that end at `WAIT_BOUNDS_MS`;
    `busy_s` is the summed running time of batches.
    """

    queued: int
    running: int
    waiting: int
    batches: int
    batch_items: int
    duplicates_saved: int
    lookups_answered: int
    withdrawn: int
    failed: int
    busy_s: float
    wait_ms: tuple[int, ...]

    @property
    def mean_batch(self) -> float:
        return self.batch_items / self.batches if self.batches else 0.0


class Coalescer(Generic[RequestT, ResultT]):
    """Shares one backend among many callers of one event loop.

    `limit` bounds the callers that wait for an answer; beyond it `submit` waits, and `enter`
    raises OverloadedError. All methods must be called on the event loop's thread.
    """

    def __init__(
        self,
        backend: Backend[RequestT, ResultT],
        *,
        limit: int = 65536,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._queues: dict[tuple[Priority, Hashable], FairQueue[RequestT, ResultT]] = {}
        self._queued_by_key: dict[Hashable, Job[RequestT, ResultT]] = {}
        self._running_by_key: dict[Hashable, list[Job[RequestT, ResultT]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """The batches in the slots."""
        self._bypassing: set[asyncio.Task[None]] = set()
        self._capacity = CapacityLimiter(limit)
        self._dispatch_scheduled = False
        self._closed = False
        self._queued = self._running = 0
        self._batches = self._batch_items = self._duplicates = self._lookups = self._withdrawn = (
            self._failed
        ) = 0
        self._busy_s = 0.0
        self._wait_ms = [0] * (len(WAIT_BOUNDS_MS) + 1)

    # -- requests ---------------------------------------------------------------------------------------

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`, waiting first if the queue is full.

        Raises:
            MaiaError: The backend's typed failure of this request or of its whole batch.
            ClosedError: If the coalescer is closed first.
        """
        if self._capacity.full:
            await self._capacity.wait()
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        waiter = self.enter(request, _resolve(future), agent=agent, priority=priority)
        try:
            return await future
        finally:
            waiter.withdraw()

    def enter(
        self,
        request: RequestT,
        deliver: Callable[[ResultT | MaiaError], object],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> Waiter[RequestT, ResultT]:
        """Submit without a future: `deliver` is called once with the result or the typed failure.

        It is called before this method returns when the result is already known.

        Raises:
            OverloadedError: If `limit` callers are waiting already.
            ClosedError: If the coalescer is closed.
        """
        if self._closed:
            raise ClosedError(f"{self._backend.name} is closed.")
        backend = self._backend
        waiter = Waiter(self._withdraw, request, deliver)
        known = backend.lookup(request)
        if known is not None:
            self._lookups += 1
            deliver(known)
            return waiter
        if self._capacity.full:
            raise OverloadedError(
                f"{backend.name}: {self._capacity.limit} requests are waiting already.",
                "Wait for some to be answered.",
            )
        if backend.bypasses_queue(request):
            self._run_now(waiter, agent)
            return waiter
        key = backend.key(request)
        job = self._find_shared(key, request, priority) if key is not None else None
        if job is None:
            bucket, rank = backend.bucket(request), backend.rank(request)
            queue = self._queue(priority, bucket)
            job = Job(key, request, rank, agent, queue, self._clock())
            queue.add(job)
            self._queued += 1
            if key is not None:
                self._queued_by_key[key] = job
            self._schedule_dispatch()
        else:
            self._duplicates += 1
        job.waiters.append(waiter)
        waiter.job = job
        self._capacity.in_use += 1
        return waiter

    def _run_now(self, waiter: Waiter[RequestT, ResultT], agent: str) -> None:
        job: Job[RequestT, ResultT] = Job(None, waiter.request, 0.0, agent, None, self._clock())
        job.waiters.append(waiter)
        waiter.job = job
        self._capacity.in_use += 1
        self._running += 1  # and in no other count: the request that waited for it is in those
        self._bypassing.add(asyncio.get_running_loop().create_task(self._run([job])))

    def _find_shared(
        self, key: Hashable, request: RequestT, priority: Priority
    ) -> Job[RequestT, ResultT] | None:
        """Return the running or waiting job that will answer `request` too, if there is one."""
        backend = self._backend
        for job in self._running_by_key.get(key, ()):
            if backend.covers(job.request, request):
                return job
        queued = self._queued_by_key.get(key)
        if queued is None:
            return None
        if not backend.covers(queued.request, request):
            merged = backend.merge(queued.request, request)
            queued.request, queued.rank = merged, backend.rank(merged)
        queue = queued.queue
        if queue is not None and priority < queue.priority:
            # This caller is more urgent than those before it.
            self._dequeue(queued)
            queued.queue = self._queue(priority, queue.bucket)
            queued.queue.add(queued)
        return queued

    def _queue(self, priority: Priority, bucket: Hashable) -> FairQueue[RequestT, ResultT]:
        queue = self._queues.get((priority, bucket))
        if queue is None:
            queue = self._queues[priority, bucket] = FairQueue(priority, bucket)
        return queue

    def _dequeue(self, job: Job[RequestT, ResultT]) -> None:
        """Take a waiting job out of its queue, which skips it when its turn comes."""
        queue, job.queue = job.queue, None
        assert queue is not None
        queue.n_jobs -= 1
        if not queue.n_jobs:
            del self._queues[queue.priority, queue.bucket]

    def _withdraw(self, waiter: Waiter[RequestT, ResultT]) -> None:
        job = waiter.job
        assert job is not None
        waiter.job = None
        job.waiters.remove(waiter)
        self._withdrawn += 1
        if job.queue is not None:
            if job.waiters:
                self._merge_again(job)
            else:
                self._dequeue(job)
                self._queued -= 1
                if job.key is not None:
                    del self._queued_by_key[job.key]
                del job.request  # its images may be large, and the queue drops the job only later
        self._capacity.release(1)

    def _merge_again(self, job: Job[RequestT, ResultT]) -> None:
        """Merge again without the caller that withdrew: what only it had asked for is not computed."""
        backend = self._backend
        request = job.waiters[0].request
        for waiter in job.waiters[1:]:
            if not backend.covers(request, waiter.request):
                request = backend.merge(request, waiter.request)
        job.request, job.rank = request, backend.rank(request)

    # -- running --------------------------------------------------------------------------------------

    def _schedule_dispatch(self) -> None:
        """Form batches after every callback that is ready on this loop has run, and so has submitted."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        while self._queued and len(self._tasks) < self._backend.slots:
            batch = self._take_batch()
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)

    def _take_batch(self) -> list[Job[RequestT, ResultT]]:
        """Remove and return the next batch, by rank. Only while jobs are queued."""
        urgent = min(queue.priority for queue in self._queues.values() if queue.n_jobs)
        queues = [queue for queue in self._queues.values() if queue.n_jobs and queue.priority == urgent]
        queue = queues[0] if len(queues) == 1 else min(queues, key=FairQueue.oldest)
        batch = queue.take(self._backend.max_batch)
        if not queue.n_jobs:
            del self._queues[queue.priority, queue.bucket]
        batch.sort(key=rank_of)
        now = self._clock()
        for job in batch:
            if job.key is not None:
                del self._queued_by_key[job.key]
                self._running_by_key.setdefault(job.key, []).append(job)
            self._wait_ms[_wait_bin(now - job.since)] += 1
        self._queued -= len(batch)
        self._running += len(batch)
        self._batches += 1
        self._batch_items += len(batch)
        return batch

    async def _run(self, batch: list[Job[RequestT, ResultT]]) -> None:
        started = self._clock()
        outcomes: Sequence[ResultT | MaiaError]
        try:
            outcomes = await self._backend.run([job.request for job in batch])
            if len(outcomes) != len(batch):
                # Results are matched by position: with one missing, every other may belong to another
                # request.
                raise BatchMismatchError(
                    f"{self._backend.name} answered a batch of {len(batch)} with {len(outcomes)} results."
                )
        except asyncio.CancelledError:
            self._finish(batch, [ClosedError(f"{self._backend.name} was closed.")] * len(batch), started)
            raise
        except MaiaError as error:
            outcomes = [error] * len(batch)
        except Exception as error:
            _log.exception("%s failed on a batch of %d", self._backend.name, len(batch))
            failure = BackendError(
                f"{self._backend.name} failed on a batch of {len(batch)}: {type(error).__name__}: {error}"
            )
            outcomes = [failure] * len(batch)
        self._finish(batch, outcomes, started)

    def _finish(
        self, batch: list[Job[RequestT, ResultT]], outcomes: Sequence[ResultT | MaiaError], started: float
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
            self._bypassing.discard(task)
        self._busy_s += self._clock() - started
        self._running -= len(batch)
        n_answered = 0
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.key is not None:
                same = self._running_by_key[job.key]
                same.remove(job)
                if not same:
                    del self._running_by_key[job.key]
            n_answered += len(job.waiters)
            waiters, job.waiters = job.waiters, []
            for waiter in waiters:
                waiter.job = None
                self._answer(waiter, outcome)
        # The callers just answered run before the next dispatch, so that what they ask next joins the next
        # batch.
        self._schedule_dispatch()
        self._capacity.release(n_answered)

    def _answer(self, waiter: Waiter[RequestT, ResultT], outcome: ResultT | MaiaError) -> None:
        if not isinstance(outcome, MaiaError):
            try:
                outcome = self._backend.answer(waiter.request, outcome)
            except MaiaError as error:
                outcome = error
            except Exception as error:
                _log.exception("%s could not split a result", self._backend.name)
                outcome = BackendError(f"{self._backend.name}: no answer in the result: {error!r}")
        if isinstance(outcome, MaiaError):
            self._failed += 1
            outcome = copy.copy(outcome)  # each caller raises its own: on a shared one tracebacks pile up
        waiter.deliver(outcome)

    # -- closing, statistics ----------------------------------------------------------------------

    async def aclose(self) -> None:
        """Refuse new requests, fail the waiting ones with ClosedError, let running batches finish."""
        self._closed = True
        for queue in list(self._queues.values()):
            for job in queue.take(queue.n_jobs):
                self._queued -= 1
                if job.key is not None:
                    del self._queued_by_key[job.key]
                waiters, job.waiters = job.waiters, []
                for waiter in waiters:
                    waiter.job = None
                    waiter.deliver(ClosedError(f"{self._backend.name} was closed."))
                self._capacity.release(len(waiters))
        self._queues.clear()
        self._capacity.release_all()
        if running := self._tasks | self._bypassing:
            await asyncio.wait(running)

    def statistics(self) -> CoalescerStatistics:
        return CoalescerStatistics(
            queued=self._queued,
            running=self._running,
            waiting=self._capacity.in_use,
            batches=self._batches,
            batch_items=self._batch_items,
            duplicates_saved=self._duplicates,
            lookups_answered=self._lookups,
            withdrawn=self._withdrawn,
            failed=self._failed,
            busy_s=self._busy_s,
            wait_ms=tuple(self._wait_ms),
        )


def _resolve(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    def deliver(outcome: Any) -> None:
        if not future.done():
            if isinstance(outcome, MaiaError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    return deliver


def _wait_bin(wait_s: float) -> int:
    """Return the index of the first bound that `wait_s` does not exceed: bounds are powers of two."""
    return min(max(int(wait_s * 1000 - 1e-9), 0).bit_length(), len(WAIT_BOUNDS_MS))
