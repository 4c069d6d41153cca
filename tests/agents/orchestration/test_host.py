"""A survey is taken once, paid for, and whole; a fault of the program ends one study alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from actors.errors import RefusedError
from agents.evidence.evidence_record import Finding
from agents.orchestration.host import LocalHost, UnexpectedError
from agents.orchestration.orchestrator import Orchestrator
from agents.records.journal import read_stop, read_survey, slug
from agents.records.manifest import claim
from agents.records.record_types import MEASURED, Manifest, StudyResult, SurveyRecord, load_record
from agents.records.store import Store
from agents.records.work import WorkItem, write_plan
from agents.study import survey
from agents.study.budget import BudgetSettings, BudgetSpentError, Cost, Ledger, SpendingLimits, spent_so_far
from agents.study.metered import MeteredStudio
from experiments.records.results import write_results
from experiments.records.status import card, status
from tests.tools.fakes import FakeStudio, FakeSubject
from tools.subject import Subject
from tools.toolbox import Studio


async def brightness(studio: Studio, subject: Subject, *, seed: int, words: str) -> survey.Survey:
    """Measure two pictures; as a survey may, it fails when one cannot be made, and breaks on "broken"."""
    made = await studio.generate([words, f"{words} at night"], [seed, seed + 1])
    if any(isinstance(each, RefusedError) for each in made):
        raise RefusedError(f"{words} cannot be shown.")
    if words == "broken":
        raise ZeroDivisionError
    responses = await subject.measure([each.image for each in made])  # type: ignore[union-attr]
    images = [each.image for each in made]  # type: ignore[union-attr]
    return survey.Survey({"values": [response.activation for response in responses]}, images[:1])


UNREACHED = Finding(verdict="out of reach", reason="nothing came near")


async def unreached(studio: Studio, subject: Subject, *, seed: int) -> survey.Survey:
    return survey.Survey({"best": 0.01}, finding=UNREACHED)


SURVEYS = {"brightness": brightness, "unreached": unreached}


class World:
    """A host whose items ask for surveys alone."""

    def __init__(self, root: Path, budget: BudgetSettings | None = None) -> None:
        self.store = Store.open(root)
        self.studio = FakeStudio()
        self.account = Ledger(budget or BudgetSettings(), spent_so_far(self.store))
        context = SimpleNamespace(studio=self.studio, facts={"model": "fake"}, dollars_per_image=0.0)
        self.host = LocalHost(
            context,
            self.store,
            self._subject,
            surveys=SURVEYS,
            limits=SpendingLimits(self.account),
        )

    async def _subject(self, item: WorkItem) -> Subject:
        structlog.get_logger().warning("looked up")
        return FakeSubject(self.studio, len, item.unit)

    def item(self, words: str) -> WorkItem:
        return WorkItem(
            f"fake/{words}", "output", words, task="", seed=3,
            survey="brightness", survey_arguments={"words": words},
        )  # fmt: skip

    def result(self, words: str) -> StudyResult:
        record = load_record(self.store, f"units/{slug(f'fake/{words}')}/done.json", StudyResult)
        assert record is not None
        return record

    async def run(self, *words: str) -> Any:
        return await Orchestrator(self.store, [self.host], agents_per_host=2).run([*map(self.item, words)])


async def test_a_survey_is_taken_once_and_its_images_are_on_the_account(tmp_path: Path) -> None:
    world = World(tmp_path)
    outcome = await world.run("dog", "kite")
    assert sorted(outcome.done) == ["fake/dog", "fake/kite"]
    assert (world.result("dog").status, world.result("dog").images_made) == (MEASURED, 2)
    assert world.account.spent == Cost(images=4)
    assert read_survey(world.store, "fake/dog") == SurveyRecord(images=2, found={"values": [3.0, 12.0]})
    assert len([*world.store.keys("blobs")]) == 2, "of each survey, the image that it keeps"
    again = World(tmp_path)
    assert again.account.spent == Cost(images=4), "after a crash the account is rebuilt from the records"
    studio = MeteredStudio(again.studio, again.account)
    taken = await survey.take(SURVEYS, studio, FakeSubject(again.studio, len), again.item("dog"), again.store)
    assert taken.found["values"] == [3.0, 12.0]
    assert not again.studio.made, "what is on record is not measured again"


async def test_what_is_logged_during_a_study_names_run_and_unit(tmp_path: Path) -> None:
    world = World(tmp_path / "night-run")
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        await world.run("dog", "kite")
    assert {(each["run"], each["unit"]) for each in logged} == {
        ("night-run", "fake/dog"),
        ("night-run", "fake/kite"),
    }


async def test_no_agent_is_asked_about_a_unit_that_its_survey_finds_out_of_reach(
    tmp_path: Path,
) -> None:
    """The run of this world has no interpreter that could be asked."""
    world = World(tmp_path)
    await Orchestrator(world.store, [world.host], agents_per_host=1).run(
        [WorkItem("fake/dog", "output", "dog", seed=3, survey="unreached")]
    )
    record = world.result("dog").to_json()
    assert record["evidence"]["finding"] == UNREACHED.to_json()
    assert (record["rounds"], record["status"]) == (0, MEASURED)
    assert read_survey(world.store, "fake/dog").finding == UNREACHED


async def test_a_survey_that_fails_leaves_nothing_and_a_broken_one_harms_no_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    outcome = await world.run("forbidden", "kite", "broken")
    assert outcome.done == ["fake/kite"]
    assert outcome.failed["fake/forbidden"].error.type == "RefusedError"
    assert outcome.failed["fake/broken"].error.type == UnexpectedError.__name__
    assert read_survey(world.store, "fake/forbidden") is None


async def test_a_survey_keeps_to_the_budget_of_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, BudgetSettings(images=3))
    outcome = await world.run("dog", "kite", "tent")
    assert len(outcome.done) == 1
    assert isinstance(outcome.stopped, BudgetSpentError)
    assert len(outcome.unfinished) == 2


async def test_surveys_stand_among_the_results_of_a_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.run("dog", "forbidden")
    write_results(tmp_path, [world.item("dog"), world.item("forbidden")])
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert ['"measured"' in line for line in lines] == [True, False]
    assert '"failed"' in lines[1]


async def test_a_unit_that_is_out_of_budget_has_not_failed_and_goes_on_with_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    claim(world.store, Manifest(command="sweep"))
    write_plan(world.store, [world.item("dog")])

    def limited_to(hours: float) -> None:
        now = iter([0.0, *[7200.0] * 50])
        limits = SpendingLimits(world.account, BudgetSettings(hours=hours), lambda: next(now))
        world.host = LocalHost(world.host._run, world.store, world._subject, surveys=SURVEYS, limits=limits)

    limited_to(1)
    outcome = await world.run("dog")
    assert (outcome.unfinished, outcome.failed) == (["fake/dog"], {})
    stop = read_stop(world.store, "fake/dog")
    assert stop is not None
    assert (stop.status, stop.error.type) == ("out of budget", "UnitBudgetError")
    left = status(tmp_path)
    assert (left.state, left.begun, left.failed) == ("interrupted", 1, 0)
    assert "out of budget" in card(left)
    assert "sweep.unit_budget.hours" in card(left)
    limited_to(3)
    assert (await world.run("dog")).done == ["fake/dog"]
    assert (status(tmp_path).state, status(tmp_path).out_of_budget) == ("finished", {})


async def test_results_are_read_by_every_json_reader_and_have_the_same_columns_in_every_run(
    tmp_path: Path,
) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    world = World(tmp_path / "a")
    await world.run("forbidden")
    (_, failed) = write_results(tmp_path / "a", [world.item("forbidden")])
    (_, none) = write_results(tmp_path / "a", [])
    other = World(tmp_path / "b")
    await other.run("dog")
    (key,) = [key for key in other.store.keys("units") if key.endswith("done.json")]
    record = json.loads(other.store.get(key) or b"{}")
    record["background"] = {"std": float("inf"), "mean": float("nan")}
    other.store.replace(key, json.dumps(record).encode())
    lines, answered = write_results(tmp_path / "b", [other.item("dog")])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (row,) = [json.loads(line, parse_constant=refuse) for line in lines.read_text().splitlines()]
    assert row["background"] == {"std": None, "mean": None}
    schemas = [pq.read_schema(path) for path in (failed, none, answered)]
    for name in ("unit", "label", "rounds", "cost_dollars", "confirmed", "evidence"):
        assert len({str(schema.field(name).type) for schema in schemas}) == 1
        assert str(schemas[0].field(name).type) != "null"


async def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.run("dog")
    (key,) = [key for key in world.store.keys("units") if key.endswith("done.json")]
    world.store.replace(key, b'{"unit": "fake')
    lines, *_ = write_results(tmp_path, [world.item("dog")])
    (row,) = map(json.loads, lines.read_text().splitlines())
    assert row["status"] == "failed"
    assert "done.json is damaged" in row["error"]["message"]
