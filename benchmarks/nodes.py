"""Nodes: as many replicas and hosts as there are nodes, every host asking all replicas, on 1 to 4 nodes.

The nodes are Ray's own on this one machine, and the devices are simulated (they sleep), so what is measured
is whether anything between hosts and replicas stands in the way of one another. A real cluster adds a
network.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from actors.cluster.connection import prepare_authentication
from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from actors.settings import Placement
from benchmarks.harness import Context, Curve, Metric, Result, Table
from benchmarks.simulated import rush

ID = "B16"
TITLE = "nodes: weak scaling over 1 to 4 nodes, simulated device t(b) = 20 + 2 b ms, at most 32 a batch"

DEVICE = {"base_ms": 20.0, "item_ms": 2.0, "max_batch": 32}
CALLERS = 128
"""Agents that ask again at once, on each node."""
CEILING = 32 / (0.020 + 0.002 * 32)


class Host:
    """The caller on one node. Made an actor."""

    async def ask(self, address: str, seconds: float) -> float:
        """Return the answers a second."""
        async with Cluster.start() as cluster:
            pool = cluster.attach(address)
            found = await rush(pool.submit, CALLERS, seconds)
            return found.rate


async def _rate(n_nodes: int, seconds: float) -> float:
    import ray
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    nodes = Nodes(initialize_head=True, head_node_args=node)
    try:
        for _ in range(n_nodes - 1):
            nodes.add_node(**node)
        nodes.wait_for_nodes()
        settings = RaySettings(address=nodes.address, ship_code=False)
        async with Cluster.start(settings) as cluster:
            # One core a node: each takes exactly one replica.
            placement = Placement(min_replicas=n_nodes, max_replicas=n_nodes, num_cpus=1)
            pool = cluster.pool("device", "benchmarks.simulated:build", DEVICE, placement)
            while pool.statistics().ready < n_nodes:  # noqa: ASYNC110 (the pool reports one, not all)
                await asyncio.sleep(0.1)
            hosts: list[Any] = [
                ray.remote(Host).options(num_cpus=0, scheduling_strategy="SPREAD").remote()
                for _ in range(n_nodes)
            ]
            await asyncio.gather(*(host.ask.remote(pool.address, 1.0) for host in hosts))
            rates = await asyncio.gather(*(host.ask.remote(pool.address, seconds) for host in hosts))
            return sum(rates)
    finally:
        nodes.shutdown()


def run(context: Context) -> Result:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    prepare_authentication()
    seconds = 4.0 if context.quick else 10.0
    sizes = (1, 4) if context.quick else (1, 2, 3, 4)
    rates = {n: asyncio.run(_rate(n, seconds)) for n in sizes}
    # Every caller compares its answer with what it asked: a wrong one ends the benchmark.
    context.check("every answer is its own caller's", True)
    return Result(
        [
            Metric(
                f"answers a second on {n} nodes ÷ {n} times those on one",
                rates[n] / (n * rates[1]),
                "",
                ">= 0.95" if n == 4 else "",
                "Bounded by the two cores that all nodes share.",
            )
            for n in sizes[1:]
        ],
        [
            Table(
                "Answers a second",
                ("nodes", "answers/s", "÷ ceiling of the devices"),
                tuple((n, rate, rate / (n * CEILING)) for n, rate in rates.items()),
            )
        ],
        [
            Curve(
                "Answers a second by nodes",
                "nodes",
                "answers a second",
                {
                    "measured": list(rates.items()),
                    "devices' ceiling": [(n, n * CEILING) for n in rates],
                },
                "devices' ceiling",
                log_x=False,
                log_y=False,
            )
        ],
    )
