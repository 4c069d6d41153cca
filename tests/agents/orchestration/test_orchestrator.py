"""Every item comes to one end, whatever happens to hosts; what concerns all stops all."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.endpoint.faults import EndpointStopError
from actors.errors import BackendError, MaiaError, UsageError
from agents.orchestration.host import HostCounts
from agents.orchestration.orchestrator import ATTEMPTS, Event, Orchestrator
from agents.records.journal import OvertakenError, failures, slug
from agents.records.store import Store, StoreError
from agents.records.work import WorkItem
from agents.study.agent import StudyPausedError
from agents.study.faults import HostLostError
from tools.sandbox import SandboxError


def items(n: int) -> list[WorkItem]:
    return [WorkItem(f"net/layer:{i}", "layer", str(i)) for i in range(n)]


class FakeHost:
    """Answers for each item as `fate` says, once everybody else had a turn."""

    def __init__(self, fate: Callable[[WorkItem, int], MaiaError | None] = lambda item, tries: None) -> None:
        self._fate = fate
        self.tries: Counter[str] = Counter()
        self.running = self.most = self.readied = 0
        self.pausing = asyncio.Event()

    async def study(self, item: WorkItem) -> dict[str, Any]:
        self.tries[item.unit] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if (error := self._fate(item, self.tries[item.unit])) is not None:
                raise error
            if self.pausing.is_set():
                raise StudyPausedError("paused after round 1.")
            return {"unit": item.unit, "status": "answered"}
        finally:
            self.running -= 1

    async def ready(self) -> None:
        self.readied += 1

    async def pause(self) -> None:
        self.pausing.set()

    async def counts(self) -> HostCounts:
        return HostCounts()

    async def stop(self) -> None: ...


async def test_items_spread_over_hosts_and_no_host_carries_more_than_it_may(tmp_path: Path) -> None:
    hosts = [FakeHost(), FakeHost()]
    outcome = await Orchestrator(Store(tmp_path), hosts, agents_per_host=3).run(items(17))
    assert len(outcome.done) == 17
    assert [host.most for host in hosts] == [3, 3]
    assert not outcome.unfinished
    assert outcome.stopped is None


async def test_a_host_that_joins_takes_its_part_of_what_waits(tmp_path: Path) -> None:
    first, late = FakeHost(), FakeHost()

    def on_event(event: Event) -> None:
        if event.kind == "done" and not late.tries and late not in run._hosts:
            run.join(late)

    run = Orchestrator(Store(tmp_path), [first], agents_per_host=2, on_event=on_event)
    outcome = await run.run(items(30))
    assert len(outcome.done) == 30
    assert (first.most, late.most) == (2, 2)
    assert min(first.tries.total(), late.tries.total()) > 10
    run.join(FakeHost())


async def test_a_host_that_joins_a_pausing_run_gets_no_item(tmp_path: Path) -> None:
    first, late, later = FakeHost(), FakeHost(), FakeHost()
    tasks = []

    def on_event(event: Event) -> None:
        if not tasks:
            run.join(late)
            tasks.append(asyncio.ensure_future(run.pause()))

    run = Orchestrator(Store(tmp_path), [first], agents_per_host=1, on_event=on_event)
    outcome = await run.run(items(9))
    await tasks[0]
    run.join(later)
    assert outcome.paused
    assert late.pausing.is_set()
    assert not later.tries


async def test_one_units_failure_is_recorded_with_its_type_and_touches_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    host = FakeHost(lambda item, _: BackendError("no.", "Try.") if item.name == "2" else None)
    outcome = await Orchestrator(store, [host], agents_per_host=2).run(items(5))
    assert len(outcome.done) == 4
    (failed,) = failures(store, "net/layer:2")
    assert failed.error.to_json() == {"type": "BackendError", "message": "no.", "fix": "Try."}
    assert host.tries["net/layer:2"] == 1, "a study's own failure is not tried again unasked"


@pytest.mark.parametrize("error", [HostLostError("gone."), SandboxError("gone.")])
async def test_items_of_lost_hosts_are_retried(tmp_path: Path, error: MaiaError) -> None:
    host = FakeHost(lambda item, tries: error if tries == 1 else None)
    events: list[Event] = []
    run = Orchestrator(Store(tmp_path), [host], agents_per_host=2, on_event=events.append)
    outcome = await run.run(items(3))
    assert len(outcome.done) == 3
    assert set(host.tries.values()) == {2}
    assert Counter(event.kind for event in events) == {"started": 6, "again": 3, "done": 3}
    assert host.readied == (3 if isinstance(error, HostLostError) else 0)


async def test_an_item_that_loses_three_hosts_fails(tmp_path: Path) -> None:
    host = FakeHost(lambda item, _: HostLostError("gone.") if item.name == "1" else None)
    outcome = await Orchestrator(Store(tmp_path), [host], agents_per_host=1).run(items(3))
    assert len(outcome.done) == 2
    assert outcome.failed["net/layer:1"].error.type == "HostLostError"
    assert host.tries["net/layer:1"] == ATTEMPTS


async def test_an_item_that_makes_progress_between_losses_never_fails(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fate(item: WorkItem, tries: int) -> MaiaError | None:
        store.put(f"units/{slug(item.unit)}/rounds/{tries:04d}.json", b"{}")
        return HostLostError("gone.") if tries < 3 * ATTEMPTS else None

    outcome = await Orchestrator(store, [FakeHost(fate)], agents_per_host=1).run(items(1))
    assert len(outcome.done) == 1


async def test_an_overtaken_item_resumes_from_the_other_writers_round(tmp_path: Path) -> None:
    host = FakeHost(lambda item, tries: OvertakenError("first.") if tries == 1 else None)
    outcome = await Orchestrator(Store(tmp_path), [host], agents_per_host=2).run(items(3))
    assert len(outcome.done) == 3


class BrokenHost(FakeHost):
    """Is lost, and cannot be brought back."""

    def __init__(self) -> None:
        super().__init__(lambda item, tries: HostLostError("gone."))

    async def ready(self) -> None:
        raise UsageError("the models are gone.")

    async def pause(self) -> None:
        raise UsageError("the models are gone.")


async def test_items_of_a_host_that_cannot_restart_go_to_the_others(tmp_path: Path) -> None:
    outcome = await Orchestrator(Store(tmp_path), [BrokenHost(), FakeHost()], agents_per_host=1).run(items(5))
    assert len(outcome.done) == 5
    assert outcome.stopped is None


async def test_without_any_host_left_the_run_stops_and_says_why(tmp_path: Path) -> None:
    outcome = await Orchestrator(Store(tmp_path), [BrokenHost(), BrokenHost()], agents_per_host=2).run(
        items(9)
    )
    assert "the models are gone" in str(outcome.stopped)
    assert len(outcome.unfinished) == 9
    assert not outcome.failed


async def test_a_pause_after_the_last_study_leaves_the_run_finished(
    tmp_path: Path,
) -> None:
    class Deaf(FakeHost):
        async def study(self, item: WorkItem) -> dict[str, Any]:
            await orchestrator.pause()
            return await super().study(item)

        async def pause(self) -> None: ...

    orchestrator = Orchestrator(Store(tmp_path), [Deaf()], agents_per_host=1)
    outcome = await orchestrator.run(items(1))
    assert len(outcome.done) == 1
    assert not outcome.paused


@pytest.mark.parametrize("error", [EndpointStopError("no quota.", "Add credit."), StoreError("disk full.")])
async def test_a_fault_of_the_infrastructure_stops_the_run_and_fails_no_unit(
    tmp_path: Path, error: MaiaError
) -> None:
    host = FakeHost(lambda item, _: error if item.name == "1" else None)
    outcome = await Orchestrator(Store(tmp_path), [host], agents_per_host=1).run(items(6))
    assert outcome.stopped is error
    assert not outcome.failed
    assert list(outcome.done) == ["net/layer:0"]
    assert set(outcome.unfinished) == {f"net/layer:{i}" for i in range(1, 6)}
    assert host.tries.total() == 2


async def test_a_pause_lets_running_studies_end_and_begins_no_other(tmp_path: Path) -> None:
    host = FakeHost()

    def seen(event: Event) -> None:
        if event.kind == "done" and event.item.name == "3":
            tasks.append(asyncio.create_task(run.pause()))

    tasks: list[asyncio.Task[None]] = []
    run = Orchestrator(Store(tmp_path), [host], agents_per_host=2, on_event=seen)
    outcome = await run.run(items(20))
    await tasks[0]
    assert outcome.paused
    assert len(outcome.done) + len(outcome.unfinished) == 20
    assert len(outcome.done) < 20


async def test_all_failures_of_a_unit_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for text in ("first.", "second."):
        host = FakeHost(lambda item, _, text=text: BackendError(text))  # type: ignore[misc]
        await Orchestrator(store, [host], agents_per_host=1).run(items(1))
    found = failures(store, "net/layer:0")
    assert [each.error.message for each in found] == ["first.", "second."]
    path = tmp_path / "units" / slug("net/layer:0") / "failed-2.json"
    assert json.loads(path.read_bytes()) == found[1].to_json()
