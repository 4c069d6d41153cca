"""The handle of a shared model, in this or other processes: `Pool`. `LocalPool` is one around a backend in
this process.

`actors.serving.replica_pool` has the one whose model runs in other processes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Generic, Self

from actors.errors import MaiaError
from actors.serving.backend import Backend, Priority, RequestT, ResultT
from actors.serving.coalescer import Coalescer
from actors.serving.replica import ReplicaFacts, ReplicaStatistics, call_control, facts_of

MAP_WINDOW = 256
"""Requests of one `map` that are outstanding at a time, so that one caller cannot fill the pool."""


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


class Pool(ABC, Generic[RequestT, ResultT]):
    """One shared model, local or not, as its callers use it. Use it with `async with`."""

    name: str

    @abstractmethod
    async def submit(
        self, request: RequestT, *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> ResultT:
        """Return the result of `request`, or raise its typed failure."""

    @abstractmethod
    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what control method `name` of the backend returns."""

    @abstractmethod
    async def describe(self) -> ReplicaFacts:
        """Return the facts of one replica."""

    @abstractmethod
    def statistics(self) -> PoolStatistics: ...

    @abstractmethod
    async def replica_statistics(self) -> list[ReplicaStatistics]:
        """Return the statistics of every replica that is ready."""

    @abstractmethod
    async def aclose(self) -> None:
        """Fail what is unanswered with ClosedError and free the model."""

    async def map(
        self, requests: Iterable[RequestT], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[ResultT]:
        """Return one result per request, in order; the first failure cancels the rest and is raised.

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

    async def outcomes(
        self, requests: Iterable[RequestT], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[ResultT | MaiaError]:
        """Return one result or typed failure per request, in order."""

        async def outcome(request: RequestT) -> ResultT | MaiaError:
            try:
                return await self.submit(request, agent=agent, priority=priority)
            except MaiaError as error:
                return error

        return list(await asyncio.gather(*map(outcome, requests)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


class LocalPool(Pool[RequestT, ResultT]):
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

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the backend's control method `name` returns."""
        return await call_control(self.backend, name, args, kwargs)

    async def describe(self) -> ReplicaFacts:
        return facts_of(self.backend)

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

    async def replica_statistics(self) -> list[ReplicaStatistics]:
        return [ReplicaStatistics(**asdict(self.coalescer.statistics()))]

    async def aclose(self) -> None:
        await self.coalescer.aclose()
        await self.backend.close()
