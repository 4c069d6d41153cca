"""An actor without a node: the wait is reported with what is requested and what there is, and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from actors.cluster.placement import (
    Demand,
    Node,
    PlacementMonitor,
    RayState,
    infeasible,
    nodes_with_cpus,
    waiting_message,
)
from actors.cluster.settings import RaySettings
from actors.errors import UsageError
from actors.serving.cluster import Cluster, RayReplica
from actors.settings import Placement

NODES = [Node("a", {"CPU": 4, "GPU": 2}, {"CPU": 1, "GPU": 0.5}), Node("b", {"CPU": 8}, {"CPU": 8})]
ray_test = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SCRIPTED = "tests.actors.scripted:build"


def demand(together: dict[str, float] | None = None, **resources: float) -> Demand:
    return Demand("a replica of vision", resources, lambda: together or resources)


def test_the_waiting_message_shows_free_resources() -> None:
    asked = demand(GPU=1)
    assert infeasible(asked, NODES) == ""
    assert waiting_message(asked, NODES) == (
        "a replica of vision waits for a node with 1 GPU free. "
        "Free: a: 1 of 4 CPU, 0.5 of 2 GPU; b: 8 of 8 CPU."
    )


def test_a_demand_that_no_single_node_covers_is_infeasible() -> None:
    message = waiting_message(demand(CPU=5, GPU=1), NODES)
    assert "asks for 5 CPU and 1 GPU, and no node has that" in message
    assert "Nodes: a: 4 CPU, 2 GPU; b: 8 CPU, 0 GPU." in message


def test_models_that_fit_one_by_one_but_not_together_are_infeasible() -> None:
    assert "3 GPU together" in infeasible(demand({"GPU": 3, "CPU": 0}, GPU=1), NODES)
    assert infeasible(demand({"GPU": 2.0}, GPU=0.3), NODES) == ""


def test_many_nodes_make_a_short_line() -> None:
    many = [Node(f"n{i}", {"CPU": 1}, {}) for i in range(500)]
    assert waiting_message(demand(GPU=1), many).endswith("; and 492 more. Waiting for a node to be added.")
    assert "has no node" in waiting_message(demand(), [])


@pytest.mark.parametrize("share", [1.5, 2.25, float("inf")])
def test_a_share_of_several_gpus_is_refused_where_it_is_written(share: float) -> None:
    with pytest.raises(ValueError, match="whole number, or below 1"):
        Placement(num_gpus=share)
    assert Placement(num_gpus=0.25).num_gpus + Placement(num_gpus=2).num_gpus == 2.25


class ScriptedState(RayState):
    """A cluster whose actor waits for a node, with scripted nodes."""

    def __init__(self, nodes: Iterable[list[Node]] = ()) -> None:
        self.checks = iter(nodes)

    def restarts(self, actor: Any) -> int:
        return 0

    def is_pending(self, actor: Any) -> bool:
        return True

    def nodes(self) -> list[Node]:
        return next(self.checks)

    def may_add_nodes(self) -> bool:
        return False


async def test_the_timeout_starts_when_the_last_node_that_could_carry_the_actor_is_lost() -> None:
    """The wait for room on nodes that are there does not count."""
    state, clock = ScriptedState([NODES] * 9 + [NODES[1:]] * 5), iter(range(60, 10000, 60))
    monitor = PlacementMonitor(state, poll_s=0.001, clock=clock.__next__)
    never = asyncio.get_running_loop().create_future()
    with pytest.raises(UsageError, match="no node has that"):
        await monitor.answer(never, None, Demand("a replica of vision", {"GPU": 1.0}, timeout_s=200))
    assert next(state.checks, None) is None, "four minutes from its loss"


class HeadAway(ScriptedState):
    """Raises as where the head of the cluster is away; the third call is followed by the actor's answer."""

    def __init__(self, answer: asyncio.Future[dict[str, int]]) -> None:
        super().__init__()
        self.calls, self._answer = 0, answer

    def restarts(self, actor: Any) -> int:
        self.calls += 1
        if self.calls == 3:
            self._answer.get_loop().call_soon_threadsafe(self._answer.set_result, {"slots": 1})
        raise ConnectionError("the head is away")


async def test_an_actor_is_not_at_fault_when_ray_does_not_answer() -> None:
    answer = asyncio.get_running_loop().create_future()
    state = HeadAway(answer)

    async def describe() -> Any:
        return await answer

    actor = SimpleNamespace(describe=SimpleNamespace(remote=describe))
    replica = RayReplica(actor, demand(), PlacementMonitor(state, poll_s=0.001))
    assert await replica.describe() == {"slots": 1}
    assert state.calls >= 4, "while it was waited for, and once it had answered"
    assert replica._restarts is None, "so that failures which are not known do not count"


class FixedSize(RayState):
    def may_add_nodes(self) -> bool:
        return False


class TestOnRay:
    pytestmark = ray_test

    @pytest.fixture
    def monitor(self) -> PlacementMonitor:
        return PlacementMonitor(FixedSize(), poll_s=0.1)

    async def test_a_model_that_no_node_can_carry_ends_in_an_error_with_what_there_is(
        self, monitor: PlacementMonitor
    ) -> None:
        async with Cluster.start(monitor=monitor) as cluster:
            pool = cluster.pool("big", SCRIPTED, {"gated": False}, Placement(num_gpus=3))
            with pytest.raises(UsageError, match=r"big asks for 3 GPU, and no node has that. Nodes: .*2 CPU"):
                await pool.describe()

    async def test_a_model_waits_for_a_node_of_a_cluster_that_others_add_to(
        self, monitor: PlacementMonitor, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        settings = RaySettings(address="192.0.2.9:6379", placement_timeout_s=1.0)
        async with Cluster.start(settings, monitor) as cluster:
            pool = cluster.pool("big", SCRIPTED, {"gated": False}, Placement(num_cpus=3))
            with pytest.raises(UsageError, match="no node has that"):
                await pool.describe()
        assert caplog.text.count("Waiting for a node to be added") == 1

    async def test_models_that_do_not_fit_together_end_the_wait_and_others_get_the_place(
        self, monitor: PlacementMonitor
    ) -> None:
        async with Cluster.start(monitor=monitor) as cluster:
            first = cluster.pool("first", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            await first.describe()
            second = cluster.pool("second", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            with pytest.raises(UsageError, match="4 CPU together"):
                await second.describe()
            await first.aclose()
            third = cluster.pool("third", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            assert (await third.describe()).slots

    async def test_a_place_that_another_program_holds_is_waited_for(
        self, monitor: PlacementMonitor, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Cluster.start(monitor=monitor) as others, Cluster.start(monitor=monitor) as cluster:
            held = others.pool("held", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            await held.describe()
            pool = cluster.pool("later", SCRIPTED, {"gated": False}, Placement(num_cpus=1))
            waits = asyncio.ensure_future(pool.describe())
            while "later waits for a node with 1 CPU free. Free: " not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await held.aclose()
            assert (await waits).slots

    @pytest.mark.slow
    async def test_a_model_that_dies_whenever_it_is_loaded_is_given_up(
        self, monitor: PlacementMonitor
    ) -> None:
        async with Cluster.start(monitor=monitor) as cluster:
            pool: Any = cluster.pool("mortal", "os:_exit", {"status": 9})
            with pytest.raises(UsageError, match=r"mortal died [0-9]+ times in a row before it was ready"):
                await pool.describe()


def test_actors_that_request_nothing_go_to_nodes_that_offer_cpus() -> None:
    def node(name: str, cpus: float, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {"memory": 9.0}}

    nodes = [node("d", 4), node("head", 0), node("a", 1), node("gone", 8, alive=False)]
    assert nodes_with_cpus(nodes) == ["a", "d"]
    assert nodes_with_cpus([node("head", 0)]) == ["head"]
