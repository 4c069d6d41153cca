"""Pools of replicas on Ray: `Cluster` makes them, or finds those of another process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from actors.cluster.connection import connect, disconnect
from actors.cluster.placement import Demand, PlacementMonitor
from actors.cluster.settings import RaySettings
from actors.errors import MaiaError, ReplicaLostError, UsageError
from actors.serving.in_process import ONE_REPLICA, InProcessLauncher
from actors.serving.replica import (
    BackendSource,
    ExchangeRequest,
    ExchangeResponse,
    ReplicaActor,
    ReplicaFacts,
    ReplicaStatistics,
)
from actors.serving.replica_pool import Launcher, PoolOptions, ReplicaPool
from actors.serving.transport import Payload, pack
from actors.settings import Placement

STOP_TIMEOUT_S = 5.0
MAX_CONCURRENCY = 65536
"""Calls one replica may hold: each client process holds one open. (Ray's default is 1000.)"""


class RayReplica:
    """A replica in a Ray actor."""

    def __init__(
        self, actor: Any, demand: Demand | None = None, monitor: PlacementMonitor | None = None
    ) -> None:
        """`demand` is what it needs of a node; only its owner has one and checks it."""
        self._actor, self._demand = actor, demand
        self._monitor = monitor or PlacementMonitor()
        self._restarts: int | None = 0
        """How often it had been started again when it was last ready; None where Ray did not answer."""

    async def _ask(self, method: Any, *args: Any) -> Any:
        from ray import exceptions

        try:
            return await method.remote(*args)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, MaiaError):
                raise error.cause from None
            raise
        except exceptions.ActorDiedError as error:
            raise ReplicaLostError(f"the actor died: {what_ray_says(error)}", gone=True) from None
        except exceptions.RayError as error:
            raise ReplicaLostError(f"the actor is unavailable: {what_ray_says(error)}") from None

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse:
        response: ExchangeResponse = await self._ask(self._actor.exchange, request)
        return response

    async def call(self, payload: Payload, pixels: dict[str, np.ndarray]) -> ExchangeResponse:
        response: ExchangeResponse = await self._ask(self._actor.call, payload, pixels)
        return response

    async def ping(self) -> int:
        pid: int = await self._ask(self._actor.ping)
        return pid

    async def describe(self) -> ReplicaFacts:
        """Return when the replica is there.

        Raises:
            UsageError: To its owner, if no node can ever carry it, or it dies whenever it starts.
        """
        facts: ReplicaFacts
        asking = self._ask(self._actor.describe)
        if self._demand is None:
            facts = await asking
            return facts
        facts = await self._monitor.answer(asking, self._actor, self._demand, self._restarts)
        try:
            self._restarts = await asyncio.to_thread(self._monitor.cluster.restarts, self._actor)
        except Exception:  # the head may be away for a moment, and the replica works
            self._restarts = None
        return facts

    async def statistics(self) -> ReplicaStatistics:
        counts: ReplicaStatistics = await self._ask(self._actor.statistics)
        return counts

    async def stop(self) -> None:
        """Close the backend, then end the actor's process, also if it does not answer."""
        import ray

        with contextlib.suppress(MaiaError, TimeoutError):
            await asyncio.wait_for(self._ask(self._actor.close), STOP_TIMEOUT_S)
        ray.kill(self._actor)


def what_ray_says(error: Exception) -> str:
    """Return Ray's reason in one line; of an actor that could not be built, the error in its constructor."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    return f"it could not be built: {lines[-1].strip()}" if "creation task" in lines[0] else lines[0]


class SharedReplica(RayReplica):
    """A replica that another process started, and ends."""

    async def stop(self) -> None:
        return None


class RayLauncher:
    """Starts replicas of one pool as Ray actors, named after the pool's address."""

    def __init__(
        self,
        address: str,
        source: BackendSource,
        placement: Placement,
        demand: Demand,
        monitor: PlacementMonitor,
    ) -> None:
        self._address, self._source, self._placement = address, source, placement
        self._demand, self._monitor = demand, monitor
        self._kwargs, images = pack(dict(source.kwargs))
        if images:
            raise UsageError(f"{source.factory}: a factory's arguments cannot hold images.")
        self._numbers = itertools.count()
        self._folder = Path.cwd()

    def launch(self) -> RayReplica:
        import ray

        actor = (
            ray.remote(ReplicaActor)
            .options(
                name=f"{self._address}/{next(self._numbers)}",
                num_cpus=self._placement.num_cpus,
                num_gpus=self._placement.num_gpus,
                # A restart repeats __init__ alone; which calls are repeated is the pool's to say.
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=MAX_CONCURRENCY,
            )
            .remote(
                self._source.factory,
                self._kwargs,
                dict(self._source.env),
                self._placement.threads,
                self._folder,
            )
        )
        return RayReplica(actor, self._demand, self._monitor)


class SharedLauncher:
    """Finds replicas that a pool of another process starts and stops; see `SharedReplicas`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._given: Counter[str] = Counter()

    def names(self) -> list[str]:
        """Return the names of the pool's replicas.

        Raises:
            UsageError: If there is none.
        """
        import ray

        names = [name for name in ray.util.list_named_actors() if name.startswith(f"{self._address}/")]
        if not names:
            raise UsageError(f"no pool has the address {self._address!r}.", "Keep the pool's owner running.")
        return sorted(names)

    def launch(self) -> SharedReplica:
        return self._give(min(self.names(), key=lambda name: self._given[name]))

    def fresh(self) -> list[SharedReplica]:
        return [self._give(name) for name in self.names() if not self._given[name]]

    def _give(self, name: str) -> SharedReplica:
        import ray

        try:
            actor = ray.get_actor(name)
        except ValueError as error:
            raise ReplicaLostError(f"{name} ended while it was looked up: {error}", gone=True) from None
        self._given[name] += 1
        return SharedReplica(actor)


def _resources(placement: Placement) -> dict[str, float]:
    return {"CPU": placement.num_cpus, "GPU": placement.num_gpus}


class Cluster:
    """Ray as this process sees it. Made by `Cluster.start`."""

    def __init__(self, settings: RaySettings, monitor: PlacementMonitor | None = None) -> None:
        self.settings = settings
        self._monitor = monitor or PlacementMonitor()
        self._pools: list[ReplicaPool[Any, Any]] = []
        self._placements: list[tuple[ReplicaPool[Any, Any], Placement]] = []
        """Of the pools whose replicas are ours to start."""

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, settings: RaySettings | None = None, monitor: PlacementMonitor | None = None
    ) -> AsyncIterator[Self]:
        """Start or join Ray, if it is wanted; at the end close the pools and leave. An existing connection is
        used and kept.

        Raises:
            UsageError: If Ray does not start or the cluster cannot be joined.
        """
        settings = settings or RaySettings()
        ours = connect(settings)
        cluster = cls(settings, monitor)
        try:
            yield cluster
        finally:
            try:
                await asyncio.gather(*(pool.aclose() for pool in cluster._pools))
            finally:
                if ours:
                    disconnect()

    def pool(
        self,
        name: str,
        factory: str,
        kwargs: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
        env: Mapping[str, str] | None = None,
        options: PoolOptions | None = None,
    ) -> ReplicaPool[Any, Any]:
        """Return a pool, started, of the backend that `factory` ("package.module:callable") builds.

        `kwargs` are the factory's arguments and must pickle. `env` is set in the replicas before the factory
        is imported: the only way for a secret to reach them.
        """
        placement = placement or Placement()
        source = BackendSource(factory, kwargs or {}, env or {})
        address = f"{name}-{uuid.uuid4().hex[:12]}"
        launcher: Launcher
        if self.settings.in_process:
            launcher, placement = InProcessLauncher(source, placement), ONE_REPLICA
        else:
            demand = Demand(
                f"a replica of {name}",
                _resources(placement),
                self._requested_together,
                # Nothing adds nodes to a private cluster.
                0.0 if self.settings.address == "local" else self.settings.placement_timeout_s,
            )
            launcher = RayLauncher(address, source, placement, demand, self._monitor)
        pool: ReplicaPool[Any, Any] = ReplicaPool(name, launcher, placement, address=address, options=options)
        self._placements.append((pool, placement))
        return self._started(pool)

    def _requested_together(self) -> dict[str, float]:
        """Return the resources of all replicas that must be there."""
        total = {"CPU": 0.0, "GPU": 0.0}
        for pool, placement in self._placements:
            if not pool.ended:
                for kind, amount in _resources(placement).items():
                    total[kind] += placement.min_replicas * amount
        return total

    def attach(self, address: str, options: PoolOptions | None = None) -> ReplicaPool[Any, Any]:
        """Return a handle in this process on the replicas of another process's pool, also those it adds
        later.

        `address` is that pool's. The replicas stay when this handle is closed. For hosts, each of which
        carries many agents: `Cluster.start()` in a Ray actor uses the actor's own connection.

        Raises:
            UsageError: If no replica has this address.
        """
        launcher = SharedLauncher(address)
        n = len(launcher.names())
        placement = Placement(min_replicas=n, max_replicas=n)
        name = address.rpartition("-")[0]
        return self._started(ReplicaPool(name, launcher, placement, address=address, options=options))

    def _started(self, pool: ReplicaPool[Any, Any]) -> ReplicaPool[Any, Any]:
        pool.start()
        self._pools.append(pool)
        return pool
