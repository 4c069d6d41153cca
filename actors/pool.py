"""N replicas of one model behind one handle.

`ReplicaPool` reaches replicas through the small protocols below (Ray's handles fit none), so it is tested
without Ray. `LocalPool` is the same handle around a backend in this process.

Calls are aggregated: to each replica at most two calls are in flight, and what is asked meanwhile joins the
next one. A request goes to the replica with the least outstanding work. Requests are pure, so those that a
dead replica held are sent again by us (Ray would not know which were answered); a request that was there at
two deaths travels alone the third time, and a third death convicts it.

When `limit` requests are outstanding, `submit` waits for room and `submit_nowait` raises OverloadedError.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import numpy as np

from actors.backend import Backend, Priority, RequestT, ResultT
from actors.coalescer import ClosedError, Coalescer, Room
from actors.errors import BackendError, MaiaError, OverloadedError, UsageError
from actors.replica import Arrival, Letter, Reply, call_control
from actors.settings import Placement
from actors.transport import Parcel, images_from, pack, unpack

_log = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 2
REQUESTS_IN_A_CALL = 1024
"""More would keep a replica's event loop busy with unpickling while others wait for a ping."""
PIXEL_BYTES_IN_A_CALL = 64 * 2**20
MAP_WINDOW = 256
"""Requests of one `map` that are outstanding at a time, so that one caller cannot fill the pool."""
DEATHS_TO_CONVICT = 3


class ReplicaLostError(BackendError):
    """A replica died or cannot be reached. `gone` says that it will not come back by itself."""

    def __init__(self, message: str, fix: str = "", gone: bool = False) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, gone)
        self.gone = gone


class ReplicaHandle(Protocol):
    """A replica, here or elsewhere. Every method raises ReplicaLostError when the replica cannot answer."""

    async def exchange(self, letter: Letter) -> Reply: ...

    async def call(self, parcel: Parcel, pixels: dict[str, np.ndarray]) -> Reply: ...

    async def ping(self) -> int: ...

    async def describe(self) -> dict[str, Any]: ...

    async def statistics(self) -> dict[str, Any]: ...

    async def stop(self) -> None:
        """Close the replica and free what it holds."""


class Launcher(Protocol):
    """Starts replicas."""

    def launch(self) -> ReplicaHandle:
        """Return the handle of a new replica, which may still be loading its model. Raises MaiaError if it cannot."""


class SharedReplicas(Launcher, Protocol):
    """Finds replicas that another process starts and stops."""

    def fresh(self) -> list[ReplicaHandle]:
        """Return handles of the replicas that are there and were not returned before. May block."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of one pool as this process sees it. Counts are since the start.

    `outstanding` requests are unanswered, `unsent` of them still here; `calls` were made to replicas and
    carried `requests` in all; `resubmitted` requests were sent again after a replica was lost.
    """

    replicas: int
    ready: int
    outstanding: int
    unsent: int
    requests: int
    answered: int
    failed: int
    calls: int
    pixels_sent: int
    lost_replicas: int
    resubmitted: int
    restarted: int


RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


class Pool(Protocol[RequestT_contra, ResultT]):
    """What callers hold: one model, shared, local or not. Use it with `async with`."""

    name: str

    async def submit(
        self, request: RequestT_contra, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT: ...

    async def map(
        self,
        requests: Iterable[RequestT_contra],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[ResultT]: ...

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any: ...

    async def describe(self) -> dict[str, Any]: ...

    def statistics(self) -> PoolStatistics: ...

    async def replica_statistics(self) -> list[dict[str, Any]]: ...

    async def drain(self) -> None: ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...


class _Asking(Generic[RequestT, ResultT]):
    """What every pool does with `submit`."""

    name: str

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    async def map(
        self, requests: Iterable[RequestT], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[ResultT]:
        """Return one result a request, in order; the first failure cancels the rest and is raised.

        `requests` is read as there is room, `MAP_WINDOW` at a time.
        """
        tasks: list[asyncio.Task[ResultT]] = []
        window = asyncio.Semaphore(MAP_WINDOW)
        failed = asyncio.Event()

        def finished(task: asyncio.Task[ResultT]) -> None:
            window.release()
            if task.cancelled() or task.exception() is not None:
                failed.set()

        try:
            for request in requests:
                await window.acquire()
                if failed.is_set():
                    break
                task = asyncio.ensure_future(self.submit(request, agent=agent, priority=priority))
                task.add_done_callback(finished)
                tasks.append(task)
            return list(await asyncio.gather(*tasks))
        finally:
            unfinished = [task for task in tasks if not task.done()]
            for task in unfinished:
                task.cancel()
            if unfinished:
                await asyncio.wait(unfinished)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


class LocalPool(_Asking[RequestT, ResultT]):
    """A backend in this process behind the handle of a pool: for tests, small runs and remote endpoints."""

    def __init__(self, backend: Backend[RequestT, ResultT], *, name: str = "", limit: int = 4096) -> None:
        self.name = name or backend.name
        self.backend = backend
        self.coalescer: Coalescer[RequestT, ResultT] = Coalescer(backend, limit=limit)

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`. Raises as `ReplicaPool.submit`."""
        return await self.coalescer.submit(request, agent=agent, priority=priority)

    def submit_nowait(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> asyncio.Future[ResultT]:
        """Return a future of the result. Raises OverloadedError if the queue is full."""
        return self.coalescer.submit_nowait(request, agent=agent, priority=priority)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the backend's control method `name` returns."""
        return await call_control(self.backend, name, args, kwargs)

    async def describe(self) -> dict[str, Any]:
        return {
            **self.backend.describe(),
            "pid": os.getpid(),
            "slots": self.backend.slots,
            "max_batch": self.backend.max_batch,
        }

    def statistics(self) -> PoolStatistics:
        counts = self.coalescer.statistics()
        answered = counts.batch_items + counts.duplicates_saved + counts.lookups_answered
        return PoolStatistics(
            replicas=1,
            ready=1,
            outstanding=counts.waiting,
            unsent=0,
            requests=answered + counts.queued,
            answered=answered - counts.running,
            failed=counts.failed,
            calls=0,
            pixels_sent=0,
            lost_replicas=0,
            resubmitted=0,
            restarted=0,
        )

    async def replica_statistics(self) -> list[dict[str, Any]]:
        counts = self.coalescer.statistics()
        return [{**asdict(counts), "mean_batch": counts.mean_batch}]

    async def drain(self) -> None:
        await self.coalescer.drain()

    async def aclose(self) -> None:
        await self.coalescer.aclose()
        await self.backend.close()


class _Item:
    """One unanswered request."""

    __slots__ = ("agent", "deaths", "future", "link", "priority", "request", "serial")

    def __init__(
        self, request: Any, agent: str, priority: Priority, future: asyncio.Future[Any], serial: int
    ) -> None:
        self.request, self.agent, self.priority, self.future = request, agent, priority, future
        self.serial = serial
        self.deaths = 0
        self.link: _Link | None = None

    @property
    def suspect(self) -> bool:
        """Whether one more death convicts it, so that it must travel alone."""
        return self.deaths >= DEATHS_TO_CONVICT - 1


class _Link:
    """This process's side of one replica: what waits to be sent to it, and what it has not answered."""

    def __init__(self, pool: ReplicaPool[Any, Any], handle: ReplicaHandle) -> None:
        self.handle = handle
        self.ready = False
        self.unsent: deque[_Item] = deque()
        self.outstanding: dict[int, _Item] = {}
        """Sent and not answered, by serial."""
        self.controls = 0
        """Control calls in flight."""
        self.waiting = 0
        """Callers of all processes that wait at the replica, when it was last asked."""
        self.batch_capacity = 1
        """Requests that the replica can run at the same time: its slots times its largest batch."""
        self.last_reply = pool.clock()
        self.idle_since = pool.clock()
        self._pool = pool
        self._epoch = 0
        self._calls = 0
        self._withdrawn: list[int] = []
        self._pixels: dict[str, np.ndarray] = {}
        self._send_scheduled = False

    @property
    def load(self) -> int:
        return len(self.unsent) + len(self.outstanding) + self.controls

    @property
    def demand(self) -> int:
        """What all processes want of the replica, as far as is known here."""
        return max(self.load, self.waiting)

    def post(self, item: _Item) -> None:
        item.link = self
        self.unsent.append(item)
        self.schedule_send()

    def withdraw(self, item: _Item) -> None:
        """Forget an item whose caller was cancelled."""
        if self.outstanding.pop(item.serial, None) is not None:
            self._withdrawn.append(item.serial)
            self.schedule_send()
        # An unsent item is skipped when its turn comes: its future is done.

    def schedule_send(self) -> None:
        if not self._send_scheduled and self._calls < CALLS_IN_FLIGHT and self.ready:
            self._send_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._send_scheduled = False
        if not self.ready or self._calls >= CALLS_IN_FLIGHT:
            return
        items = self._next_items()
        # With nothing to bring, one parked call is enough to take results away.
        if not items and not self._withdrawn and not self._pixels and (self._calls or not self.outstanding):
            return
        parcel, images = self._pack(items)
        letter = Letter(self._pool.client, self._epoch, parcel, self._next_pixels(), tuple(self._withdrawn))
        self._withdrawn.clear()
        self._calls += 1
        self._pool.count_call(len(letter.pixels))
        self._pool.spawn(self._exchange(letter, images))
        if self.unsent or self._pixels:
            self.schedule_send()

    def _next_items(self) -> list[_Item]:
        items: list[_Item] = []
        unsent = self.unsent
        if len(self.outstanding) == 1 and next(iter(self.outstanding.values())).suspect:
            return items
        while unsent and len(items) < REQUESTS_IN_A_CALL:
            item = unsent[0]
            if item.future.done():
                unsent.popleft()
                continue
            if item.suspect:
                # A suspect goes when nothing else is there that its death could take along.
                if not items and not self.outstanding:
                    unsent.popleft()
                    items.append(item)
                break
            unsent.popleft()
            items.append(item)
        for item in items:
            self.outstanding[item.serial] = item
        return items

    def _pack(self, items: list[_Item]) -> tuple[Parcel | None, dict[str, Any]]:
        if not items:
            return None, {}
        try:
            return pack([(item.serial, item.request, item.agent, int(item.priority)) for item in items])
        except Exception:
            arrivals: list[Arrival] = []
            for item in items:
                arrival = (item.serial, item.request, item.agent, int(item.priority))
                try:
                    pack(arrival)
                except Exception as error:
                    kind = type(item.request).__name__
                    del self.outstanding[item.serial]
                    self._pool.answer(item, UsageError(f"a {kind} cannot be sent to a replica: {error}"))
                else:
                    arrivals.append(arrival)
            return pack(arrivals) if arrivals else (None, {})

    def _next_pixels(self) -> dict[str, np.ndarray]:
        if not self._pixels:
            return {}
        chosen: dict[str, np.ndarray] = {}
        n_bytes = 0
        for id, pixels in self._pixels.items():
            if chosen and n_bytes + pixels.nbytes > PIXEL_BYTES_IN_A_CALL:
                break
            chosen[id] = pixels
            n_bytes += pixels.nbytes
        for id in chosen:
            del self._pixels[id]
        return chosen

    async def _exchange(self, letter: Letter, images: dict[str, Any]) -> None:
        try:
            reply = await self.handle.exchange(letter)
        except Exception as error:
            # Not only deaths: a request that cannot be unpickled there is found out in the same way.
            if letter.epoch == self._epoch:
                self._pool.replica_lost(self, error)
            return
        if letter.epoch != self._epoch:
            return
        self._calls -= 1
        self.last_reply = self._pool.clock()
        for id in reply.missing:
            self._pixels[id] = images[id].pixels
        if reply.parcel is not None:
            outcomes = unpack(reply.parcel, images_from(reply.pixels))
            outstanding, answer = self.outstanding, self._pool.answer
            for serial, outcome in outcomes:
                item = outstanding.pop(serial, None)
                if item is not None:
                    if type(outcome) is OverloadedError:
                        self._pool.post_later(item)
                    else:
                        answer(item, outcome)
        # The callers just answered run first, so that what they ask next joins the call.
        self.schedule_send()

    def begin_epoch(self) -> list[_Item]:
        """Forget the calls in flight, and return every item that is not answered."""
        self._epoch += 1
        self._calls = 0
        self._withdrawn.clear()
        self._pixels.clear()
        items = [*self.outstanding.values()]
        for item in items:
            item.deaths += 1
        items += self.unsent
        self.outstanding.clear()
        self.unsent.clear()
        return items


class ReplicaPool(_Asking[RequestT, ResultT]):
    """Between `min_replicas` and `max_replicas` replicas of one model behind one handle.

    `limit` bounds the unanswered requests of this process. A replica more is started when every replica
    has more than `scale_up_batches` full batches of requests to do at two looks in a row, one is stopped when
    it has been idle for `scale_down_s`; looks are `look_s` apart, and take in what other processes ask of the replicas.
    A pool over `SharedReplicas` starts and stops none, and follows those that come and go. A replica with unanswered requests that has
    been silent for `silence_s` is asked for a ping, and replaced if it does not answer within as long again.
    """

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        placement: Placement | None = None,
        *,
        address: str = "",
        limit: int = 4096,
        scale_up_batches: float = 4.0,
        scale_down_s: float = 60.0,
        look_s: float = 2.0,
        silence_s: float = 60.0,
        restart_pause_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.address = address
        """By which other processes find the replicas (`Cluster.attach`); empty for a pool without."""
        self.client = f"{name}/{uuid.uuid4().hex[:12]}"
        self.clock = clock
        self._launcher = launcher
        self._shared = cast("SharedReplicas", launcher) if hasattr(launcher, "fresh") else None
        self._placement = placement or Placement()
        self._scale_up_batches, self._scale_down_s = scale_up_batches, scale_down_s
        self._look_s, self._silence_s, self._restart_pause_s = look_s, silence_s, restart_pause_s
        self._links: list[_Link] = []
        self._stranded: deque[_Item] = deque()
        """Items for which no replica is ready."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._room = Room(limit)
        self._idle: list[asyncio.Future[None]] = []
        self._news: list[asyncio.Future[None]] = []
        """Whoever waits for a replica to be ready, or for the news that none will be."""
        self._serials = itertools.count(1)
        self._failure: MaiaError | None = None
        self._closed = False
        self._crowded = False
        self._requests = self._answered = self._failed = self._calls = self._pixels_sent = 0
        self._lost = self._resubmitted = self._restarted = 0

    @property
    def ended(self) -> bool:
        """Whether it was closed, or could not work: it starts no replica any more."""
        return self._closed or self._failure is not None

    # -- asking ---------------------------------------------------------------------------------------

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`; wait for room first if `limit` requests are outstanding.

        Cancelling the caller withdraws the request, also from the replica's queue.

        Raises:
            MaiaError: The backend's typed failure of this request or of its batch.
            ReplicaLostError: If replicas died three times while they held this request.
            ClosedError: If the pool is closed first.
        """
        if self._room.full:
            await self._room.wait()
        item = self._post(request, agent, priority)
        try:
            result: ResultT = await item.future
            return result
        finally:
            if item.future.cancelled():
                self._withdraw(item)

    def submit_nowait(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> asyncio.Future[ResultT]:
        """Return a future of the result; cancelling it withdraws the request.

        Raises:
            OverloadedError: If `limit` requests are outstanding.
        """
        if self._room.full:
            raise OverloadedError(
                f"{self.name}: {self._room.limit} requests are outstanding.", "Await `submit`."
            )
        item = self._post(request, agent, priority)
        item.future.add_done_callback(lambda future: self._withdraw(item) if future.cancelled() else None)
        return item.future

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what control method `name` of a backend returns, on the replica with least to do.

        A control method may run again on another replica if its replica dies, so it must be safe to repeat.

        Raises:
            UsageError: If the backend declares no such method.
            MaiaError: What the method raises.
        """
        parcel, images = pack((name, args, kwargs))
        pixels = {id: image.pixels for id, image in images.items()}
        for attempt in itertools.count(1):
            link = await self._ready_link()
            link.controls += 1
            try:
                reply = await link.handle.call(parcel, pixels)
            except ReplicaLostError as error:
                self.replica_lost(link, error)
                if attempt >= DEATHS_TO_CONVICT:
                    raise
            else:
                assert reply.parcel is not None
                return unpack(reply.parcel, images_from(reply.pixels))
            finally:
                link.controls -= 1
        raise AssertionError

    async def describe(self) -> dict[str, Any]:
        """Return the facts that one replica tells about its backend."""
        link = await self._ready_link()
        return await link.handle.describe()

    async def replica_statistics(self) -> list[dict[str, Any]]:
        """Return the statistics of every replica that is ready."""
        links = [link for link in self._links if link.ready]
        return list(await asyncio.gather(*(link.handle.statistics() for link in links)))

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            replicas=len(self._links),
            ready=sum(link.ready for link in self._links),
            outstanding=self._room.taken,
            unsent=len(self._stranded) + sum(len(link.unsent) for link in self._links),
            requests=self._requests,
            answered=self._answered,
            failed=self._failed,
            calls=self._calls,
            pixels_sent=self._pixels_sent,
            lost_replicas=self._lost,
            resubmitted=self._resubmitted,
            restarted=self._restarted,
        )

    def _post(self, request: RequestT, agent: str, priority: Priority) -> _Item:
        if self._closed:
            raise ClosedError(f"{self.name} is closed.")
        if self._failure is not None:
            raise self._failure
        item = _Item(
            request, agent, priority, asyncio.get_running_loop().create_future(), next(self._serials)
        )
        self._room.taken += 1
        self._requests += 1
        self._route(item)
        return item

    def _route(self, item: _Item) -> None:
        best: _Link | None = None
        for link in self._links:
            if link.ready and (best is None or link.load < best.load):
                best = link
        if best is None:
            self._stranded.append(item)
        else:
            best.post(item)

    def _withdraw(self, item: _Item) -> None:
        if item.link is not None:
            item.link.withdraw(item)
        self._leave()

    def answer(self, item: _Item, outcome: Any) -> None:
        """Give a caller the result or the typed failure of its request."""
        future = item.future
        if future.done():
            return
        if isinstance(outcome, MaiaError):
            self._failed += 1
            future.set_exception(outcome)
        else:
            self._answered += 1
            future.set_result(outcome)
        self._leave()

    def post_later(self, item: _Item) -> None:
        """Send again, after a pause, what a replica had no room for."""
        item.link = None

        async def post() -> None:
            await asyncio.sleep(self._restart_pause_s)
            if not item.future.done():
                self._route(item)

        self.spawn(post())

    # -- replicas -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Launch the first replicas; requests may be submitted at once and wait for them."""
        while len(self._links) < self._placement.min_replicas:
            self._launch()
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def ready(self) -> None:
        """Return when a replica is ready.

        Raises:
            MaiaError: What kept the backend from being built.
        """
        await self._ready_link()

    def _launch(self) -> None:
        self._add(self._launcher.launch())

    def _add(self, handle: ReplicaHandle) -> None:
        link = _Link(self, handle)
        self._links.append(link)
        self.spawn(self._await_ready(link))

    async def _await_ready(self, link: _Link) -> None:
        """Make the link ready as soon as its replica answers; replace a replica that never will."""
        while not self._closed:
            try:
                facts = await link.handle.describe()
            except ReplicaLostError as error:
                if error.gone and not self._replace(link):
                    return
                await asyncio.sleep(self._restart_pause_s)
            except Exception as error:
                failure = error if isinstance(error, MaiaError) else BackendError(f"{self.name}: {error!r}")
                self.replica_broken(link, failure)
                return
            else:
                break
        if self._closed:
            return
        link.ready = True
        link.batch_capacity = facts["slots"] * facts["max_batch"]
        self._announce()
        link.last_reply = link.idle_since = self.clock()
        stranded, self._stranded = self._stranded, deque()
        for item in stranded:
            if not item.future.done():
                self._route(item)

    def _replace(self, link: _Link) -> bool:
        """Give the link another replica in place of one that will not come back; False if there shall be none."""
        if self._shared is not None and len(self._links) > 1:
            self._links.remove(link)
            return False
        try:
            link.handle = self._launcher.launch()
        except MaiaError as failure:
            # Its owner may be about to start another.
            if self._shared is not None and self.clock() - link.last_reply < self._silence_s:
                return True
            self.replica_broken(link, failure)
            return False
        self._restarted += 1
        return True

    def replica_lost(self, link: _Link, error: Exception) -> None:
        """Send what a dead replica held to the others, and wait for it to come back."""
        if not link.ready:
            return  # another of its calls told us
        _log.warning("%s: lost a replica with %d requests: %s", self.name, len(link.outstanding), error)
        link.ready = False
        self._lost += 1
        for item in link.begin_epoch():
            item.link = None
            if item.future.done():
                continue
            if item.deaths >= DEATHS_TO_CONVICT:
                self.answer(
                    item,
                    ReplicaLostError(
                        f"{self.name}: {item.deaths} replicas failed while they held this request: {error}",
                        "Look at the replicas' logs; the request itself may be what kills them.",
                    ),
                )
                continue
            self._resubmitted += item.deaths > 0
            self._route(item)
        if not self._closed:
            self.spawn(self._await_ready(link))

    def replica_broken(self, link: _Link, failure: MaiaError) -> None:
        """Give up on a replica whose backend cannot be built; without any other, fail all that waits."""
        link.ready = False
        self._links.remove(link)
        items = link.begin_epoch()
        if self._links:
            _log.warning("%s: a replica cannot work: %s", self.name, failure)
        else:
            # Every caller is told, so a line in the log would only say it twice.
            self._failure = failure
            items += self._stranded
            self._stranded.clear()
            self._room.let_all_in()
            self._announce()
        self.spawn(self._stop(link.handle))
        for item in items:
            item.link = None
            if self._failure is not None:
                self.answer(item, failure)
            elif not item.future.done():
                self._route(item)

    async def _ready_link(self) -> _Link:
        while True:
            if self._closed:
                raise ClosedError(f"{self.name} is closed.")
            if self._failure is not None:
                raise self._failure
            links = [link for link in self._links if link.ready]
            if links:
                return min(links, key=lambda link: link.load)
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._news.append(waiter)
            await waiter

    def _announce(self) -> None:
        """Wake those who wait for a replica."""
        waiters, self._news = self._news, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _stop(self, handle: ReplicaHandle) -> None:
        try:
            await handle.stop()
        except MaiaError as error:
            _log.warning("%s: a replica did not stop cleanly: %s", self.name, error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self.inquire()
            except Exception as error:
                # A look that fails must not end all looking.
                _log.warning("%s: cannot learn how its replicas stand: %s", self.name, error)
            self.look()

    async def inquire(self) -> None:
        """Learn of replicas that others have started, and of what others ask of ours. Called before every look."""
        if self._shared is not None:
            for handle in await asyncio.to_thread(self._shared.fresh):
                self._add(handle)
        elif self._placement.max_replicas > self._placement.min_replicas:
            links = [link for link in self._links if link.ready]
            # One that hangs must not keep us from looking at the others, and is found out there.
            answers = await asyncio.gather(
                *(asyncio.wait_for(link.handle.statistics(), self._look_s) for link in links),
                return_exceptions=True,
            )
            for link, answer in zip(links, answers, strict=True):
                if isinstance(answer, dict):
                    link.waiting = answer["waiting"]
                elif not isinstance(answer, TimeoutError):
                    link.waiting = 0

    def look(self) -> None:
        """Scale with the load, and find replicas that hang. Called every `look_s`."""
        now = self.clock()
        serving = list(self._links)
        crowded = bool(serving) and all(
            link.ready and link.demand > self._scale_up_batches * link.batch_capacity for link in serving
        )
        if crowded and self._crowded and len(serving) < self._placement.max_replicas:
            self._launch()
            crowded = False
        self._crowded = crowded
        for link in serving:
            if link.demand or not link.ready:
                link.idle_since = now
            if not link.ready:
                continue
            if link.load and now - link.last_reply > self._silence_s:
                link.last_reply = now
                self.spawn(self._probe(link))
            elif (
                not link.demand
                and now - link.idle_since > self._scale_down_s
                and len(serving) > self._placement.min_replicas
            ):
                self._links.remove(link)
                self.spawn(self._stop(link.handle))
                break

    async def _probe(self, link: _Link) -> None:
        handle = link.handle
        try:
            await asyncio.wait_for(handle.ping(), self._silence_s)
        except (TimeoutError, ReplicaLostError):
            if link.handle is handle and link.ready:
                self.replica_lost(
                    link, ReplicaLostError(f"a replica was silent for {2 * self._silence_s} s.")
                )
                await self._stop(handle)  # it will not come back: `_await_ready` launches another

    # -- room, closing --------------------------------------------------------------------------------

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine that belongs to the pool and ends with it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_call(self, n_pixels: int) -> None:
        self._calls += 1
        self._pixels_sent += n_pixels

    def _leave(self) -> None:
        self._room.leave()
        if not self._room.taken and self._idle:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()

    async def drain(self) -> None:
        """Return when every request is answered."""
        while self._room.taken:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter

    async def aclose(self) -> None:
        """Fail what is unanswered with ClosedError and stop the replicas."""
        if self._closed:
            return
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._room.let_all_in()
        self._announce()
        links, self._links = self._links, []
        items = [*self._stranded]
        self._stranded.clear()
        for link in links:
            link.ready = False
            items += link.begin_epoch()
        for item in items:
            self.answer(item, ClosedError(f"{self.name} was closed."))
        await asyncio.gather(*(self._stop(link.handle) for link in links))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
