"""Waits until an actor has a place on a node of the cluster, and reports what it waits for.

Ray lets an actor that no node has room for wait for ever, without a message. Here the wait is logged, with
what is requested and what the nodes have; and it ends where no node could ever carry the actor (Ray:
infeasible) and nothing adds nodes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from actors.cluster import ray_internals
from actors.cluster.connection import log_folder
from actors.errors import UsageError

T = TypeVar("T")

_log = logging.getLogger(__name__)

POLL_S = 5.0
"""Pause between two checks of an actor that does not answer yet."""
MAX_START_FAILURES = 5
"""Failures in a row to start after which the fault is the actor's, not the cluster's."""
LOG_INTERVAL_S = 60.0
"""Pause between two lines about the same wait."""
_NODES_SHOWN = 8
_KINDS = ("CPU", "GPU")


@dataclass(frozen=True)
class Demand:
    """The resources that one actor requests."""

    name: str
    """Names the actor in messages, such as "a replica of vision"."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """By Ray's names: CPU, GPU."""
    together: Callable[[], Mapping[str, float]] = dict
    """Returns what all actors of this program that must be there request together."""
    timeout_s: float = 0.0
    """How long to wait for a node that could carry the actor, where nothing adds nodes by itself."""


@dataclass(frozen=True)
class Node:
    """A node's resources, by Ray's names: all, and those that are free."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]


class ClusterState(Protocol):
    """The state of a cluster. The methods block, and raise any exception while its head is away."""

    def restarts(self, actor: Any) -> int:
        """Return how often the actor was started again."""

    def is_pending(self, actor: Any) -> bool:
        """Return whether the actor has no node."""

    def nodes(self) -> list[Node]: ...

    def may_add_nodes(self) -> bool: ...


class RayState:
    """The cluster that this process is connected to. Implements `ClusterState`."""

    def restarts(self, actor: Any) -> int:
        record = ray_internals.actor_record(actor)
        return record.restarts if record else 0

    def is_pending(self, actor: Any) -> bool:
        record = ray_internals.actor_record(actor)
        return record is not None and record.pending

    def nodes(self) -> list[Node]:
        import ray

        free = ray_internals.free_resources()
        return [
            Node(
                node["NodeManagerHostname"] or node["NodeName"],
                node["Resources"],
                free.get(node["NodeID"], {}),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def may_add_nodes(self) -> bool:
        return ray_internals.may_add_nodes()


@dataclass(frozen=True)
class _Status:
    """The state of an actor that does not answer yet. `infeasible` is why no node can carry it, or ""."""

    failures: int = 0
    pending: bool = False
    nodes: Sequence[Node] = ()
    infeasible: str = ""
    may_add_nodes: bool = False


class PlacementMonitor:
    """Waits for the answers of actors, and logs or ends waits for a node."""

    def __init__(
        self,
        cluster: ClusterState | None = None,
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster or RayState()
        self._poll_s, self._clock = poll_s, clock

    async def answer(
        self, answer: Awaitable[T], actor: Any, demand: Demand, restarts: int | None = None
    ) -> T:
        """Return what an actor answers; while it has no node, log so.

        `restarts` is how often it had been started again when it last worked; without it, failures to start
        do not count.

        Raises:
            UsageError: If no node could ever carry it, and none that could has come for `demand.timeout_s`;
                or if it fails whenever it is started.
        """
        asking = asyncio.ensure_future(answer)
        wait = _Wait(demand, self._clock)
        try:
            while not (await asyncio.wait([asking], timeout=self._poll_s))[0]:
                try:
                    status = await asyncio.to_thread(self._status, actor, demand, restarts)
                except Exception:
                    # The head may be away for a moment, which is no failure of the actor.
                    _log.debug("Ray did not report the state of %s", demand.name, exc_info=True)
                else:
                    wait.check(status)
            return asking.result()
        finally:
            asking.cancel()

    def _status(self, actor: Any, demand: Demand, restarts: int | None) -> _Status:
        failures = 0 if restarts is None else self.cluster.restarts(actor) - restarts
        if not self.cluster.is_pending(actor):
            return _Status(failures)
        nodes = self.cluster.nodes()
        reason = infeasible(demand, nodes)
        return _Status(failures, True, nodes, reason, bool(reason) and self.cluster.may_add_nodes())


class _Wait:
    """One wait for a node: since when, and when it was last logged."""

    def __init__(self, demand: Demand, clock: Callable[[], float]) -> None:
        self._demand, self._clock = demand, clock
        self._since: float | None = None
        self._infeasible_since: float | None = None
        self._logged: float | None = None

    def check(self, status: _Status) -> None:
        """Log the wait if it is time to; raise UsageError if it cannot end."""
        demand = self._demand
        if status.failures >= MAX_START_FAILURES:
            raise UsageError(
                f"{demand.name} died {status.failures} times in a row before it was ready.",
                f"It may need more memory than its node has: Ray's logs there ({log_folder()}) say more.",
            )
        if not status.pending:
            self._since = self._infeasible_since = self._logged = None
            return
        now = self._clock()
        self._since = self._since or now
        self._infeasible_since = (self._infeasible_since or now) if status.infeasible else None
        lasted = 0.0 if self._infeasible_since is None else now - self._infeasible_since
        if status.infeasible and lasted >= demand.timeout_s and not status.may_add_nodes:
            raise UsageError(
                f"{status.infeasible} {_format_nodes(status.nodes, 'total')}",
                "Ask for less (`placement` of the model in the configuration), or add nodes; nothing here "
                "adds any by itself.",
            )
        # A process takes its time to start, too.
        starting = any(_covers(node.free, demand.resources) for node in status.nodes)
        if now - (self._logged or self._since) >= LOG_INTERVAL_S or (self._logged is None and not starting):
            self._logged = now
            _log.warning("%s", waiting_message(demand, status.nodes))


def infeasible(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return why these nodes can never carry the actor, whatever others give back; "" if they could."""
    if not any(_covers(node.total, demand.resources) for node in nodes):
        return f"{demand.name} asks for {_format_resources(demand.resources)}, and no node has that."
    whole = {kind: sum(node.total.get(kind, 0) for node in nodes) for kind in _KINDS}
    together = demand.together()
    if not _covers(whole, together):
        return f"the models of this run ask for {_format_resources(together)} together, and there is less."
    return ""


def waiting_message(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return one line about what the actor waits for."""
    reason = infeasible(demand, nodes)
    if reason:
        return f"{reason} {_format_nodes(nodes, 'total')} Waiting for a node to be added."
    asked = f" with {_format_resources(demand.resources)} free" if any(demand.resources.values()) else ""
    return f"{demand.name} waits for a node{asked}. {_format_nodes(nodes, 'free')}"


def worker_nodes() -> list[str]:
    """Return the ids of the nodes that may carry actors which request nothing; see `nodes_with_cpus`."""
    import ray

    return nodes_with_cpus(ray.nodes())


def nodes_with_cpus(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of the live nodes that offer CPUs, sorted; of all live nodes if none does.

    A head or a command's own node that was started with no CPUs is not meant to work. `records` are those of
    `ray.nodes()`.
    """
    alive = sorted((node["NodeID"], node["Resources"].get("CPU", 0)) for node in records if node["Alive"])
    return [node for node, cpus in alive if cpus] or [node for node, _ in alive]


def _covers(has: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    # Ray counts in ten-thousandths.
    return all(has.get(kind, 0) >= amount - 1e-4 for kind, amount in asked.items())


def _format_resources(resources: Mapping[str, float]) -> str:
    asked = [f"{amount:g} {kind}" for kind, amount in resources.items() if amount]
    return " and ".join(asked) or "no resources"


def _format_nodes(nodes: Sequence[Node], which: str) -> str:
    """Return one sentence about what the nodes have."""
    if not nodes:
        return "The cluster has no node."
    shown = []
    for node in nodes[:_NODES_SHOWN]:
        parts = []
        for kind in _KINDS:
            total = node.total.get(kind, 0)
            if which == "total":
                parts.append(f"{total:g} {kind}")
            elif total:
                parts.append(f"{node.free.get(kind, 0):g} of {total:g} {kind}")
        shown.append(f"{node.name}: {', '.join(parts) or 'none'}")
    more = f"; and {len(nodes) - _NODES_SHOWN} more" if len(nodes) > _NODES_SHOWN else ""
    return f"{'Nodes' if which == 'total' else 'Free'}: {'; '.join(shown)}{more}."
