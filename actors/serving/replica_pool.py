"""N replicas of one model behind one handle.

`ReplicaPool` reaches replicas through small protocols (Ray's handles fit none), so it is tested without Ray.
A request goes to the replica with the least outstanding work; `actors.serving.replica_link` carries it there.
When `limit` requests are outstanding, `submit` waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from actors.cluster.placement import MAX_START_FAILURES
from actors.errors import BackendError, MaiaError, ReplicaLostError
from actors.serving.backend import CountsRequests, Priority, RequestT, ResultT
from actors.serving.capacity import CapacityLimiter
from actors.serving.coalescer import ClosedError
from actors.serving.pool import Pool, PoolStatistics
from actors.serving.replica import ReplicaFacts, ReplicaStatistics
from actors.serving.replica_link import MAX_REPLICA_FAILURES, PendingRequest, ReplicaHandle, ReplicaLink
from actors.serving.transport import images_from, pack, unpack
from actors.settings import Placement

_log = logging.getLogger(__name__)


class Launcher(Protocol):
    """Starts replicas."""

    def launch(self) -> ReplicaHandle:
        """Return a new replica, which may still be loading its model. Raises MaiaError if it cannot."""


class SharedReplicas(Launcher, Protocol):
    """Finds replicas that another process starts and stops."""

    def fresh(self) -> list[ReplicaHandle]:
        """Return handles of the replicas that are there and were not returned before. May block."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """When a pool refuses requests, adds and stops replicas, and gives one up. Times are in seconds."""

    limit: int = 4096
    """Unanswered requests of this process at most."""
    scale_up_batches: float = 4.0
    """Full batches that every replica has waiting, for two consecutive ticks, before one more is started."""
    scale_down_s: float = 60.0
    """How long a replica is idle before it is stopped."""
    tick_s: float = 2.0
    """Pause between two ticks, in each of which the load is measured and the pool scaled."""
    liveness_timeout_s: float = 60.0
    """A replica that has requests and has not answered for so long is sent a ping, and replaced if that is
    not answered within as long again.
    """
    retry_pause_s: float = 0.2
    """Pause before a replica that is lost, or has no capacity, is asked again."""
    pixel_bytes_per_call: int = 64 * 2**20
    """Bytes of pixels that one call carries to a replica at most, if it is more than one image."""


class ReplicaPool(Pool[RequestT, ResultT]):
    """Between `min_replicas` and `max_replicas` replicas of one model behind one handle.

    It scales with its own load and that of the other processes that use its replicas; see `PoolOptions`. A
    pool over `SharedReplicas` starts and stops none, and follows those that come and go.
    """

    def __init__(
        self,
        name: str,
        launcher: Launcher,
        placement: Placement | None = None,
        *,
        address: str = "",
        options: PoolOptions | None = None,
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
        self._options = options or PoolOptions()
        self.pixel_bytes_per_call = self._options.pixel_bytes_per_call
        self._links: list[ReplicaLink] = []
        self._unassigned: deque[PendingRequest] = deque()
        """Requests for which no replica is ready."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._capacity = CapacityLimiter(self._options.limit)
        self._ready_changed = asyncio.Event()
        """Pulsed when a replica is ready, or none can be."""
        self._serials = itertools.count(1)
        self._failure: MaiaError | None = None
        self._closed = False
        self._was_saturated = False
        self._requests = self._answered = self._failed = self._calls = self._pixels_sent = 0
        self._lost = self._resubmitted = self._restarted = 0

    @property
    def ended(self) -> bool:
        """Whether it was closed, or could not work: it starts no replica any more."""
        return self._closed or self._failure is not None

    # -- requests ---------------------------------------------------------------------------------------

    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`; wait first if `limit` requests are outstanding.

        Cancelling the caller withdraws the request, also from the replica's queue.

        Raises:
            MaiaError: The backend's typed failure of this request or of its batch.
            ReplicaLostError: If three replicas failed while they held this request.
            ClosedError: If the pool is closed first.
        """
        if self._capacity.full:
            await self._capacity.wait()
        pending = self._enqueue(request, agent, priority)
        try:
            result: ResultT = await pending.future
            return result
        finally:
            if pending.future.cancelled():
                self._withdraw(pending)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what control method `name` of a backend returns, on the replica with the least load.

        A control method may run again on another replica if its replica dies, so it must be safe to repeat.

        Raises:
            UsageError: If the backend declares no such method.
            MaiaError: What the method raises.
        """
        payload, images = pack((name, args, kwargs))
        pixels = {id: image.pixels for id, image in images.items()}
        for attempt in itertools.count(1):
            link = await self._ready_link()
            link.controls += 1
            try:
                response = await link.handle.call(payload, pixels)
            except ReplicaLostError as error:
                self.replica_lost(link, error)
                if attempt >= MAX_REPLICA_FAILURES:
                    raise
            else:
                assert response.payload is not None
                return unpack(response.payload, images_from(response.pixels))
            finally:
                link.controls -= 1
        raise AssertionError

    async def describe(self) -> ReplicaFacts:
        """Return what one replica says of its backend."""
        link = await self._ready_link()
        return await link.handle.describe()

    async def replica_statistics(self) -> list[ReplicaStatistics]:
        """Return the statistics of every replica that is ready."""
        links = [link for link in self._links if link.ready]
        return list(await asyncio.gather(*(link.handle.statistics() for link in links)))

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            replicas=len(self._links),
            ready=sum(link.ready for link in self._links),
            outstanding=self._capacity.in_use,
            unsent=len(self._unassigned) + sum(len(link.unsent) for link in self._links),
            requests=self._requests,
            answered=self._answered,
            failed=self._failed,
            calls=self._calls,
            pixels_sent=self._pixels_sent,
            lost_replicas=self._lost,
            resubmitted=self._resubmitted,
            restarted=self._restarted,
        )

    def _enqueue(self, request: RequestT, agent: str, priority: Priority) -> PendingRequest:
        if self._closed:
            raise ClosedError(f"{self.name} is closed.")
        if self._failure is not None:
            raise self._failure
        pending = PendingRequest(
            request, agent, priority, asyncio.get_running_loop().create_future(), next(self._serials)
        )
        self._capacity.in_use += 1
        self._requests += 1
        self._route(pending)
        return pending

    def _route(self, pending: PendingRequest) -> None:
        best: ReplicaLink | None = None
        for link in self._links:
            if link.ready and (best is None or link.load < best.load):
                best = link
        if best is None:
            self._unassigned.append(pending)
        else:
            best.enqueue(pending)

    def _withdraw(self, pending: PendingRequest) -> None:
        if pending.link is not None:
            pending.link.withdraw(pending)
        self._capacity.release()

    def answer(self, pending: PendingRequest, outcome: Any) -> None:
        """Give a caller the result or the typed failure of its request."""
        future = pending.future
        if future.done():
            return
        if isinstance(outcome, MaiaError):
            self._failed += 1
            future.set_exception(outcome)
        else:
            self._answered += 1
            if pending.failures and isinstance(outcome, CountsRequests):
                outcome = outcome.with_resends(pending.failures)
            future.set_result(outcome)
        self._capacity.release()

    def retry_later(self, pending: PendingRequest) -> None:
        """Send again, after a pause, what a replica had no capacity for."""
        pending.link = None

        async def retry() -> None:
            await asyncio.sleep(self._options.retry_pause_s)
            if not pending.future.done():
                self._route(pending)

        self.spawn(retry())

    # -- replicas -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Launch the first replicas; requests may be submitted at once and wait for them."""
        while len(self._links) < self._placement.min_replicas:
            self._launch()
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._run_ticks())

    async def ready(self) -> None:
        """Return when a replica is ready.

        Raises:
            MaiaError: What kept the backend from being built.
        """
        await self._ready_link()

    def _launch(self) -> None:
        self._add(self._launcher.launch())

    def _add(self, handle: ReplicaHandle) -> None:
        link = ReplicaLink(self, handle)
        self._links.append(link)
        self.spawn(self._await_ready(link))

    async def _await_ready(self, link: ReplicaLink) -> None:
        """Make the link ready as soon as its replica answers; replace one that never will, a few times."""
        ended = 0
        while not self._closed:
            try:
                facts = await link.handle.describe()
            except ReplicaLostError as error:
                ended += error.gone
                if ended == MAX_START_FAILURES and self._shared is None:
                    message = (
                        f"{self.name}: {MAX_START_FAILURES} replicas in a row ended while they were started"
                    )
                    self.replica_broken(link, BackendError(f"{message}: {error.message}"))
                    return
                if error.gone and not self._replace(link):
                    return
                await asyncio.sleep(self._options.retry_pause_s)
            except Exception as error:
                failure = error if isinstance(error, MaiaError) else BackendError(f"{self.name}: {error!r}")
                self.replica_broken(link, failure)
                return
            else:
                break
        if self._closed:
            return
        link.ready = True
        link.batch_capacity = facts.slots * facts.max_batch
        self._notify_ready()
        link.last_response = link.idle_since = self.clock()
        unassigned, self._unassigned = self._unassigned, deque()
        for pending in unassigned:
            if not pending.future.done():
                self._route(pending)

    def _replace(self, link: ReplicaLink) -> bool:
        """Give the link another replica in place of one that is gone; False if it gets none."""
        if self._shared is not None and len(self._links) > 1:
            self._links.remove(link)
            return False
        try:
            link.handle = self._launcher.launch()
        except MaiaError as failure:
            # Its owner may be about to start another.
            if (
                self._shared is not None
                and self.clock() - link.last_response < self._options.liveness_timeout_s
            ):
                return True
            self.replica_broken(link, failure)
            return False
        self._restarted += 1
        return True

    def replica_lost(self, link: ReplicaLink, error: Exception) -> None:
        """Send what a dead replica held to the others, and wait for it to come back."""
        if not link.ready:
            return  # another of its calls has reported it
        _log.warning("%s: lost a replica with %d requests: %s", self.name, len(link.outstanding), error)
        link.ready = False
        self._lost += 1
        for pending in link.begin_epoch():
            pending.link = None
            if pending.future.done():
                continue
            if pending.failures >= MAX_REPLICA_FAILURES:
                self.answer(
                    pending,
                    ReplicaLostError(
                        f"{self.name}: {pending.failures} replicas failed while they held this request: "
                        f"{error}",
                        "Check the replicas' logs: the request itself may crash them.",
                    ),
                )
                continue
            self._resubmitted += pending.failures > 0
            self._route(pending)
        if not self._closed:
            self.spawn(self._await_ready(link))

    def replica_broken(self, link: ReplicaLink, failure: MaiaError) -> None:
        """Give up on a replica whose backend cannot be built; without any other, fail all that waits."""
        link.ready = False
        self._links.remove(link)
        requests = link.begin_epoch()
        if self._links:
            _log.warning("%s: a replica cannot work: %s", self.name, failure)
        else:
            # Every caller gets the failure: a line in the log would repeat it.
            self._failure = failure
            requests += self._unassigned
            self._unassigned.clear()
            self._capacity.release_all()
            self._notify_ready()
        self.spawn(self._stop(link.handle))
        for pending in requests:
            pending.link = None
            if self._failure is not None:
                self.answer(pending, failure)
            elif not pending.future.done():
                self._route(pending)

    async def _ready_link(self) -> ReplicaLink:
        while True:
            if self._closed:
                raise ClosedError(f"{self.name} is closed.")
            if self._failure is not None:
                raise self._failure
            links = [link for link in self._links if link.ready]
            if links:
                return min(links, key=lambda link: link.load)
            await self._ready_changed.wait()

    def _notify_ready(self) -> None:
        """Wake the callers that wait for a replica."""
        self._ready_changed.set()
        self._ready_changed.clear()

    async def _stop(self, handle: ReplicaHandle) -> None:
        try:
            await handle.stop()
        except MaiaError as error:
            _log.warning("%s: a replica did not stop cleanly: %s", self.name, error)

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(self._options.tick_s)
            try:
                await self.refresh_load()
            except Exception as error:
                # A failed tick must not be the last one.
                _log.warning("%s: cannot read its replicas' load: %s", self.name, error)
            self.autoscale()

    async def refresh_load(self) -> None:
        """Add replicas that others have started, and read the load on ours. Called before `autoscale`."""
        if self._shared is not None:
            for handle in await asyncio.to_thread(self._shared.fresh):
                self._add(handle)
        elif self._placement.max_replicas > self._placement.min_replicas:
            links = [link for link in self._links if link.ready]
            # One that hangs must not hold up the others; `autoscale` finds it.
            answers = await asyncio.gather(
                *(asyncio.wait_for(link.handle.statistics(), self._options.tick_s) for link in links),
                return_exceptions=True,
            )
            for link, answer in zip(links, answers, strict=True):
                if isinstance(answer, ReplicaStatistics):
                    link.waiting = answer.waiting
                elif not isinstance(answer, TimeoutError):
                    link.waiting = 0

    def autoscale(self) -> None:
        """Start or stop one replica as the load asks, and probe those that are silent. Called every tick."""
        now = self.clock()
        serving = list(self._links)
        saturated = bool(serving) and all(
            link.ready and link.demand > self._options.scale_up_batches * link.batch_capacity
            for link in serving
        )
        if saturated and self._was_saturated and len(serving) < self._placement.max_replicas:
            self._launch()
            saturated = False
        self._was_saturated = saturated
        for link in serving:
            if link.demand or not link.ready:
                link.idle_since = now
            if not link.ready:
                continue
            if link.load and now - link.last_response > self._options.liveness_timeout_s:
                link.last_response = now
                self.spawn(self._probe(link))
            elif (
                not link.demand
                and now - link.idle_since > self._options.scale_down_s
                and len(serving) > self._placement.min_replicas
            ):
                self._links.remove(link)
                self.spawn(self._stop(link.handle))
                break

    async def _probe(self, link: ReplicaLink) -> None:
        handle = link.handle
        try:
            await asyncio.wait_for(handle.ping(), self._options.liveness_timeout_s)
        except (TimeoutError, ReplicaLostError):
            if link.handle is handle and link.ready:
                self.replica_lost(
                    link,
                    ReplicaLostError(f"a replica was silent for {2 * self._options.liveness_timeout_s} s."),
                )
                await self._stop(handle)  # it will not come back: `_await_ready` launches another

    # -- capacity, closing --------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that belongs to the pool and ends with it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def count_call(self, n_pixels: int) -> None:
        self._calls += 1
        self._pixels_sent += n_pixels

    async def aclose(self) -> None:
        """Fail what is unanswered with ClosedError and stop the replicas."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        self._capacity.release_all()
        self._notify_ready()
        links, self._links = self._links, []
        requests = [*self._unassigned]
        self._unassigned.clear()
        for link in links:
            link.ready = False
            requests += link.begin_epoch()
        for pending in requests:
            self.answer(pending, ClosedError(f"{self.name} was closed."))
        await asyncio.gather(*(self._stop(link.handle) for link in links))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
