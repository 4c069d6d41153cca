"""A host that lives and does not answer loses its work to another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from actors.cluster.placement import worker_nodes
from actors.errors import UsageError
from agents.orchestration.host import HostCounts
from agents.orchestration.settings import SweepSettings
from agents.records.fence import fence
from agents.records.store import Store
from agents.records.work import WorkItem
from agents.study.budget import BudgetSettings, BudgetSpentError, Cost
from agents.study.faults import HostLostError
from experiments.runs.hosts import HostActor, HostMachinery, HostPlan, RayHost, UnfitNodeError
from experiments.runs.run_account import LedgerActor, RemoteAccount
from experiments.setup.config import Profile

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Host:
    """Answers with its process, and studies "long" for ever."""

    def __init__(self, plan: HostPlan, ledger: str, name: str) -> None:
        self.name = name

    async def ping(self) -> None: ...

    async def ready(self) -> None: ...

    async def study(self, item: WorkItem) -> dict[str, Any]:
        if item.unit == "long":
            await asyncio.Event().wait()
        return {"pid": os.getpid(), "name": self.name}

    async def counts(self) -> HostCounts:
        return HostCounts(rounds=3)

    async def close(self) -> None: ...


def start_host(
    run: Path, *, width: int = 4, seat: int = 0, unfit: set[str] | None = None, **machinery: Any
) -> RayHost:
    """Return a host of a run, with parts of its machinery in place of the usual ones."""
    plan = HostPlan(Profile(), run, "m", {}, run)
    own = HostMachinery(**{"actor": Host, "ping_interval_s": 0.1, **machinery})
    return RayHost(plan, "", width, seat=seat, unfit=unfit, machinery=own)


@pytest.mark.slow
async def test_the_work_of_a_stopped_host_goes_to_another_and_it_is_fenced_off(tmp_path: Path) -> None:
    host = start_host(tmp_path, silence_s=4.0)
    try:
        first = await host.study(WorkItem("short", "l", "0"))
        assert not (tmp_path / "hosts").exists(), "a host that answers is left alone"
        long = asyncio.create_task(host.study(WorkItem("long", "l", "1")))
        await host.counts()
        stopped = psutil.Process(first["pid"])
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            with pytest.raises(HostLostError, match="did not answer"):
                await asyncio.wait_for(long, 60)
            assert Store(tmp_path).has(f"hosts/{first['name']}.fenced")
            await asyncio.wait_for(host.ready(), 60)
            second = await host.study(WorkItem("short", "l", "0"))
            assert second["pid"] != first["pid"]
            assert second["name"] != first["name"]
            assert (await host.counts()).rounds == 3
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                stopped.send_signal(signal.SIGCONT)
        stopped.wait(60)
    finally:
        await host.stop()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["worker_nodes", "fence"])
async def test_a_host_that_could_not_be_replaced_at_once_is_replaced_and_watched_all_the_same(
    missing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[Exception] = []

    def failing(function: Any) -> Any:
        def away(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return function(*arguments)

        return away

    machinery = {missing: failing({"worker_nodes": worker_nodes, "fence": fence}[missing])}
    host = start_host(tmp_path, silence_s=4.0, **machinery)
    try:
        first = await host.study(WorkItem("short", "l", "0"))
        failures.append(ConnectionError("the head is away"))
        long = asyncio.create_task(host.study(WorkItem("long", "l", "1")))
        await host.counts()
        os.kill(first["pid"], signal.SIGSTOP)
        with pytest.raises(HostLostError):
            await asyncio.wait_for(long, 60)
        await asyncio.wait_for(host.ready(), 60)
        assert (await host.study(WorkItem("short", "l", "0")))["pid"] != first["pid"]
        assert "could not be replaced" in caplog.text
        assert not host._watching.done()
        assert Store(tmp_path).has(f"hosts/{first['name']}.fenced")
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(first["pid"]).kill()
        await host.stop()


@pytest.mark.slow
async def test_a_node_that_does_not_see_the_run_says_so_by_name(tmp_path: Path) -> None:
    run = tmp_path / "elsewhere"
    host = start_host(run, width=1, actor=HostActor)
    try:
        with pytest.raises(UsageError, match=re.escape(f"does not see the run directory {run}")):
            await asyncio.wait_for(host.ready(), 60)
        assert not run.exists(), "nor does it make one that nobody else sees"
    finally:
        await host.stop()


class Forgetful(Host):
    """Works until its node no longer sees the run."""

    def __init__(self, plan: HostPlan, ledger: str, name: str) -> None:
        super().__init__(plan, ledger, name)
        self.run = plan.run

    async def ready(self) -> None:
        if (self.run / "unmounted").exists():
            raise UnfitNodeError("a node does not see the run directory.")

    async def study(self, item: WorkItem) -> dict[str, Any]:
        await self.ready()
        return await super().study(item)


@pytest.mark.slow
async def test_a_node_that_no_longer_sees_the_run_costs_its_host_and_not_the_run(tmp_path: Path) -> None:
    unfit: set[str] = set()
    host = start_host(tmp_path, unfit=unfit, actor=Forgetful)
    try:
        await asyncio.wait_for(host.ready(), 60)
        (tmp_path / "unmounted").touch()
        with pytest.raises(HostLostError, match="does not see the run"):
            await asyncio.wait_for(host.study(WorkItem("short", "l", "0")), 60)
        assert unfit == {host.node}
        with pytest.raises(HostLostError, match=r"3 times in a row.*does not see the run"):
            await asyncio.wait_for(host.ready(), 60)
        (tmp_path / "unmounted").unlink()
        await asyncio.wait_for(host.ready(), 60)  # where none is fit, the least bad is tried
    finally:
        await host.stop()


@pytest.mark.slow
async def test_no_host_is_started_on_a_node_that_was_found_unfit(tmp_path: Path) -> None:
    (here,) = worker_nodes()
    unfit = "0" * len(here)
    host = start_host(tmp_path, unfit={unfit}, worker_nodes=lambda: [unfit, here])
    try:
        await asyncio.wait_for(host.ready(), 60)
        await host._replace()
        assert host.node == here
        await asyncio.wait_for(host.ready(), 60)
    finally:
        await host.stop()


@pytest.mark.parametrize("how", ["given up", "started again"])
async def test_reservations_of_a_lost_host_count_as_spent_and_block_no_host(how: str, tmp_path: Path) -> None:
    profile = Profile(sweep=SweepSettings(budget=BudgetSettings(tokens=100)))
    ledger = LedgerActor(profile, tmp_path)
    await ledger.begin("a", "a/1")
    await ledger.begin("b", "b/1")
    await ledger.reserve(Cost(tokens=20), "a/1", 0)
    await ledger.settle(Cost(tokens=10), "a/1", 0)
    await ledger.reserve(Cost(tokens=60), "a/1", 1)
    waiting = asyncio.create_task(ledger.reserve(Cost(tokens=50), "b/1", 0))
    await asyncio.sleep(0)
    assert not waiting.done(), "the other may yet spend less than it has set aside"
    await (ledger.end("a") if how == "given up" else ledger.begin("a", "a/2"))
    with pytest.raises(BudgetSpentError):
        await asyncio.wait_for(waiting, 60)
    await ledger.settle(Cost(tokens=60), "a/1", 1)  # it lives after all, and is late
    await asyncio.wait_for(ledger.reserve(Cost(tokens=30), "b/1", 1), 60)
    with pytest.raises(BudgetSpentError, match="70 spent"):
        await ledger.reserve(Cost(tokens=31), "b/1", 2)


@pytest.mark.parametrize("how", ["given up", "started again"])
async def test_a_lost_host_gets_no_room_that_it_still_waited_for(how: str, tmp_path: Path) -> None:
    """What it held is settled when it is lost, which would let in what it asked for besides: nobody would
    settle that.
    """
    profile = Profile(sweep=SweepSettings(budget=BudgetSettings(tokens=100)))
    ledger = LedgerActor(profile, tmp_path)  # also one that was started again after the host had begun
    await ledger.reserve(Cost(tokens=40), "a/1", 0)
    await ledger.reserve(Cost(tokens=40), "b/1", 0)
    waiting = asyncio.create_task(ledger.reserve(Cost(tokens=30), "a/1", 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await (ledger.end("a") if how == "given up" else ledger.begin("a", "a/2"))
    await ledger.settle(Cost(tokens=10), "b/1", 0)
    with pytest.raises(HostLostError):
        await asyncio.wait_for(waiting, 60)
    await asyncio.wait_for(ledger.reserve(Cost(tokens=50), "b/1", 1), 60)


async def test_an_account_that_was_started_again_is_not_settled_twice(tmp_path: Path) -> None:
    profile = Profile(sweep=SweepSettings(budget=BudgetSettings(tokens=100)))
    again = LedgerActor(profile, tmp_path)
    await again.settle(Cost(tokens=60), "a/1", 7)  # reserved before it died, and found in the records since
    await again.reserve(Cost(tokens=100), "a/1", 8)
    late = asyncio.create_task(again.reserve(Cost(tokens=1), "a/1", 9))
    await asyncio.sleep(0)
    assert not late.done(), "no more than the limit is ever set aside"
    late.cancel()


class Remote:
    """What Ray makes of an actor: its methods run whether anybody waits for them or not."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.lost: tuple[str, ...] = ()
        """Methods whose answers do not arrive."""

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*arguments: Any) -> Any:
            running = asyncio.create_task(getattr(self._actor, name)(*arguments))

            async def answer() -> Any:
                found = await asyncio.shield(running)
                if name in self.lost:
                    raise HostLostError("the ledger is lost: it did not answer.")
                return found

            return asyncio.ensure_future(answer())

        return SimpleNamespace(remote=remote)


@pytest.mark.parametrize("how", ["cancelled while it waits", "cancelled once granted", "answer lost"])
async def test_the_reservation_of_a_cancelled_study_is_released(how: str, tmp_path: Path) -> None:
    profile = Profile(sweep=SweepSettings(budget=BudgetSettings(tokens=100)))
    actor = Remote(LedgerActor(profile, tmp_path))
    account, other = RemoteAccount(actor), RemoteAccount(actor)
    await account.begin("a")
    await other.begin("b")
    held = Cost(tokens=80 if how == "cancelled while it waits" else 30)
    await other.reserve(held)
    if how == "answer lost":
        actor.lost = ("reserve",)
        with pytest.raises(HostLostError):
            await account.reserve(Cost(tokens=60))
        actor.lost = ()
    else:
        asking = asyncio.create_task(account.reserve(Cost(tokens=60)))
        await asyncio.sleep(0)
        if how == "cancelled once granted":
            while not actor._actor._held.get((account._life, 0)):  # noqa: ASYNC110
                await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await other.settle(held, Cost(tokens=5))
    await asyncio.wait_for(other.reserve(Cost(tokens=95)), 60)
    with pytest.raises(BudgetSpentError, match="5 spent"):
        await account.reserve(Cost(tokens=96))


async def test_a_reservation_that_was_settled_first_is_not_kept(tmp_path: Path) -> None:
    """Two messages to an actor may overtake each other."""
    profile = Profile(sweep=SweepSettings(budget=BudgetSettings(tokens=100)))
    ledger = LedgerActor(profile, tmp_path)
    await ledger.begin("a", "a/1")
    await ledger.settle(Cost(), "a/1", 0)
    await ledger.reserve(Cost(tokens=60), "a/1", 0)
    await asyncio.wait_for(ledger.reserve(Cost(tokens=100), "a/1", 1), 60)
    await ledger.settle(Cost(tokens=100), "a/1", 1)
    with pytest.raises(BudgetSpentError):
        await ledger.reserve(Cost(tokens=1), "a/1", 2)


class Unbuildable(Host):
    """What a node with another version of a package, or without a file, makes of a host."""

    def __init__(self, plan: HostPlan, ledger: str, name: str) -> None:
        raise RuntimeError("no such thing on this node")


@pytest.mark.slow
async def test_hosts_that_cannot_be_built_end_in_an_error_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = start_host(tmp_path, actor=Unbuildable)
    try:
        with pytest.raises(HostLostError, match=r"3 times in a row.*no such thing on this node"):
            await asyncio.wait_for(host.ready(), 60)
        assert "another is started" in caplog.text
        assert "has not answered" not in caplog.text, "it was not silent"
    finally:
        await host.stop()


class Where(Host):
    async def study(self, item: WorkItem) -> dict[str, Any]:
        import ray

        return {"node": ray.get_runtime_context().get_node_id()}


ON_TWO_NODES = """
import asyncio, sys
import ray
from ray.cluster_utils import Cluster
from agents.study.budget import BudgetSettings, BudgetSpentError, Cost
from agents.study.faults import HostLostError
from agents.records.work import WorkItem
from experiments.setup.config import Profile
from experiments.runs.hosts import HostMachinery, HostPlan, RayHost, without_host
from actors.cluster.placement import worker_nodes
from tests.experiments.runs.test_hosts import Where

machinery = HostMachinery(actor=Where)
size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=size)
lost = cluster.add_node(**size)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)


async def main(folder):
    plan = HostPlan(Profile(), folder, "m", {}, folder)
    started = [RayHost(plan, "", 1, seat=i, machinery=machinery) for i in range(4)]
    item = WorkItem("short", "l", "0")
    before = [(await host.study(item))["node"] for host in started]
    assert len(set(before)) == 2 and before[:2] == before[2:], before
    await asyncio.to_thread(cluster.remove_node, lost, False)
    for host in started:
        found = {"node": lost.node_id}
        while found["node"] == lost.node_id:  # a process outlives its node by a moment
            try:
                found = await host.study(item)
            except HostLostError:
                await host.ready()
        assert found["node"] == cluster.head_node.node_id
    assert without_host(worker_nodes(), started) == []
    added = cluster.add_node(**size)  # Ray starts nodes in the main thread alone
    cluster.wait_for_nodes()
    pair = started[:1]
    assert without_host(worker_nodes(), started[:2]) == [], "two hosts, two nodes"
    (free,) = without_host(worker_nodes(), pair)
    started.append(RayHost(plan, "", 1, seat=worker_nodes().index(free), machinery=machinery))
    assert (await started[-1].study(item))["node"] == free == added.node_id
    for host in started:
        await host.stop()


asyncio.run(main(__import__("pathlib").Path(sys.argv[1])))
ray.shutdown()
cluster.shutdown()
print("moved")
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(180)
def test_hosts_are_on_as_many_nodes_as_there_are_and_leave_one_that_is_lost(tmp_path: Path) -> None:
    """In a process of its own: this one is connected to the tests' cluster."""
    environment = {
        **os.environ,
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }
    ran = subprocess.run(
        [sys.executable, "-c", ON_TWO_NODES, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[3],
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert "moved" in ran.stdout, ran.stderr[-3000:]
