"""A run ends gracefully, whoever asks it to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import UsageError
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.base import LayerInfo
from agents.orchestration.host import LocalHost
from agents.orchestration.settings import SweepSettings
from agents.records.manifest import claim
from agents.records.record_types import Manifest
from agents.records.remote import is_working_copy, working_copy
from agents.records.store import Store
from experiments.records.status import FailedStudy, RunStatus
from experiments.runs.campaign import Campaign, RunSummary, _hosts_on_new_nodes, _stoppable, check_known
from experiments.runs.hosts import HostPlan, RayHostGroup
from experiments.setup.config import Profile
from experiments.setup.console import Console


class Orchestrator:
    def __init__(self) -> None:
        self.paused = asyncio.Event()

    async def pause(self) -> None:
        self.paused.set()


class Lease:
    def cancelled(self) -> bool:
        return False

    def check(self) -> None: ...


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def number(request: pytest.FixtureRequest):
    """A signal, handled by the test; as it was afterwards."""
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


async def test_a_signal_lets_agents_finish_their_round(number: signal.Signals) -> None:
    again: list[int] = []
    if number != signal.SIGINT:
        signal.signal(number, lambda *_: again.append(1))
    orchestrator: Any = Orchestrator()
    async with _stoppable(Console(quiet=True), orchestrator, Lease()):  # type: ignore[arg-type]
        os.kill(os.getpid(), number)
        await asyncio.wait_for(orchestrator.paused.wait(), 60)
        if number != signal.SIGINT:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
            assert again == [1], "the next one is for whoever was there before"


async def test_a_run_under_nohup_continues_without_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    orchestrator: Any = Orchestrator()
    try:
        async with _stoppable(Console(quiet=True), orchestrator, Lease()):  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        assert not orchestrator.paused.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("hosts", "said"), [("per-node", True), (0, False)])
async def test_a_run_at_a_url_is_carried_here_for_other_nodes_do_not_see_its_working_copy(
    hosts: Any, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = Profile(sweep=SweepSettings(hosts=hosts))
    store = Store(working_copy(tmp_path, "s3://bucket/run"))
    loaded: Any = SimpleNamespace(cache=tmp_path)
    bench: Any = SimpleNamespace(context=None)
    run = Campaign(Console(), loaded, profile, store, {"model": "m"})
    async with run._hosts(bench) as (carried, new_hosts):
        assert [type(host) for host in carried] == [LocalHost]
        assert await new_hosts() == []
    assert ("this process carries all agents" in capsys.readouterr().err) is said
    assert not is_working_copy(tmp_path, tmp_path / "runs" / "run")


async def test_a_node_that_joins_and_cannot_carry_agents_is_left_alone_and_ends_no_run(
    tmp_path: Path,
) -> None:
    nodes, started, stopped, warnings = ["a"], [], [], []

    class Host:
        def __init__(self, *_: Any, seat: int, unfit: set[str]) -> None:
            fit = [node for node in nodes if node not in unfit]
            self.node = fit[seat % len(fit)]
            started.append(self.node)

        async def ready(self) -> None:
            if self.node == "b":
                raise UsageError("b, a node of the cluster, does not see the run directory.")

        async def stop(self) -> None:
            stopped.append(self.node)

    plan = HostPlan(Profile(), tmp_path, "m", {}, tmp_path)
    start: Any = Host
    group = RayHostGroup(plan, "", 4, warnings.append, start=start, worker_nodes=lambda: nodes)
    group.start(None)
    nodes += ["b", "c"]
    assert [host.node for host in await group.start_on_new_nodes()] == ["c"]  # type: ignore[attr-defined]
    assert "does not see the run directory" in warnings[0]
    assert await group.start_on_new_nodes() == []
    assert (started, stopped) == (["a", "b", "c"], ["b"])
    assert [host.node for host in group.handles] == ["a", "c"]  # type: ignore[attr-defined]
    await group.stop()
    assert sorted(stopped) == ["a", "b", "c"]


def test_a_run_is_compared_beforehand_only_with_a_network_of_its_name(tmp_path: Path) -> None:
    """Random weights, or a checkpoint of the profile, are part of a network's name, and not of the word it is
    asked by.
    """
    store = Store.open(tmp_path)
    manifest = Manifest(command="sweep", model="net", asked="0-1", layers=["x"])
    claim(store, manifest.of_units(["net (random weights)/x:0", "net (random weights)/x:1"]))
    layer = LayerInfo("x", "vector", 9, (), "Linear")
    weights, random = (
        KnownNetwork(name, {"x": layer}, {}, {}, []) for name in ("net", "net (random weights)")
    )
    check_known(store, manifest, weights, ["net/x:0", "net/x:1"])
    check_known(store, manifest, None, [])
    with pytest.raises(UsageError, match="leaves out 1 of its 2"):
        check_known(store, manifest.model_copy(update={"asked": "0"}), random, ["net (random weights)/x:0"])


async def test_hosts_that_are_started_meanwhile_join_the_work_whatever_comes_between(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[Any] = [ConnectionError("no head"), [], ["first"], ["second", "third"]]
    joined: list[Any] = []
    done = asyncio.Event()

    async def new_hosts() -> list[Any]:
        if not answers:
            done.set()
            return []
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    orchestrator: Any = SimpleNamespace(join=joined.append)
    async with _hosts_on_new_nodes(Console(), orchestrator, new_hosts, interval_s=0.0):
        await done.wait()
    assert joined == ["first", "second", "third"]
    output = capsys.readouterr().err
    assert output.count("a node has joined") == 3
    assert "no head" in output


@pytest.mark.parametrize(
    ("state", "paused", "stopped", "finished"),
    [
        ("finished", False, None, True),
        ("interrupted", True, None, False),
        ("interrupted", False, None, False),
        ("finished", False, FailedStudy("StoreError", "full"), False),
    ],
)
def test_a_run_is_finished_where_nothing_waits_and_nothing_stopped_it(
    state: str, paused: bool, stopped: FailedStudy | None, finished: bool
) -> None:
    summary = RunSummary(RunStatus("run", state, None), stopped, paused, [], None)
    assert summary.finished is finished
    assert summary.as_json()["state"] == state
