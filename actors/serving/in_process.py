"""Replicas in this process, for small runs: no Ray, and no second process that imports a model library."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np

from actors.errors import BackendError, DeviceLostError, UsageError
from actors.serving.replica import (
    BackendSource,
    ExchangeRequest,
    ExchangeResponse,
    ReplicaFacts,
    ReplicaService,
    ReplicaStatistics,
    build,
)
from actors.serving.transport import Payload
from actors.settings import Placement

_T = TypeVar("_T")
_one_at_a_time = threading.Lock()
"""Loaders change what belongs to the whole process, such as whether the hub is asked: one at a time."""
ONE_REPLICA = Placement(min_replicas=1, max_replicas=1)


class InProcessReplica:
    """A replica in this process, whose model is loaded in a thread. Implements `ReplicaHandle`.

    A lost device ends no process here: from then on every call reports it.
    """

    def __init__(self, source: BackendSource, threads: int | None) -> None:
        self._source, self._threads = source, threads
        self._building = asyncio.ensure_future(asyncio.to_thread(self._build))

    def _build(self) -> ReplicaService:
        from actors.runtime import worker_env

        # They count before torch is imported.
        os.environ.update(worker_env(self._threads) | dict(self._source.env))
        with _one_at_a_time:
            service = ReplicaService(
                lambda: build(self._source.factory, self._source.kwargs), end_process=lambda _: None
            )
        if self._threads is not None and "torch" in sys.modules:
            from actors.runtime import set_threads

            set_threads(self._threads)
        return service

    async def _ask(self, ask: Callable[[ReplicaService], Awaitable[_T]]) -> _T:
        try:
            return await ask(await asyncio.shield(self._building))
        except DeviceLostError as error:
            # No other process takes over, for which the pool would wait.
            raise BackendError(
                error.message, "Set `ray: {address: local}`: there, the next process goes on."
            ) from error

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse:
        return await self._ask(lambda service: service.exchange(request))

    async def call(self, payload: Payload, pixels: dict[str, np.ndarray]) -> ExchangeResponse:
        return await self._ask(lambda service: service.call(payload, pixels))

    async def ping(self) -> int:
        return await self._ask(ReplicaService.ping)

    async def describe(self) -> ReplicaFacts:
        return await self._ask(ReplicaService.describe)

    async def statistics(self) -> ReplicaStatistics:
        return await self._ask(ReplicaService.statistics)

    async def stop(self) -> None:
        """Free the backend, if it could be built and its device is there."""
        service = await asyncio.shield(self._building)
        if not service.failed:
            await service.close()


class InProcessLauncher:
    """Starts the one replica of a pool in this process. Implements `Launcher`."""

    def __init__(self, source: BackendSource, placement: Placement) -> None:
        self._source, self._threads = source, placement.threads
        if placement.min_replicas > 1:
            raise UsageError(
                f"`placement` asks for {placement.min_replicas} replicas, and in this process runs one.",
                "Leave min_replicas at 1, or set `ray: {address: local}`.",
            )

    def launch(self) -> InProcessReplica:
        return InProcessReplica(self._source, self._threads)
