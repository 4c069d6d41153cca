"""An actor without a place: who waits is told what is asked and what there is, and does not wait for ever."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from actors.cluster import placement as placing
from actors.cluster.placement import Demand, Node, impossible, waiting
from actors.cluster.settings import RaySettings
from actors.errors import UsageError
from actors.serving import cluster
from actors.serving.cluster import Cluster, RayReplica
from actors.settings import Placement

NODES = [
    Node("a", {"CPU": 4, "GPU": 2}, {"CPU": 1, "GPU": 0.5}),
    Node("b", {"CPU": 8}, {"CPU": 8}),
]
ray_test = [pytest.mark.ray, pytest.mark.anyio, pytest.mark.usefixtures("ray_cluster")]
SCRIPTED = "tests.actors.scripted:build"


def demand(together: dict[str, float] | None = None, **resources: float) -> Demand:
    return Demand("a replica of vision", resources, lambda: together or resources)


def test_what_a_node_could_carry_is_waited_for_with_what_is_free() -> None:
    asked = demand(GPU=1)
    assert impossible(asked, NODES) == ""
    assert waiting(asked, NODES) == (
        "a replica of vision waits for a node with 1 GPU free. "
        "Free: a: 1 of 4 CPU, 0.5 of 2 GPU; b: 8 of 8 CPU."
    )


def test_what_only_two_nodes_together_have_is_impossible() -> None:
    told = waiting(demand(CPU=5, GPU=1), NODES)
    assert "asks for 5 CPU and 1 GPU, and no node has that" in told
    assert "Nodes: a: 4 CPU, 2 GPU; b: 8 CPU, 0 GPU." in told


def test_models_that_fit_one_by_one_but_not_together_are_impossible() -> None:
    assert "3 GPU together" in impossible(demand({"GPU": 3, "CPU": 0}, GPU=1), NODES)
    assert impossible(demand({"GPU": 2.0}, GPU=0.3), NODES) == ""


def test_many_nodes_make_a_short_line() -> None:
    many = [Node(f"n{i}", {"CPU": 1}, {}) for i in range(500)]
    assert waiting(demand(GPU=1), many).endswith("; and 492 more. Waiting for a node to be added.")
    assert "has no node" in waiting(demand(), [])


@pytest.mark.parametrize("share", [1.5, 2.25, float("inf")])
def test_a_share_of_several_gpus_is_refused_where_it_is_written(share: float) -> None:
    with pytest.raises(ValueError, match="whole number, or below 1"):
        Placement(num_gpus=share)
    assert Placement(num_gpus=0.25).num_gpus + Placement(num_gpus=2).num_gpus == 2.25


@pytest.mark.parametrize(
    ("kinds", "v2", "grown"),
    [
        ({"ab12": "node_ab12"}, b"0", False),
        ({"ab12": "head", "cd34": "gpu"}, b"0", True),
        ({"ab12": "node_ab12"}, b"1", True),
        (None, b"", True),
    ],
)
def test_a_cluster_grows_where_its_nodes_have_types_of_an_autoscaler(
    kinds: dict[str, str] | None, v2: bytes, grown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.experimental import internal_kv

    status = (
        None if kinds is None else json.dumps({"autoscaler_report": {"node_type_mapping": kinds}}).encode()
    )
    kept = {b"__autoscaling_status": status, b"__autoscaler_v2_enabled": v2}
    monkeypatch.setattr(internal_kv, "_internal_kv_get", kept.__getitem__)
    assert placing.grows() is grown


@pytest.mark.anyio
async def test_a_node_that_is_lost_while_others_hold_it_may_come_back_for_as_long_as_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The patience is with nodes that could carry it, however long it waited for room on them before."""
    looks, clock = iter([NODES] * 9 + [NODES[1:]] * 5), iter(range(60, 10000, 60))
    monkeypatch.setattr(placing, "LOOK_S", 0.001)
    monkeypatch.setattr(placing, "waits_for_a_place", lambda actor: True)
    monkeypatch.setattr(placing, "grows", lambda: False)
    monkeypatch.setattr(placing, "_nodes", looks.__next__)
    monkeypatch.setattr(placing, "time", SimpleNamespace(monotonic=clock.__next__))
    never = asyncio.get_running_loop().create_future()
    asked = Demand("a replica of vision", {"GPU": 1.0}, patience_s=200)
    with pytest.raises(UsageError, match="no node has that"):
        await placing.answered(never, None, asked)
    assert next(looks, None) is None, "four minutes from its loss"


@pytest.mark.anyio
async def test_an_actor_is_not_at_fault_when_ray_does_not_say_how_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = asyncio.get_running_loop().create_future()
    looks = 0

    def away(actor: Any) -> int:
        nonlocal looks
        looks += 1
        if looks == 3:
            asking.get_loop().call_soon_threadsafe(asking.set_result, {"slots": 1})
        raise ConnectionError("the head is away")

    async def describe() -> Any:
        return await asking

    monkeypatch.setattr(placing, "LOOK_S", 0.001)
    monkeypatch.setattr(placing, "restarts", away)
    monkeypatch.setattr(cluster, "restarts", away)
    replica = RayReplica(SimpleNamespace(describe=SimpleNamespace(remote=describe)), demand())
    assert await replica.describe() == {"slots": 1}
    assert looks >= 4, "while it was waited for, and once it had answered"
    assert replica._restarts is None, "so that deaths which are not known do not count"


class TestOnRay:
    pytestmark = ray_test

    @pytest.fixture(autouse=True)
    def look_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(placing, "LOOK_S", 0.1)
        monkeypatch.setattr(placing, "grows", lambda: False)

    async def test_a_model_that_no_node_can_carry_ends_in_an_error_with_what_there_is(self) -> None:
        async with Cluster.start() as cluster:
            pool = cluster.pool("big", SCRIPTED, {"gated": False}, Placement(num_gpus=3))
            with pytest.raises(UsageError, match=r"big asks for 3 GPU, and no node has that. Nodes: .*2 CPU"):
                await pool.describe()

    async def test_a_model_waits_for_a_node_of_a_cluster_that_others_add_to(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        settings = RaySettings(address="192.0.2.9:6379", placement_timeout_s=1.0)
        async with Cluster.start(settings) as cluster:
            pool = cluster.pool("big", SCRIPTED, {"gated": False}, Placement(num_cpus=3))
            with pytest.raises(UsageError, match="no node has that"):
                await pool.describe()
        assert caplog.text.count("Waiting for a node to be added") == 1

    async def test_models_that_do_not_fit_together_end_the_wait_and_others_get_the_place(self) -> None:
        async with Cluster.start() as cluster:
            first = cluster.pool("first", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            await first.describe()
            second = cluster.pool("second", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            with pytest.raises(UsageError, match="4 CPU together"):
                await second.describe()
            await first.aclose()
            third = cluster.pool("third", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            assert (await third.describe())["slots"]

    async def test_a_place_that_another_program_holds_is_waited_for(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Cluster.start() as others, Cluster.start() as cluster:
            held = others.pool("held", SCRIPTED, {"gated": False}, Placement(num_cpus=2))
            await held.describe()
            pool = cluster.pool("later", SCRIPTED, {"gated": False}, Placement(num_cpus=1))
            waits = asyncio.ensure_future(pool.describe())
            while "later waits for a node with 1 CPU free. Free: " not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await held.aclose()
            assert (await waits)["slots"]

    async def test_a_model_that_dies_whenever_it_is_loaded_is_given_up(self) -> None:
        async with Cluster.start() as cluster:
            pool: Any = cluster.pool("mortal", "os:_exit", {"status": 9})
            with pytest.raises(UsageError, match=r"mortal died [0-9]+ times in a row before it was ready"):
                await pool.describe()


def test_what_asks_for_nothing_goes_to_nodes_that_offer_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def node(name: str, cpus: float, alive: bool = True) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {"memory": 9.0}}

    nodes = [node("d", 4), node("head", 0), node("a", 1), node("gone", 8, alive=False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert placing.carriers() == ["a", "d"]
    monkeypatch.setattr(ray, "nodes", lambda: [node("head", 0)])
    assert placing.carriers() == ["head"]
