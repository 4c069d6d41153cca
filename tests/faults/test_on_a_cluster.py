"""Kill -9 of anything, or a stop, in the middle of a sweep on three nodes: every unit ends once, with the
same label.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fake_endpoint import FakeEndpoint, Fault
from tests.faults.world import N_UNITS, ROUNDS, answers, driver, labels, script, until, write_world

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]


class ThreeNodes:
    """A head, and two nodes that can be lost and replaced."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args=self._node)
        self.workers = [self.cluster.add_node(**self._node) for _ in range(2)]
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return self.cluster.address

    def raylets(self) -> list[psutil.Process]:
        nodes = self.cluster.list_all_nodes()
        return [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]

    def processes(self, words: str) -> list[psutil.Process]:
        """Return the processes below this cluster's nodes whose command line holds `words`."""
        return [process for raylet in self.raylets() for process in _named(raylet, words)]

    def spread(self, words: str) -> list[int]:
        """Return how many such processes each node has."""
        return [len(_named(raylet, words)) for raylet in self.raylets()]

    def lose_a_node(self) -> None:
        """Lose a node that carries a host, with everything on it."""
        busy = max(self.workers, key=lambda node: len(self._below(node)))
        self.cluster.remove_node(busy, allow_graceful=False)
        self.workers.remove(busy)
        self.workers.append(self.cluster.add_node(**self._node))

    @staticmethod
    def _below(node: Any) -> list[psutil.Process]:
        return psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)


def _named(raylet: psutil.Process, words: str) -> list[psutil.Process]:
    found = []
    for process in raylet.children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def nodes() -> Iterator[ThreeNodes]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_health_check_initial_delay_ms", "5000")
        environment.setenv("RAY_health_check_period_ms", "1000")
        environment.setenv("RAY_health_check_failure_threshold", "5")
        started = ThreeNodes()
        yield started
        started.cluster.shutdown()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(script, probed=True) as started:
        started.delay_s = 1.0
        yield started
        assert started.complaints == []


@pytest.fixture(scope="module")
def config(nodes: ThreeNodes, endpoint: FakeEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    # A budget that is never reached: it takes an account that all hosts share, and that may die.
    budget = {"dollars": 1000}
    return write_world(
        folder, endpoint, ray={"address": nodes.address}, hosts="per-node", agents=5, budget=budget
    )


@pytest.fixture(scope="module")
def undisturbed(nodes: ThreeNodes, config: Path) -> dict[str, str]:
    with driver(config, config.parent / "undisturbed") as run:
        until(lambda: nodes.spread("ray::HostActor") == [1, 1, 1], "a host on each node")
        assert run.wait() == 0, run.output()
    found = labels(run.out)
    assert len(found) == N_UNITS
    assert len(set(found.values())) > N_UNITS // 2, "labels tell units apart, or equal labels prove nothing"
    return found


def _in_the_middle(endpoint: FakeEndpoint, before: int) -> None:
    """Return when about a third of the sweep's calls have been asked."""
    until(lambda: len(endpoint.seen) - before >= N_UNITS * ROUNDS // 3, "the middle of the sweep")


@pytest.mark.parametrize(
    "victim", ["ReplicaActor", "HostActor", "stopped HostActor", "LedgerActor", "sandbox", "node", "driver"]
)
def test_a_death_in_the_middle_loses_nothing(
    victim: str, nodes: ThreeNodes, endpoint: FakeEndpoint, config: Path, undisturbed: dict[str, str]
) -> None:
    before = len(endpoint.seen)
    out = config.parent / victim.replace(" ", "-")
    with driver(config, out) as run:
        _in_the_middle(endpoint, before)
        if victim == "driver":
            run.kill()
        elif victim == "node":
            nodes.lose_a_node()
        else:
            how, name = (signal.SIGSTOP if "stopped" in victim else signal.SIGKILL), victim.split()[-1]
            words = "sandbox/child/__main__.py" if victim == "sandbox" else f"ray::{name}"
            found = nodes.processes(words)
            assert found, f"nothing runs that is called {words}"
            os.kill(found[0].pid, how)
        if victim != "driver":
            assert run.wait() == 0, run.output()
    if victim == "driver":
        assert 0 < len(labels(out)) < N_UNITS or answers(out) < N_UNITS * ROUNDS
        with driver(config, out) as run:
            assert run.wait() == 0, run.output()
    assert labels(out) == undisturbed
    assert answers(out) == N_UNITS * ROUNDS
    # Each of the 15 agents has one call in flight, and a death may meet those of every host.
    repeated = len(endpoint.seen) - before - answers(out)
    assert 0 <= repeated <= 15, f"{repeated} calls were asked twice"


def test_an_endpoint_that_fails_in_every_way_costs_no_unit(
    nodes: ThreeNodes, endpoint: FakeEndpoint, config: Path, undisturbed: dict[str, str]
) -> None:
    endpoint.faults.extend(
        [
            Fault.rate_limit("1"),
            Fault.error(500, "internal"),
            Fault.reset_before_body(),
            Fault.reset_in_body(),
            Fault.malformed_json(),
            Fault.html_page(),
            Fault.empty_body(),
            Fault.choices(None),
            Fault.hang(),
        ]
    )
    out = config.parent / "endpoint"
    with driver(config, out) as run:
        assert run.wait() == 0, run.output()
    assert not endpoint.faults
    assert labels(out) == undisturbed


def test_a_spent_quota_stops_the_run_and_a_paid_one_goes_on(
    nodes: ThreeNodes, endpoint: FakeEndpoint, config: Path, undisturbed: dict[str, str]
) -> None:
    out = config.parent / "quota"
    before = len(endpoint.seen)
    with driver(config, out) as run:
        _in_the_middle(endpoint, before)
        endpoint.faults.extend([Fault.no_quota()] * 5)
        assert run.wait() == 1
    assert "no quota or credit left" in run.output()
    assert not list((out / "units").glob("*/failed-*.json")), "no unit is to blame"
    endpoint.faults.clear()
    with driver(config, out) as run:
        assert run.wait() == 0, run.output()
    assert labels(out) == undisturbed
