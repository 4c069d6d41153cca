"""This process's side of one replica: what waits to be sent to it, and what it has not answered.

To a replica at most two calls are in flight, and what is asked meanwhile joins the next one. Requests are
pure, so those that a dead replica held are sent again by the pool (Ray would not know which were answered). A
request that two replicas failed on is retried alone, and fails if the third does too: a poison request takes
no others along.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.errors import OverloadedError, UsageError
from actors.serving.backend import Priority
from actors.serving.replica import (
    ExchangeRequest,
    ExchangeResponse,
    QueuedRequest,
    ReplicaFacts,
    ReplicaStatistics,
)
from actors.serving.transport import Payload, images_from, pack, unpack

CALLS_IN_FLIGHT = 2
REQUESTS_IN_A_CALL = 1024
"""More would keep a replica's event loop busy with unpickling while others wait for a ping."""
MAX_REPLICA_FAILURES = 3


class ReplicaHandle(Protocol):
    """A replica, here or elsewhere. Every method raises ReplicaLostError when the replica cannot answer."""

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse: ...

    async def call(self, payload: Payload, pixels: dict[str, np.ndarray]) -> ExchangeResponse: ...

    async def ping(self) -> int: ...

    async def describe(self) -> ReplicaFacts: ...

    async def statistics(self) -> ReplicaStatistics: ...

    async def stop(self) -> None:
        """Close the replica and free what it holds."""


class LinkOwner(Protocol):
    """The pool that a link belongs to."""

    client: str
    pixel_bytes_per_call: int

    def clock(self) -> float: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that ends with the pool."""

    def count_call(self, n_pixels: int) -> None: ...

    def answer(self, pending: PendingRequest, outcome: Any) -> None:
        """Give a caller the result or the typed failure of its request."""

    def retry_later(self, pending: PendingRequest) -> None:
        """Send again, after a pause, what a replica had no capacity for."""

    def replica_lost(self, link: ReplicaLink, error: Exception) -> None:
        """Send what a dead replica held to the others."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One unanswered request. `failures` counts the replicas that were lost while they held it."""

    request: Any
    agent: str
    priority: Priority
    future: asyncio.Future[Any]
    serial: int
    failures: int = 0
    link: ReplicaLink | None = None

    @property
    def retry_alone(self) -> bool:
        """Whether it may be what its replicas failed on."""
        return self.failures >= MAX_REPLICA_FAILURES - 1

    @property
    def queued(self) -> QueuedRequest:
        """The request as it is sent."""
        return self.serial, self.request, self.agent, int(self.priority)


class ReplicaLink:
    """One replica as its pool sees it."""

    def __init__(self, pool: LinkOwner, handle: ReplicaHandle) -> None:
        self.handle = handle
        self.ready = False
        self.unsent: deque[PendingRequest] = deque()
        self.outstanding: dict[int, PendingRequest] = {}
        """Sent and not answered, by serial."""
        self.controls = 0
        """Control calls in flight."""
        self.waiting = 0
        """Callers of all processes that wait at the replica, when it was last asked."""
        self.batch_capacity = 1
        """Requests that the replica can run at the same time: its slots times its largest batch."""
        self.last_response = pool.clock()
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
        """The requests of all processes that wait at the replica, as far as is known here."""
        return max(self.load, self.waiting)

    def enqueue(self, pending: PendingRequest) -> None:
        pending.link = self
        self.unsent.append(pending)
        self.schedule_send()

    def withdraw(self, pending: PendingRequest) -> None:
        """Forget a request whose caller was cancelled."""
        if self.outstanding.pop(pending.serial, None) is not None:
            self._withdrawn.append(pending.serial)
            self.schedule_send()
        # An unsent request is skipped when its turn comes: its future is done.

    def schedule_send(self) -> None:
        if not self._send_scheduled and self._calls < CALLS_IN_FLIGHT and self.ready:
            self._send_scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._send_scheduled = False
        if not self.ready or self._calls >= CALLS_IN_FLIGHT:
            return
        requests = self._next_requests()
        # with nothing to bring, one open call is enough to take results away.
        if (
            not requests
            and not self._withdrawn
            and not self._pixels
            and (self._calls or not self.outstanding)
        ):
            return
        payload, images = self._packed(requests)
        withdrawn = tuple(self._withdrawn)
        request = ExchangeRequest(self._pool.client, self._epoch, payload, self._next_pixels(), withdrawn)
        self._withdrawn.clear()
        self._calls += 1
        self._pool.count_call(len(request.pixels))
        self._pool.spawn(self._exchange(request, images))
        if self.unsent or self._pixels:
            self.schedule_send()

    def _next_requests(self) -> list[PendingRequest]:
        requests: list[PendingRequest] = []
        unsent = self.unsent
        if len(self.outstanding) == 1 and next(iter(self.outstanding.values())).retry_alone:
            return requests
        while unsent and len(requests) < REQUESTS_IN_A_CALL:
            pending = unsent[0]
            if pending.future.done():
                unsent.popleft()
                continue
            if pending.retry_alone:
                # It goes when nothing else is there that would be lost with it.
                if not requests and not self.outstanding:
                    unsent.popleft()
                    requests.append(pending)
                break
            unsent.popleft()
            requests.append(pending)
        for pending in requests:
            self.outstanding[pending.serial] = pending
        return requests

    def _packed(self, requests: list[PendingRequest]) -> tuple[Payload | None, dict[str, Any]]:
        if not requests:
            return None, {}
        try:
            return pack([pending.queued for pending in requests])
        except Exception:
            queued = [pending.queued for pending in requests if self._check_packable(pending)]
            return pack(queued) if queued else (None, {})

    def _check_packable(self, pending: PendingRequest) -> bool:
        """Return whether a request can be pickled; fail it if not."""
        try:
            pack(pending.queued)
        except Exception as error:
            kind = type(pending.request).__name__
            del self.outstanding[pending.serial]
            self._pool.answer(pending, UsageError(f"a {kind} cannot be sent to a replica: {error}"))
            return False
        return True

    def _next_pixels(self) -> dict[str, np.ndarray]:
        if not self._pixels:
            return {}
        chosen: dict[str, np.ndarray] = {}
        n_bytes = 0
        for id, pixels in self._pixels.items():
            if chosen and n_bytes + pixels.nbytes > self._pool.pixel_bytes_per_call:
                break
            chosen[id] = pixels
            n_bytes += pixels.nbytes
        for id in chosen:
            del self._pixels[id]
        return chosen

    async def _exchange(self, request: ExchangeRequest, images: dict[str, Any]) -> None:
        try:
            response = await self.handle.exchange(request)
        except Exception as error:
            # Not only lost replicas: so does a request that cannot be unpickled there.
            if request.epoch == self._epoch:
                self._pool.replica_lost(self, error)
            return
        if request.epoch != self._epoch:
            return
        self._calls -= 1
        self.last_response = self._pool.clock()
        for id in response.missing:
            self._pixels[id] = images[id].pixels
        if response.payload is not None:
            outcomes = unpack(response.payload, images_from(response.pixels))
            outstanding, answer = self.outstanding, self._pool.answer
            for serial, outcome in outcomes:
                pending = outstanding.pop(serial, None)
                if pending is not None:
                    if type(outcome) is OverloadedError:
                        self._pool.retry_later(pending)
                    else:
                        answer(pending, outcome)
        # The callers just answered run first, so that what they ask next joins the call.
        self.schedule_send()

    def begin_epoch(self) -> list[PendingRequest]:
        """Forget the calls in flight, and return every request that is not answered."""
        self._epoch += 1
        self._calls = 0
        self._withdrawn.clear()
        self._pixels.clear()
        requests = [*self.outstanding.values()]
        for pending in requests:
            pending.failures += 1
        requests += self.unsent
        self.outstanding.clear()
        self.unsent.clear()
        return requests
