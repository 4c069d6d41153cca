"""A label that no agent gave is tested by the critic, kept if it holds, and else handed to an agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.critic.critic import ConfirmationSettings, share_of
from agents.evidence.verdict import HOLDING
from agents.orchestration.host import LocalHost
from agents.orchestration.orchestrator import Orchestrator
from agents.records.journal import Journal
from agents.records.record_types import StudyResult, encode_record
from agents.records.store import Store
from agents.records.work import WorkItem, settled
from agents.study.settings import InterpreterSettings
from agents.study.study import RunContext
from tests.agents.repeats.test_repeated_study import Agents, Sandboxes, Witness
from tests.tools.fakes import FakeStudio, FakeSubject, darken

UNIT = "fake/unit"


class World:
    """A unit that answers to bananas, and an agent who says so."""

    def __init__(self, root: Path) -> None:
        self.store, self.studio, self.agents = Store.open(root), FakeStudio(), Agents()
        subject = FakeSubject(
            self.studio,
            lambda shown: 4.0 + len(shown) % 3 if "banana" in shown else 0.1,
            UNIT,
            dataset="banana",
        )

        async def subject_of(item: WorkItem) -> FakeSubject:
            return subject

        context = RunContext(
            interpreter=self.agents,
            observers=Witness(self.studio),
            studio=self.studio,
            sandboxes=Sandboxes(),  # type: ignore[arg-type]
            paint=darken,
            settings=InterpreterSettings(),
            confirmation=ConfirmationSettings(min_images=10, max_images=10, probe=0),
            rates={},
            facts={},
        )
        self.host = LocalHost(context, self.store, subject_of)

    async def study(self, label: str = "", task: str = "describe", why: str = "") -> StudyResult:
        item = WorkItem(UNIT, "layer", "1", task=task, seed=7, proposed=[label] if label else [], why=why)
        await Orchestrator(self.store, [self.host], agents_per_host=1).run([item])
        assert settled(self.store, item)
        result = await asyncio.to_thread(Journal(self.store, UNIT).done)
        assert result is not None
        return result


async def test_a_proposed_label_that_holds_names_the_unit_without_an_agent(tmp_path: Path) -> None:
    world = World(tmp_path)
    result = await world.study("banana", why="sure of it")
    assert (result.tier, result.why, result.label, result.rounds) == ("embedding", "sure of it", "banana", 0)
    assert result.verdict in HOLDING
    assert result.images_tested == len(world.studio.made) == 20
    assert not world.agents.labels, "no agent was asked"
    assert (await World(tmp_path).study("banana")).to_json() == result.to_json()


async def test_an_agent_is_asked_about_a_proposed_label_that_fails_and_claims_less(tmp_path: Path) -> None:
    result = await World(tmp_path).study("a car", why="it may fail")
    assert (result.tier, result.label, result.why) == ("agent", "banana", "it may fail")
    assert result.proposal is not None
    assert (result.proposal.labels, result.proposal.verdict) == (["a car"], "out of reach")
    assert result.evidence is not None
    part = share_of(2) * share_of(1)
    assert result.evidence.e_value_corrected == pytest.approx(result.evidence.e_value * part)


async def test_without_an_agent_a_label_that_fails_is_on_record_as_such(tmp_path: Path) -> None:
    result = await World(tmp_path).study("a car", task="")
    assert (result.tier, result.label, result.verdict) == ("embedding", "a car", "out of reach")


async def test_an_agent_that_a_unit_is_given_later_replaces_the_result_and_keeps_the_proposal(
    tmp_path: Path,
) -> None:
    first = await World(tmp_path).study("banana", task="")
    store = Store.open(tmp_path)
    later = WorkItem(UNIT, "layer", "1", seed=7, why="all units have agents")
    assert not settled(store, later), "it has no agent yet"
    assert Journal(store, UNIT).done() == first, "and keeps its result until then"
    second = await World(tmp_path).study(why="all units have agents")
    assert (second.tier, second.rounds) == ("agent", 2)
    assert Journal(store, UNIT).proposal() == first
    kept = await asyncio.to_thread(Journal(store, UNIT).done)
    assert kept is not None
    assert encode_record(kept) == encode_record(second)
