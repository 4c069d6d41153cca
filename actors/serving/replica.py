"""One copy of a model: a backend, its coalescer, and the images that its callers have sent.

`Replica` holds all logic and is tested without Ray; `ReplicaActor` below it is what Ray runs.

How requests arrive. Each client process opens a session and keeps at most two calls of `exchange` in
flight. A call brings requests and returns all results of that session that are ready, not only those of its
own requests: so a result is never held back by a slower one that was sent with it. A call with nothing to
return is held open (long polling) until there is something, or until the session's next call takes its place.
Requests mention images by id; a call whose images are not all here returns at once with the ids that are
missing, and the session's next call brings their pixels.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import BackendError, DeviceLostError, MaiaError, UsageError
from actors.images import Image
from actors.serving.backend import Backend, BackendFacts, Priority
from actors.serving.coalescer import Coalescer, CoalescerStatistics
from actors.serving.fair_queue import Waiter
from actors.serving.lru import LruCache
from actors.serving.transport import Payload, images_from, pack, unpack

_log = logging.getLogger(__name__)

SILENT_SESSION_S = 120.0
"""A session that has not called for so long lost its process; a live one with work always has a call open.
"""

SHUTDOWN_GRACE_S = 1.0
"""How long a process whose device is lost lives on, so that its callers receive the failure."""

_PRIORITIES = tuple(Priority)

QueuedRequest = tuple[int, Any, str, int]
"""A request to be queued: serial number within its session, request, agent, priority."""


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """The argument of `exchange`. `payload` holds a list of `QueuedRequest`.

    `client` names the process and pool, `epoch` its session: a client that lost a response starts a new epoch
    and sends again what is unanswered; what it asked before is withdrawn.
    """

    client: str
    epoch: int
    payload: Payload | None = None
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExchangeResponse:
    """Its result. `payload` holds a list of (serial, result or MaiaError); `missing` are image ids."""

    payload: Payload | None = None
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Incomplete:
    """A payload that waits for pixels; it holds those that are here, so that the cache may forget them."""

    payload: Payload
    images: dict[str, Image]
    missing: set[str]


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One replica's backend and process."""

    pid: int
    slots: int
    max_batch: int
    backend: BackendFacts


@dataclass(frozen=True, slots=True)
class ReplicaStatistics(CoalescerStatistics):
    """A replica's counts since it started; `id` differs after a restart, which sets them to zero."""

    id: str = ""
    sessions: int = 0
    images: int = 0
    image_bytes: int = 0
    pixels_received: int = 0


def facts_of(backend: Backend[Any, Any]) -> ReplicaFacts:
    """Return the facts of a backend in this process."""
    return ReplicaFacts(os.getpid(), backend.slots, backend.max_batch, backend.describe())


class _Session:
    """One client's unanswered requests, and the results it has not fetched."""

    def __init__(self, epoch: int, now: float) -> None:
        self.epoch = epoch
        self.last_call = now
        self.waiters: dict[int, Waiter[Any, Any]] = {}
        self.mailbox: list[tuple[int, Any]] = []
        self.incomplete: list[_Incomplete] = []
        self.withdrawn_early: set[int] = set()
        self.long_poll: asyncio.Future[None] | None = None

    @property
    def expects(self) -> bool:
        return bool(self.waiters or self.incomplete)

    def deliver(self, serial: int, outcome: Any) -> None:
        self.waiters.pop(serial, None)
        self.mailbox.append((serial, outcome))
        self.wake()

    def wake(self) -> None:
        if self.long_poll is not None and not self.long_poll.done():
            self.long_poll.set_result(None)

    def withdraw(self, serial: int) -> None:
        waiter = self.waiters.pop(serial, None)
        if waiter is not None:
            waiter.withdraw()
        elif self.incomplete:
            self.withdrawn_early.add(serial)

    def drop(self) -> None:
        for waiter in self.waiters.values():
            waiter.withdraw()
        self.waiters.clear()
        self.incomplete.clear()
        self.mailbox.clear()
        self.wake()


class Replica:
    """Shares one backend among the sessions of many processes.

    `image_bytes` bounds the pixels kept for later mentions by id; `limit` the callers that may wait.
    """

    def __init__(
        self,
        backend: Backend[Any, Any],
        *,
        image_bytes: int = 512 * 2**20,
        limit: int = 65536,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.id = uuid.uuid4().hex
        """Differs after a restart, which sets all counts to zero."""
        self.coalescer: Coalescer[Any, Any] = Coalescer(backend, limit=limit, clock=clock)
        self._clock = clock
        self._images = LruCache[Image](image_bytes)
        self._sessions: dict[str, _Session] = {}
        self._pixels_received = 0

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse:
        """Take in requests, pixels and withdrawals; return what is ready, waiting for it if nothing is.

        Raises:
            DeviceLostError: If the backend's device is lost: all that is unanswered is for another process.
        """
        session = self._session(request)
        if session is None:
            return ExchangeResponse()
        if request.pixels:
            self._receive(session, request.client, request.pixels)
        for serial in request.withdrawn:
            session.withdraw(serial)
        if request.payload is not None:
            missing = self._accept(session, request.client, request.payload)
            if missing:
                return self._collect(session, missing)
        session.wake()  # one call is held open at a time: the earlier gives way to this one
        if session.expects and not session.mailbox:
            long_poll = session.long_poll = asyncio.get_running_loop().create_future()
            await long_poll
            if session.long_poll is long_poll:
                session.long_poll = None
        return self._collect(session, ())

    def _session(self, request: ExchangeRequest) -> _Session | None:
        """Return the request's session, None if it belongs to one that the client has given up."""
        now = self._clock()
        session = self._sessions.get(request.client)
        if session is None or session.epoch < request.epoch:
            if session is not None:
                session.drop()
            for client in [c for c, s in self._sessions.items() if now - s.last_call > SILENT_SESSION_S]:
                if self._sessions[client].long_poll is None:
                    self._sessions.pop(client).drop()
            session = self._sessions[request.client] = _Session(request.epoch, now)
        elif session.epoch > request.epoch:
            return None
        session.last_call = now
        return session

    def _accept(self, session: _Session, client: str, payload: Payload) -> tuple[str, ...]:
        """Enter the requests of a complete payload; else keep it and return the ids of missing images."""
        if not payload.ids:
            self._enter(session, client, unpack(payload, {}))
            return ()
        images = {id: image for id in payload.ids if (image := self._images.get(id)) is not None}
        missing = tuple(id for id in payload.ids if id not in images)
        if missing:
            session.incomplete.append(_Incomplete(payload, images, set(missing)))
        else:
            self._enter(session, client, unpack(payload, images))
        return missing

    def _receive(self, session: _Session, client: str, pixels: Mapping[str, np.ndarray]) -> None:
        received = images_from(pixels)
        self._pixels_received += len(received)
        for image in received.values():
            self._images.put(image.id, image, image.pixels.nbytes)
        waiting, session.incomplete = session.incomplete, []
        for incomplete in waiting:
            for id in incomplete.missing & received.keys():
                incomplete.images[id] = received[id]
            incomplete.missing -= received.keys()
            if incomplete.missing:
                session.incomplete.append(incomplete)
            else:
                self._enter(session, client, unpack(incomplete.payload, incomplete.images))
        if not session.incomplete:
            session.withdrawn_early.clear()

    def _enter(self, session: _Session, client: str, queued: list[QueuedRequest]) -> None:
        enter, deliver, waiters = self.coalescer.enter, session.deliver, session.waiters
        for serial, request, agent, priority in queued:
            if serial in session.withdrawn_early:
                continue
            try:
                waiter = enter(
                    request, partial(deliver, serial), agent=agent or client, priority=_PRIORITIES[priority]
                )
            except MaiaError as error:
                deliver(serial, error)
            except Exception as error:
                _log.exception("%s cannot take a request", self.backend.name)
                deliver(serial, BackendError(f"{self.backend.name} cannot take the request: {error!r}"))
            else:
                if waiter.job is not None:
                    waiters[serial] = waiter

    def _collect(self, session: _Session, missing: tuple[str, ...]) -> ExchangeResponse:
        outcomes, session.mailbox = session.mailbox, []
        if not outcomes:
            return ExchangeResponse(missing=missing)
        for _, outcome in outcomes:
            if isinstance(outcome, DeviceLostError):
                raise outcome
        try:
            payload, images = pack(outcomes)
        except Exception:
            payload, images = pack([(serial, _portable(outcome)) for serial, outcome in outcomes])
        return ExchangeResponse(payload, {id: image.pixels for id, image in images.items()}, missing)

    async def call(self, payload: Payload, pixels: Mapping[str, np.ndarray]) -> ExchangeResponse:
        """Call one of the backend's control methods: the payload holds (name, args, kwargs).

        Control methods are those that the backend lists in `controls`. The response holds the result.

        Raises:
            UsageError: If the backend declares no such control method.
            MaiaError: What the method raises; other exceptions become a BackendError.
        """
        name, args, kwargs = unpack(payload, images_from(pixels))
        result, images = pack(await call_control(self.backend, name, args, kwargs))
        return ExchangeResponse(result, {id: image.pixels for id, image in images.items()})

    async def ping(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def describe(self) -> ReplicaFacts:
        return facts_of(self.backend)

    def statistics(self) -> ReplicaStatistics:
        return ReplicaStatistics(
            **asdict(self.coalescer.statistics()),
            id=self.id,
            sessions=len(self._sessions),
            images=len(self._images),
            image_bytes=self._images.n_bytes,
            pixels_received=self._pixels_received,
        )

    async def close(self) -> None:
        """Fail what waits, let what runs finish, free the backend."""
        await self.coalescer.aclose()
        await self.backend.close()


async def call_control(
    backend: Backend[Any, Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return what the backend's control method `name` returns; see `Replica.call`."""
    if name not in backend.controls:
        known = ", ".join(sorted(backend.controls)) or "none"
        raise UsageError(f"{backend.name} has no control method {name!r}.", f"It has: {known}.")
    try:
        result = getattr(backend, name)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result
    except MaiaError:
        raise
    except Exception as error:
        _log.exception("%s failed in %s", backend.name, name)
        raise BackendError(f"{backend.name} failed in {name}: {type(error).__name__}: {error}") from error


def _portable(outcome: Any) -> Any:
    """Return `outcome`, or a failure that says why it cannot leave this process."""
    try:
        pack(outcome)
    except Exception as error:
        return BackendError(f"a result of type {type(outcome).__name__} cannot be pickled: {error}")
    return outcome


def build(factory: str, kwargs: Mapping[str, Any]) -> Backend[Any, Any]:
    """Return what the callable named "package.module:callable" builds.

    Raises:
        UsageError: If there is no such callable.
        MaiaError: What the callable raises; other exceptions become a BackendError.
    """
    module, _, name = factory.partition(":")
    try:
        make = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"no backend factory {factory!r}: {error}", 'Use "package.module:callable".'
        ) from error
    try:
        backend: Backend[Any, Any] = make(**kwargs)
    except MaiaError:
        raise
    except Exception as error:
        _log.exception("%s failed", factory)
        raise BackendError(
            f"{factory} could not build its backend: {type(error).__name__}: {error}"
        ) from error
    return backend


@dataclass(frozen=True)
class BackendSource:
    """How a replica builds its backend."""

    factory: str
    """The callable, as "package.module:callable"."""
    kwargs: Mapping[str, Any]
    """Its arguments, which must pickle and hold no images."""
    env: Mapping[str, str]
    """Environment variables, set before the factory is imported."""


class ReplicaService:
    """A replica that reports its own failures, typed, in every call.

    A backend that cannot be built is reported so, instead of ending the process. One whose device is lost
    does end it, because this process will not get the device to work again.
    """

    def __init__(
        self,
        make_backend: Callable[[], Backend[Any, Any]],
        *,
        end_process: Callable[[int], object] = os._exit,
        grace_s: float = SHUTDOWN_GRACE_S,
    ) -> None:
        self._end_process, self._grace_s = end_process, grace_s
        self._failure: MaiaError | None = None
        try:
            self._replica = Replica(make_backend())
        except MaiaError as error:
            self._failure = error

    @property
    def failed(self) -> bool:
        """Whether its backend could not be built, or its device is lost."""
        return self._failure is not None

    def _ready(self) -> Replica:
        if self._failure is not None:
            raise copy.copy(self._failure)
        return self._replica

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse:
        return await self._end_if_device_lost(self._ready().exchange(request))

    async def call(self, payload: Payload, pixels: dict[str, np.ndarray]) -> ExchangeResponse:
        return await self._end_if_device_lost(self._ready().call(payload, pixels))

    async def _end_if_device_lost(self, answer: Awaitable[ExchangeResponse]) -> ExchangeResponse:
        try:
            return await answer
        except DeviceLostError as error:
            if self._failure is None:
                _log.error("this process ends: %s", error)
                self._failure = error
                asyncio.get_running_loop().call_later(self._grace_s, self._end_process, 1)
            raise

    async def ping(self) -> int:
        return await self._ready().ping()

    async def describe(self) -> ReplicaFacts:
        return self._ready().describe()

    async def statistics(self) -> ReplicaStatistics:
        return self._ready().statistics()

    async def close(self) -> None:
        await self._ready().close()


class ReplicaActor(ReplicaService):
    """A replica as a Ray actor (`actors.serving.cluster` makes it one).

    All state is made here, so a restart is complete: Ray starts the next process when one ends.
    """

    def __init__(
        self,
        factory: str,
        kwargs: Payload,
        env: dict[str, str],
        threads: int | None,
        folder: Path | None = None,
    ) -> None:
        """`folder` is where the command was typed: relative paths are meant from there."""
        from actors.runtime import cpu_preamble, set_threads, work_in, worker_env

        if folder is not None:
            work_in(folder)

        os.environ.update(worker_env(threads) | env)  # before anything can import torch
        cpu_preamble()
        super().__init__(lambda: build(factory, unpack(kwargs, {})))
        if "torch" in sys.modules:
            set_threads(threads)
        if self._failure is None:
            threading.Thread(target=self._replica.backend.prepare, name="prepare", daemon=True).start()
