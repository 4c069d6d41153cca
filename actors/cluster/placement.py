"""Whether an actor finds a place on the nodes of a cluster, told to whoever waits for it.

Ray lets an actor that no node has room for wait for ever, without a word. Here the wait is told, with what is
asked and what the nodes have; and it ends where no node could ever carry the actor and nothing adds nodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from actors.cluster.connection import log_folder
from actors.errors import UsageError

T = TypeVar("T")

_log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Pause between two looks at an actor that does not answer yet."""
DEATHS = 5
"""Deaths in a row without an answer in between that convict an actor rather than the world."""
TELL_S = 60.0
"""Pause between two lines about the same wait."""
_NODES_SHOWN = 8
_KINDS = ("CPU", "GPU")


@dataclass(frozen=True)
class Demand:
    """What one actor asks of the node that is to carry it."""

    who: str
    """Named in what is told, such as "a replica of vision"."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """By Ray's names: CPU, GPU."""
    together: Callable[[], Mapping[str, float]] = dict
    """Returns what all actors of this program that must be there ask for together."""
    patience_s: float = 0.0
    """How long a node that could carry the actor may take to come, where nothing adds nodes by itself."""


@dataclass(frozen=True)
class Node:
    """A node's resources, by Ray's names: all, and those that nobody holds."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]


async def answered(answer: Awaitable[T], actor: Any, demand: Demand, begun: int | None = None) -> T:
    """Return what an actor answers; while it has no place on any node, say so.

    `begun` is how often it had been started again (`restarts`) when it last worked; without it, its deaths do
    not count.

    Raises:
        UsageError: If no node could ever carry it, and none that could has come for `demand.patience_s`; or
            if it dies whenever it is started.
    """
    asking = asyncio.ensure_future(answer)
    since = impossible_since = told = None
    try:
        while not (await asyncio.wait([asking], timeout=LOOK_S))[0]:
            try:
                deaths = 0 if begun is None else await asyncio.to_thread(restarts, actor) - begun
                unplaced = await asyncio.to_thread(waits_for_a_place, actor)
                nodes = await asyncio.to_thread(_nodes) if unplaced else []
                never = impossible(demand, nodes) if unplaced else ""
                more = bool(never) and await asyncio.to_thread(grows)
            except Exception:
                # The head may be away for a moment: that says nothing about the actor.
                _log.debug("Ray did not say how %s stands", demand.who, exc_info=True)
                continue
            if deaths >= DEATHS:
                raise UsageError(
                    f"{demand.who} died {deaths} times in a row before it was ready.",
                    f"It may need more memory than its node has: Ray's logs there ({log_folder()}) say more.",
                )
            if not unplaced:
                since = impossible_since = told = None
                continue
            now = time.monotonic()
            since = since or now
            impossible_since = (impossible_since or now) if never else None
            lasted = 0.0 if impossible_since is None else now - impossible_since
            if never and lasted >= demand.patience_s and not more:
                raise UsageError(
                    f"{never} {_shown(nodes, 'total')}",
                    "Ask for less (`placement` of the model in the configuration), or add nodes; nothing here adds any "
                    "by itself.",
                )
            # A process takes its time to start, too.
            begins = any(_covers(node.free, demand.resources) for node in nodes)
            if now - (told or since) >= TELL_S or (told is None and not begins):
                told = now
                _log.warning("%s", waiting(demand, nodes))
        return asking.result()
    finally:
        asking.cancel()


def impossible(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return why these nodes can never carry the actor, whatever others give back; "" if they could."""
    if not any(_covers(node.total, demand.resources) for node in nodes):
        return f"{demand.who} asks for {_told(demand.resources)}, and no node has that."
    whole = {kind: sum(node.total.get(kind, 0) for node in nodes) for kind in _KINDS}
    together = demand.together()
    if not _covers(whole, together):
        return f"the models of this run ask for {_told(together)} together, and there is less."
    return ""


def waiting(demand: Demand, nodes: Sequence[Node]) -> str:
    """Return one line about what the actor waits for."""
    reason = impossible(demand, nodes)
    if reason:
        return f"{reason} {_shown(nodes, 'total')} Waiting for a node to be added."
    asked = f" with {_told(demand.resources)} free" if any(demand.resources.values()) else ""
    return f"{demand.who} waits for a node{asked}. {_shown(nodes, 'free')}"


def carriers() -> list[str]:
    """Return the ids of the nodes that may carry what asks for nothing: those that offer CPUs, all if none
    does.

    A head or a command's own node that was started with no CPUs is not meant to work.
    """
    import ray

    alive = sorted((node["NodeID"], node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return [node for node, cpus in alive if cpus] or [node for node, _ in alive]


def restarts(actor: Any) -> int:
    """Return how often Ray has started the actor again."""
    from ray._private import state

    return int(state.actors(actor._actor_id.hex()).get("NumRestarts", 0))


def grows() -> bool:
    """Return whether something may add nodes to the cluster that this process is connected to.

    Every head runs Ray's monitor. Where it only reads, it names the type of a node after the node; an
    autoscaler names the types that it was configured with. Where neither is on record, nodes may be added as
    well.
    """
    from ray.experimental import internal_kv

    if internal_kv._internal_kv_get(b"__autoscaler_v2_enabled") == b"1":
        return True
    status = internal_kv._internal_kv_get(b"__autoscaling_status")
    if not status:
        return True
    types = (json.loads(status).get("autoscaler_report") or {}).get("node_type_mapping") or {}
    return any(kind != f"node_{node}" for node, kind in types.items())


def waits_for_a_place(actor: Any) -> bool:
    """Return whether Ray has not found, or found again, a node for the actor."""
    from ray._private import state

    found = state.actors(actor._actor_id.hex())
    if not found:  # not on record yet
        return False
    return not found["Address"]["Port"] and found["State"] in ("PENDING_CREATION", "RESTARTING")


def _nodes() -> list[Node]:
    import ray
    from ray._private import state

    free = state.available_resources_per_node()
    return [
        Node(node["NodeManagerHostname"] or node["NodeName"], node["Resources"], free.get(node["NodeID"], {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _covers(has: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    # Ray counts in ten-thousandths.
    return all(has.get(kind, 0) >= amount - 1e-4 for kind, amount in asked.items())


def _told(resources: Mapping[str, float]) -> str:
    asked = [f"{amount:g} {kind}" for kind, amount in resources.items() if amount]
    return " and ".join(asked) or "no resources"


def _shown(nodes: Sequence[Node], which: str) -> str:
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
