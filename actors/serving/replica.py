"""One copy of a model: a backend, its coalescer, and the images that its callers have sent.

`Replica` holds all logic and is tested without Ray; `ReplicaActor` below it is what Ray runs.

How requests arrive. Each client process opens a session and keeps at most two calls of `exchange` in
flight. A call brings requests and takes away whatever results of that session are ready, not only those of
its own requests: so an answer is never held back by a slower one that travelled with it. A call with nothing
to take away is parked until there is something, or until the session's next call takes its place.
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
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import BackendError, DeviceLostError, MaiaError, UsageError
from actors.images import Image
from actors.serving.backend import Backend, Priority
from actors.serving.coalescer import Coalescer, Ticket
from actors.serving.transport import Parcel, images_from, pack, unpack

_log = logging.getLogger(__name__)

SILENT_SESSION_S = 120.0
"""A session that has not called for so long lost its process; a live one with work always has a call parked.
"""

LAST_WORDS_S = 1.0
"""How long a process whose device is lost goes on, to tell those who wait why it ends."""

_PRIORITIES = tuple(Priority)

Arrival = tuple[int, Any, str, int]
"""A request on its way: serial number within its session, request, agent, priority."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What a call of `exchange` brings. `parcel` holds a list of `Arrival`.

    `client` names the process and pool, `epoch` its session: a client that lost a reply begins a new epoch,
    sends what is unanswered again, and what it asked before is withdrawn.
    """

    client: str
    epoch: int
    parcel: Parcel | None = None
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What it takes away. `parcel` holds a list of (serial, result or MaiaError); `missing` are image ids."""

    parcel: Parcel | None = None
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


class ImageCache:
    """The images received last, up to `limit_bytes` of pixels."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._images: OrderedDict[str, Image] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def get(self, id: str) -> Image | None:
        image = self._images.get(id)
        if image is not None:
            self._images.move_to_end(id)
        return image

    def add(self, image: Image) -> None:
        if image.id not in self._images:
            self.n_bytes += image.pixels.nbytes
        self._images[image.id] = image
        while self.n_bytes > self._limit_bytes and self._images:
            _, oldest = self._images.popitem(last=False)
            self.n_bytes -= oldest.pixels.nbytes


class _Incomplete:
    """A parcel that waits for pixels; it holds those that are here, so that the cache may forget them."""

    def __init__(self, parcel: Parcel, images: dict[str, Image], missing: set[str]) -> None:
        self.parcel, self.images, self.missing = parcel, images, missing


class _Session:
    """One client's unanswered requests, and the results it has not taken away."""

    def __init__(self, epoch: int, now: float) -> None:
        self.epoch = epoch
        self.last_call = now
        self.tickets: dict[int, Ticket[Any, Any]] = {}
        self.mailbox: list[tuple[int, Any]] = []
        self.incomplete: list[_Incomplete] = []
        self.withdrawn_early: set[int] = set()
        self.parked: asyncio.Future[None] | None = None

    @property
    def expects(self) -> bool:
        return bool(self.tickets or self.incomplete)

    def deliver(self, serial: int, outcome: Any) -> None:
        self.tickets.pop(serial, None)
        self.mailbox.append((serial, outcome))
        self.wake()

    def wake(self) -> None:
        if self.parked is not None and not self.parked.done():
            self.parked.set_result(None)

    def withdraw(self, serial: int) -> None:
        ticket = self.tickets.pop(serial, None)
        if ticket is not None:
            ticket.withdraw()
        elif self.incomplete:
            self.withdrawn_early.add(serial)

    def drop(self) -> None:
        for ticket in self.tickets.values():
            ticket.withdraw()
        self.tickets.clear()
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
        """Tells this life from the one before a restart, whose counts are gone."""
        self.coalescer: Coalescer[Any, Any] = Coalescer(backend, limit=limit, clock=clock)
        self._clock = clock
        self._images = ImageCache(image_bytes)
        self._sessions: dict[str, _Session] = {}
        self._pixels_received = 0

    async def exchange(self, letter: Letter) -> Reply:
        """Take in requests, pixels and withdrawals; return what is ready, waiting for it if nothing is.

        Raises:
            DeviceLostError: If the backend's device is lost: all that is unanswered is for another process.
        """
        session = self._session(letter)
        if session is None:
            return Reply()
        if letter.pixels:
            self._receive(session, letter.client, letter.pixels)
        for serial in letter.withdrawn:
            session.withdraw(serial)
        if letter.parcel is not None:
            missing = self._accept(session, letter.client, letter.parcel)
            if missing:
                return self._collect(session, missing)
        session.wake()  # one call is parked at a time: the earlier makes place for this one
        if session.expects and not session.mailbox:
            parked = session.parked = asyncio.get_running_loop().create_future()
            await parked
            if session.parked is parked:
                session.parked = None
        return self._collect(session, ())

    def _session(self, letter: Letter) -> _Session | None:
        """Return the letter's session, None if it belongs to one that the client has given up."""
        now = self._clock()
        session = self._sessions.get(letter.client)
        if session is None or session.epoch < letter.epoch:
            if session is not None:
                session.drop()
            for client in [c for c, s in self._sessions.items() if now - s.last_call > SILENT_SESSION_S]:
                if self._sessions[client].parked is None:
                    self._sessions.pop(client).drop()
            session = self._sessions[letter.client] = _Session(letter.epoch, now)
        elif session.epoch > letter.epoch:
            return None
        session.last_call = now
        return session

    def _accept(self, session: _Session, client: str, parcel: Parcel) -> tuple[str, ...]:
        """Enter the requests of a complete parcel; else keep it and return the ids of missing images."""
        if not parcel.ids:
            self._enter(session, client, unpack(parcel, {}))
            return ()
        images = {id: image for id in parcel.ids if (image := self._images.get(id)) is not None}
        missing = tuple(id for id in parcel.ids if id not in images)
        if missing:
            session.incomplete.append(_Incomplete(parcel, images, set(missing)))
        else:
            self._enter(session, client, unpack(parcel, images))
        return missing

    def _receive(self, session: _Session, client: str, pixels: Mapping[str, np.ndarray]) -> None:
        received = images_from(pixels)
        self._pixels_received += len(received)
        for image in received.values():
            self._images.add(image)
        waiting, session.incomplete = session.incomplete, []
        for each in waiting:
            for id in each.missing & received.keys():
                each.images[id] = received[id]
            each.missing -= received.keys()
            if each.missing:
                session.incomplete.append(each)
            else:
                self._enter(session, client, unpack(each.parcel, each.images))
        if not session.incomplete:
            session.withdrawn_early.clear()

    def _enter(self, session: _Session, client: str, arrivals: list[Arrival]) -> None:
        enter, deliver, tickets = self.coalescer.enter, session.deliver, session.tickets
        for serial, request, agent, priority in arrivals:
            if serial in session.withdrawn_early:
                continue
            try:
                ticket = enter(
                    request,
                    partial(deliver, serial),
                    agent=agent or client,
                    priority=_PRIORITIES[priority],
                )
            except MaiaError as error:
                deliver(serial, error)
            except Exception as error:
                _log.exception("%s cannot take a request", self.backend.name)
                deliver(serial, BackendError(f"{self.backend.name} cannot take the request: {error!r}"))
            else:
                if ticket.work is not None:
                    tickets[serial] = ticket

    def _collect(self, session: _Session, missing: tuple[str, ...]) -> Reply:
        outcomes, session.mailbox = session.mailbox, []
        if not outcomes:
            return Reply(missing=missing)
        for _, outcome in outcomes:
            if isinstance(outcome, DeviceLostError):
                raise outcome
        try:
            parcel, images = pack(outcomes)
        except Exception:
            parcel, images = pack([(serial, _portable(outcome)) for serial, outcome in outcomes])
        return Reply(parcel, {id: image.pixels for id, image in images.items()}, missing)

    async def call(self, parcel: Parcel, pixels: Mapping[str, np.ndarray]) -> Reply:
        """Call one of the backend's control methods: the parcel holds (name, args, kwargs).

        Control methods are those that the backend lists in `controls`. The reply's parcel holds the result.

        Raises:
            UsageError: If the backend declares no such control method.
            MaiaError: What the method raises; other exceptions become a BackendError.
        """
        name, args, kwargs = unpack(parcel, images_from(pixels))
        result, images = pack(await call_control(self.backend, name, args, kwargs))
        return Reply(result, {id: image.pixels for id, image in images.items()})

    async def ping(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the backend and this process."""
        return {
            **self.backend.describe(),
            "pid": os.getpid(),
            "slots": self.backend.slots,
            "max_batch": self.backend.max_batch,
        }

    def statistics(self) -> dict[str, Any]:
        """Return the coalescer's statistics, and what is known of images and sessions, as plain values."""
        return {
            "id": self.id,
            **asdict(self.coalescer.statistics()),
            "mean_batch": self.coalescer.statistics().mean_batch,
            "sessions": len(self._sessions),
            "images": len(self._images),
            "image_bytes": self._images.n_bytes,
            "pixels_received": self._pixels_received,
        }

    async def close(self) -> None:
        """Fail what waits, let what runs finish, free the backend."""
        await self.coalescer.aclose()
        await self.backend.close()


async def call_control(
    backend: Backend[Any, Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return what the backend's control method `name` returns; see `Replica.call`."""
    controls: frozenset[str] = getattr(backend, "controls", frozenset())
    if name not in controls:
        known = ", ".join(sorted(controls)) or "none"
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


class ReplicaActor:
    """What Ray runs (`actors.serving.cluster` makes it an actor). All state is made here, so a restart is
    complete.

    A backend that cannot be built is reported by every call, typed, instead of an actor that dies. One whose
    device is lost does die, because this process will not get the device to work again: Ray starts the next.
    """

    def __init__(
        self,
        factory: str,
        kwargs: Parcel,
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
        self._failure: MaiaError | None = None
        try:
            self._replica = Replica(build(factory, unpack(kwargs, {})))
        except MaiaError as error:
            self._failure = error
        if "torch" in sys.modules:
            set_threads(threads)

    def _ready(self) -> Replica:
        if self._failure is not None:
            raise copy.copy(self._failure)
        return self._replica

    async def exchange(self, letter: Letter) -> Reply:
        return await self._answered(self._ready().exchange(letter))

    async def call(self, parcel: Parcel, pixels: dict[str, np.ndarray]) -> Reply:
        return await self._answered(self._ready().call(parcel, pixels))

    async def _answered(self, answer: Awaitable[Reply]) -> Reply:
        try:
            return await answer
        except DeviceLostError as error:
            if self._failure is None:
                _log.error("this process ends: %s", error)
                self._failure = error
                asyncio.get_running_loop().call_later(LAST_WORDS_S, os._exit, 1)
            raise

    async def ping(self) -> int:
        return await self._ready().ping()

    async def describe(self) -> dict[str, Any]:
        return self._ready().describe()

    async def statistics(self) -> dict[str, Any]:
        return self._ready().statistics()

    async def close(self) -> None:
        await self._ready().close()
