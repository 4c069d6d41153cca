"""N replicas of one model behind one handle.

`ReplicaPool` reaches replicas through small protocols (Ray's handles fit none), so it is tested without Ray.
A request goes to the replica with the least outstanding work; `actors.serving.replica_link` carries it there.
When `limit` requests are outstanding, `submit` waits for room and `submit_nowait` raises OverloadedError.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, Self, cast

from actors.cluster.placement import DEATHS
from actors.errors import BackendError, MaiaError, OverloadedError, ReplicaLostError
from actors.serving.backend import Counted, Priority, RequestT, ResultT
from actors.serving.coalescer import ClosedError, Room
from actors.serving.pool import Asking, PoolStatistics
from actors.serving.replica_link import DEATHS_TO_CONVICT, Item, Link, ReplicaHandle
from actors.serving.transport import images_from, pack, unpack
from actors.settings import Placement

_log = logging.getLogger(__name__)


class Launcher(Protocol):
    """Starts replicas."""

    def launch(self) -> ReplicaHandle:
        """Return the handle of a new replica, which may still be loading its model. Raises MaiaError if it
        cannot.
        """


class SharedReplicas(Launcher, Protocol):
    """Finds replicas that another process starts and stops."""

    def fresh(self) -> list[ReplicaHandle]:
        """Return handles of the replicas that are there and were not returned before. May block."""


class ReplicaPool(Asking[RequestT, ResultT]):
    """Between `min_replicas` and `max_replicas` replicas of one model behind one handle.

    `limit` bounds the unanswered requests of this process. A replica more is started when every replica has
    more than `scale_up_batches` full batches of requests to do at two looks in a row, one is stopped when it
    has been idle for `scale_down_s`; looks are `look_s` apart, and take in what other processes ask of the
    replicas. A pool over `SharedReplicas` starts and stops none, and follows those that come and go. A
    replica with unanswered requests that has been silent for `silence_s` is asked for a ping, and replaced if
    it does not answer within as long again.
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
        self._links: list[Link] = []
        self._stranded: deque[Item] = deque()
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

    def _post(self, request: RequestT, agent: str, priority: Priority) -> Item:
        if self._closed:
            raise ClosedError(f"{self.name} is closed.")
        if self._failure is not None:
            raise self._failure
        item = Item(request, agent, priority, asyncio.get_running_loop().create_future(), next(self._serials))
        self._room.taken += 1
        self._requests += 1
        self._route(item)
        return item

    def _route(self, item: Item) -> None:
        best: Link | None = None
        for link in self._links:
            if link.ready and (best is None or link.load < best.load):
                best = link
        if best is None:
            self._stranded.append(item)
        else:
            best.post(item)

    def _withdraw(self, item: Item) -> None:
        if item.link is not None:
            item.link.withdraw(item)
        self._leave()

    def answer(self, item: Item, outcome: Any) -> None:
        """Give a caller the result or the typed failure of its request."""
        future = item.future
        if future.done():
            return
        if isinstance(outcome, MaiaError):
            self._failed += 1
            future.set_exception(outcome)
        else:
            self._answered += 1
            if item.deaths and isinstance(outcome, Counted):
                outcome = outcome.asked_again(item.deaths)
            future.set_result(outcome)
        self._leave()

    def post_later(self, item: Item) -> None:
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
        link = Link(self, handle)
        self._links.append(link)
        self.spawn(self._await_ready(link))

    async def _await_ready(self, link: Link) -> None:
        """Make the link ready as soon as its replica answers; replace a replica that never will, a few times."""
        ended = 0
        while not self._closed:
            try:
                facts = await link.handle.describe()
            except ReplicaLostError as error:
                ended += error.gone
                if ended == DEATHS and self._shared is None:
                    told = f"{self.name}: {DEATHS} replicas in a row ended while they were started: {error.message}"
                    self.replica_broken(link, BackendError(told))
                    return
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

    def _replace(self, link: Link) -> bool:
        """Give the link another replica in place of one that will not come back; False if there shall be
        none.
        """
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

    def replica_lost(self, link: Link, error: Exception) -> None:
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

    def replica_broken(self, link: Link, failure: MaiaError) -> None:
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

    async def _ready_link(self) -> Link:
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
        """Learn of replicas that others have started, and of what others ask of ours. Called before every
        look.
        """
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

    async def _probe(self, link: Link) -> None:
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

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
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
