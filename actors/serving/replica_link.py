"""This process's side of one replica: what waits to be sent to it, and what it has not answered.

To a replica at most two calls are in flight, and what is asked meanwhile joins the next one. Requests are
pure, so those that a dead replica held are sent again by the pool (Ray would not know which were answered); a
request that was there at two deaths travels alone the third time, and a third death convicts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

import numpy as np

from actors.errors import OverloadedError, UsageError
from actors.serving.backend import Priority
from actors.serving.replica import Arrival, Letter, Reply
from actors.serving.transport import Parcel, images_from, pack, unpack

CALLS_IN_FLIGHT = 2
REQUESTS_IN_A_CALL = 1024
"""More would keep a replica's event loop busy with unpickling while others wait for a ping."""
PIXEL_BYTES_IN_A_CALL = 64 * 2**20
DEATHS_TO_CONVICT = 3


class ReplicaHandle(Protocol):
    """A replica, here or elsewhere. Every method raises ReplicaLostError when the replica cannot answer."""

    async def exchange(self, letter: Letter) -> Reply: ...

    async def call(self, parcel: Parcel, pixels: dict[str, np.ndarray]) -> Reply: ...

    async def ping(self) -> int: ...

    async def describe(self) -> dict[str, Any]: ...

    async def statistics(self) -> dict[str, Any]: ...

    async def stop(self) -> None:
        """Close the replica and free what it holds."""


class Owner(Protocol):
    """The pool that a link belongs to."""

    client: str

    def clock(self) -> float: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that ends with the pool."""

    def count_call(self, n_pixels: int) -> None: ...

    def answer(self, item: Item, outcome: Any) -> None:
        """Give a caller the result or the typed failure of its request."""

    def post_later(self, item: Item) -> None:
        """Send again, after a pause, what a replica had no room for."""

    def replica_lost(self, link: Link, error: Exception) -> None:
        """Send what a dead replica held to the others."""


class Item:
    """One unanswered request."""

    __slots__ = ("agent", "deaths", "future", "link", "priority", "request", "serial")

    def __init__(
        self, request: Any, agent: str, priority: Priority, future: asyncio.Future[Any], serial: int
    ) -> None:
        self.request, self.agent, self.priority, self.future = request, agent, priority, future
        self.serial = serial
        self.deaths = 0
        self.link: Link | None = None

    @property
    def suspect(self) -> bool:
        """Whether one more death convicts it, so that it must travel alone."""
        return self.deaths >= DEATHS_TO_CONVICT - 1


class Link:
    """One replica as its pool sees it."""

    def __init__(self, pool: Owner, handle: ReplicaHandle) -> None:
        self.handle = handle
        self.ready = False
        self.unsent: deque[Item] = deque()
        self.outstanding: dict[int, Item] = {}
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

    def post(self, item: Item) -> None:
        item.link = self
        self.unsent.append(item)
        self.schedule_send()

    def withdraw(self, item: Item) -> None:
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

    def _next_items(self) -> list[Item]:
        items: list[Item] = []
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

    def _pack(self, items: list[Item]) -> tuple[Parcel | None, dict[str, Any]]:
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

    def begin_epoch(self) -> list[Item]:
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
