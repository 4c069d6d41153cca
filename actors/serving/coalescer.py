"""Merges many callers' small requests into full batches for one device.

Pure asyncio: knows nothing of Ray, torch or images. What it must know of a request it asks the backend.

Binding is late and there are no timers: a batch is sealed only at the moment when the device is free, so
an idle device never waits and a busy one accumulates. (Sealing earlier, at a size or a timeout as Ray Serve
does, leaves small sealed batches queued behind a busy device.)

Order. A more urgent priority always goes first, and a batch never mixes priorities: filling an agent's
batch with sweep work would make the agent wait for it. A steady stream of urgent work may therefore starve
less urgent work; agents are slow callers, so in practice it fills the gaps between them. Within a priority,
the bucket whose oldest work has waited longest is next; within a bucket agents take turns, one work each,
and a turn goes by the backend's rank.

A backend may have requests of a kind that run at once, beside its slots (`beside`): what they wait for has
been waited for by another request of theirs.

Same work once. Callers whose requests have the same key share one piece of work while it waits, and join
running work that covers what they want. A caller that is cancelled withdraws: work that nobody waits for
and that has not started disappears; running work finishes and is shared by whoever still waits.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actors.errors import BackendError, MaiaError, OverloadedError
from actors.serving.backend import Backend, Priority, RequestT, ResultT

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
    """A snapshot for whoever debugs a stall. Counts are since the start.

    `queued` and `running` are pieces of work, `waiting` callers. `duplicates_saved` callers shared work
    that another had asked for, `lookups_answered` callers needed none. `batch_items` is the number of
    works in all `batches`. `wait_ms` counts works by the time from asking to sealing, in bins that end at
    `WAIT_BOUNDS_MS`; `busy_s` is the summed running time of batches.
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


class Room:
    """Counts callers up to `limit`; whoever comes then waits outside, first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._outside: deque[asyncio.Future[None]] = deque()
        self._open = False

    @property
    def full(self) -> bool:
        return self.taken >= self.limit

    async def wait(self) -> None:
        """Return when there is room, or `let_all_in` was called."""
        while self.full and not self._open:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._outside.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._call_in(1)  # the place that was offered goes to the next
                raise

    def leave(self, n: int = 1) -> None:
        self.taken -= n
        if self._outside:
            self._call_in(n)

    def let_all_in(self) -> None:
        """Keep nobody outside any longer: what they wanted to enter is closed, and they will be told."""
        self._open = True
        self._call_in(len(self._outside))

    def _call_in(self, n: int) -> None:
        while n > 0 and self._outside:
            waiter = self._outside.popleft()
            if not waiter.done():
                waiter.set_result(None)
                n -= 1


class Ticket(Generic[RequestT, ResultT]):
    """One caller's place: `withdraw` gives it up, after which nothing is delivered."""

    __slots__ = ("_coalescer", "deliver", "request", "work")

    def __init__(
        self,
        coalescer: Coalescer[RequestT, ResultT],
        request: RequestT,
        deliver: Callable[[ResultT | MaiaError], object],
    ) -> None:
        self._coalescer = coalescer
        self.request = request
        self.deliver = deliver
        self.work: _Work[RequestT, ResultT] | None = None

    def withdraw(self) -> None:
        """Give the place up. Nothing happens if it was already answered."""
        if self.work is not None:
            self._coalescer._withdraw(self)


class _Work(Generic[RequestT, ResultT]):
    """One piece of work: a request merged from all of its callers' requests."""

    __slots__ = ("agent", "key", "lane", "rank", "request", "since", "tickets")

    def __init__(
        self,
        key: Hashable | None,
        request: RequestT,
        rank: float,
        agent: str,
        lane: _Lane[RequestT, ResultT] | None,
        since: float,
    ) -> None:
        self.key = key
        self.request = request
        self.rank = rank
        self.agent = agent
        self.lane: _Lane[RequestT, ResultT] | None = lane
        """The lane in which it waits; None once it is sealed or withdrawn, and of what never waits."""
        self.since = since
        self.tickets: list[Ticket[RequestT, ResultT]] = []


class _Lane(Generic[RequestT, ResultT]):
    """The waiting works of one priority and one bucket."""

    __slots__ = ("_arrivals", "_by_agent", "_turn", "bucket", "n_works", "priority")

    def __init__(self, priority: Priority, bucket: Hashable) -> None:
        self.priority, self.bucket = priority, bucket
        self.n_works = 0
        self._by_agent: dict[str, deque[_Work[RequestT, ResultT]]] = {}
        self._turn: list[_Work[RequestT, ResultT]] = []
        self._arrivals: deque[_Work[RequestT, ResultT]] = deque()

    def add(self, work: _Work[RequestT, ResultT]) -> None:
        self.n_works += 1
        self._arrivals.append(work)
        queue = self._by_agent.get(work.agent)
        if queue is None:
            queue = self._by_agent[work.agent] = deque()
        queue.append(work)

    def oldest(self) -> float:
        """Return since when the oldest work waits. Only for lanes that hold work."""
        arrivals = self._arrivals
        while arrivals[0].lane is not self:  # sealed, withdrawn or moved to another lane
            arrivals.popleft()
        return arrivals[0].since

    def take(self, limit: int) -> list[_Work[RequestT, ResultT]]:
        """Remove and return up to `limit` works: whole turns, as far as they fit."""
        taken: list[_Work[RequestT, ResultT]] = []
        while len(taken) < limit and self.n_works:
            if not self._turn:
                self._begin_turn()
            work = self._turn.pop()
            if work.lane is self:
                work.lane = None
                self.n_works -= 1
                taken.append(work)
        return taken

    def _begin_turn(self) -> None:
        """Take one work of each agent, so that an agent with many waits for those with few."""
        by_agent, turn = self._by_agent, self._turn
        emptied = []
        for agent, queue in by_agent.items():
            while queue:
                work = queue.popleft()
                if work.lane is self:
                    turn.append(work)
                    break
            if not queue:
                emptied.append(agent)
        for agent in emptied:
            del by_agent[agent]
        # Taken from the end: the lowest rank goes first, and the sort keeps agents' order among equals.
        turn.sort(key=_rank)
        turn.reverse()


class Coalescer(Generic[RequestT, ResultT]):
    """Shares one backend among many callers of one event loop.

    `limit` bounds the callers that wait for an answer; `submit` waits for room beyond it, `submit_nowait`
    and `enter` raise OverloadedError. All methods must be called on the event loop's thread.
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
        self._lanes: dict[tuple[Priority, Hashable], _Lane[RequestT, ResultT]] = {}
        self._queued_by_key: dict[Hashable, _Work[RequestT, ResultT]] = {}
        self._running_by_key: dict[Hashable, list[_Work[RequestT, ResultT]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """The batches in the slots."""
        self._runs_beside: Callable[[RequestT], bool] | None = getattr(backend, "beside", None)
        self._beside: set[asyncio.Task[None]] = set()
        self._room = Room(limit)
        self._idle: list[asyncio.Future[None]] = []
        self._pump_scheduled = False
        self._closed = False
        self._queued = self._running = 0
        self._batches = self._batch_items = self._duplicates = self._lookups = self._withdrawn = (
            self._failed
        ) = 0
        self._busy_s = 0.0
        self._wait_ms = [0] * (len(WAIT_BOUNDS_MS) + 1)

    # -- asking ---------------------------------------------------------------------------------------

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`, waiting for room in the queue if it is full.

        Raises:
            MaiaError: The backend's typed failure of this request or of its whole batch.
            ClosedError: If the coalescer is closed first.
        """
        if self._room.full:
            await self._room.wait()
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        ticket = self.enter(request, _into(future), agent=agent, priority=priority)
        try:
            return await future
        finally:
            ticket.withdraw()

    def submit_nowait(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> asyncio.Future[ResultT]:
        """Return a future of the result; cancelling it withdraws the request.

        Raises:
            OverloadedError: If `limit` callers are waiting already.
        """
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        ticket = self.enter(request, _into(future), agent=agent, priority=priority)
        future.add_done_callback(lambda _: ticket.withdraw())
        return future

    def enter(
        self,
        request: RequestT,
        deliver: Callable[[ResultT | MaiaError], object],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> Ticket[RequestT, ResultT]:
        """Ask without a future: `deliver` is called once with the result or the typed failure.

        It is called before this method returns when the result is already known.

        Raises:
            OverloadedError: If `limit` callers are waiting already.
            ClosedError: If the coalescer is closed.
        """
        if self._closed:
            raise ClosedError(f"{self._backend.name} is closed.")
        backend = self._backend
        ticket = Ticket(self, request, deliver)
        known = backend.lookup(request)
        if known is not None:
            self._lookups += 1
            deliver(known)
            return ticket
        if self._room.full:
            raise OverloadedError(
                f"{backend.name}: {self._room.limit} requests are waiting already.",
                "Wait for some to be answered.",
            )
        if self._runs_beside is not None and self._runs_beside(request):
            self._begin_beside(ticket, agent)
            return ticket
        key = backend.key(request)
        work = self._share(key, request, priority) if key is not None else None
        if work is None:
            bucket, rank = backend.bucket(request), backend.rank(request)
            lane = self._lane(priority, bucket)
            work = _Work(key, request, rank, agent, lane, self._clock())
            lane.add(work)
            self._queued += 1
            if key is not None:
                self._queued_by_key[key] = work
            self._schedule_pump()
        else:
            self._duplicates += 1
        work.tickets.append(ticket)
        ticket.work = work
        self._room.taken += 1
        return ticket

    def _begin_beside(self, ticket: Ticket[RequestT, ResultT], agent: str) -> None:
        work: _Work[RequestT, ResultT] = _Work(None, ticket.request, 0.0, agent, None, self._clock())
        work.tickets.append(ticket)
        ticket.work = work
        self._room.taken += 1
        self._running += 1  # and counted no further: it was, when it waited
        self._beside.add(asyncio.get_running_loop().create_task(self._run([work])))

    def _share(self, key: Hashable, request: RequestT, priority: Priority) -> _Work[RequestT, ResultT] | None:
        """Return the running or waiting work that will answer `request` too, if there is one."""
        backend = self._backend
        for work in self._running_by_key.get(key, ()):
            if backend.covers(work.request, request):
                return work
        queued = self._queued_by_key.get(key)
        if queued is None:
            return None
        if not backend.covers(queued.request, request):
            merged = backend.merge(queued.request, request)
            queued.request, queued.rank = merged, backend.rank(merged)
        lane = queued.lane
        if lane is not None and priority < lane.priority:
            # Somebody is in more of a hurry than whoever asked first.
            self._leave_lane(queued)
            queued.lane = self._lane(priority, lane.bucket)
            queued.lane.add(queued)
        return queued

    def _lane(self, priority: Priority, bucket: Hashable) -> _Lane[RequestT, ResultT]:
        lane = self._lanes.get((priority, bucket))
        if lane is None:
            lane = self._lanes[priority, bucket] = _Lane(priority, bucket)
        return lane

    def _leave_lane(self, work: _Work[RequestT, ResultT]) -> None:
        """Take waiting work out of its lane; its places in the lane's queues are skipped later."""
        lane, work.lane = work.lane, None
        assert lane is not None
        lane.n_works -= 1
        if not lane.n_works:
            del self._lanes[lane.priority, lane.bucket]

    def _withdraw(self, ticket: Ticket[RequestT, ResultT]) -> None:
        work = ticket.work
        assert work is not None
        ticket.work = None
        work.tickets.remove(ticket)
        self._withdrawn += 1
        if work.lane is not None:
            if work.tickets:
                self._narrow(work)
            else:
                self._leave_lane(work)
                self._queued -= 1
                if work.key is not None:
                    del self._queued_by_key[work.key]
                del work.request  # its images may be large, and its place in the lane goes only later
        self._leave(1)

    def _narrow(self, work: _Work[RequestT, ResultT]) -> None:
        """Merge again for those who stay: what only the one who left had asked for is not computed."""
        backend = self._backend
        request = work.tickets[0].request
        for ticket in work.tickets[1:]:
            if not backend.covers(request, ticket.request):
                request = backend.merge(request, ticket.request)
        work.request, work.rank = request, backend.rank(request)

    # -- running --------------------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        """Seal after everything that is ready to run on this loop has run, and so has asked."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        while self._queued and len(self._tasks) < self._backend.slots:
            batch = self._seal()
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._tasks.add(task)

    def _seal(self) -> list[_Work[RequestT, ResultT]]:
        """Remove and return the next batch, by rank. Only while work is queued."""
        urgent = min(lane.priority for lane in self._lanes.values() if lane.n_works)
        lanes = [lane for lane in self._lanes.values() if lane.n_works and lane.priority == urgent]
        lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_Lane.oldest)
        batch = lane.take(self._backend.max_batch)
        if not lane.n_works:
            del self._lanes[lane.priority, lane.bucket]
        batch.sort(key=_rank)
        now = self._clock()
        for work in batch:
            if work.key is not None:
                del self._queued_by_key[work.key]
                self._running_by_key.setdefault(work.key, []).append(work)
            self._wait_ms[_wait_bin(now - work.since)] += 1
        self._queued -= len(batch)
        self._running += len(batch)
        self._batches += 1
        self._batch_items += len(batch)
        return batch

    async def _run(self, batch: list[_Work[RequestT, ResultT]]) -> None:
        started = self._clock()
        outcomes: Sequence[ResultT | MaiaError]
        try:
            outcomes = await self._backend.run([work.request for work in batch])
            if len(outcomes) != len(batch):
                # Results are matched by position: with one missing, every other may be a stranger's.
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
        self,
        batch: list[_Work[RequestT, ResultT]],
        outcomes: Sequence[ResultT | MaiaError],
        started: float,
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
            self._beside.discard(task)
        self._busy_s += self._clock() - started
        self._running -= len(batch)
        n_answered = 0
        for work, outcome in zip(batch, outcomes, strict=True):
            if work.key is not None:
                same = self._running_by_key[work.key]
                same.remove(work)
                if not same:
                    del self._running_by_key[work.key]
            n_answered += len(work.tickets)
            tickets, work.tickets = work.tickets, []
            for ticket in tickets:
                ticket.work = None
                self._answer(ticket, outcome)
        # The callers just answered run before the pump, so that what they ask next joins the next batch.
        self._schedule_pump()
        self._leave(n_answered)

    def _answer(self, ticket: Ticket[RequestT, ResultT], outcome: ResultT | MaiaError) -> None:
        if not isinstance(outcome, MaiaError):
            try:
                outcome = self._backend.answer(ticket.request, outcome)
            except MaiaError as error:
                outcome = error
            except Exception as error:
                _log.exception("%s could not split a result", self._backend.name)
                outcome = BackendError(f"{self._backend.name}: no answer in the result: {error!r}")
        if isinstance(outcome, MaiaError):
            self._failed += 1
            outcome = copy.copy(
                outcome
            )  # each caller raises its own: tracebacks would pile up on a shared one
        ticket.deliver(outcome)

    # -- room, closing, watching ----------------------------------------------------------------------

    def _leave(self, n: int) -> None:
        self._room.leave(n)
        if self._idle and not self._queued and not self._tasks and not self._beside:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()

    async def drain(self) -> None:
        """Return when nothing is queued or running."""
        while self._queued or self._tasks or self._beside:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    async def aclose(self) -> None:
        """Refuse new requests, fail the waiting ones with ClosedError, let running batches finish."""
        self._closed = True
        for lane in list(self._lanes.values()):
            for work in lane.take(lane.n_works):
                self._queued -= 1
                if work.key is not None:
                    del self._queued_by_key[work.key]
                tickets, work.tickets = work.tickets, []
                for ticket in tickets:
                    ticket.work = None
                    ticket.deliver(ClosedError(f"{self._backend.name} was closed."))
                self._leave(len(tickets))
        self._lanes.clear()
        self._room.let_all_in()
        if running := self._tasks | self._beside:
            await asyncio.wait(running)

    def statistics(self) -> CoalescerStatistics:
        return CoalescerStatistics(
            queued=self._queued,
            running=self._running,
            waiting=self._room.taken,
            batches=self._batches,
            batch_items=self._batch_items,
            duplicates_saved=self._duplicates,
            lookups_answered=self._lookups,
            withdrawn=self._withdrawn,
            failed=self._failed,
            busy_s=self._busy_s,
            wait_ms=tuple(self._wait_ms),
        )


def _into(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    def deliver(outcome: Any) -> None:
        if not future.done():
            if isinstance(outcome, MaiaError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    return deliver


def _rank(work: _Work[Any, Any]) -> float:
    return work.rank


def _wait_bin(wait_s: float) -> int:
    """Return the index of the first bound that `wait_s` does not exceed: bounds are powers of two."""
    return min(max(int(wait_s * 1000 - 1e-9), 0).bit_length(), len(WAIT_BOUNDS_MS))
