"""How far a run is, told from its directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from actors.errors import UsageError
from agents.records.journal import slug
from agents.records.store import Store
from agents.records.work import WorkItem, write_plan
from agents.study.survey import STARTED
from experiments.records.exports.export import export
from experiments.records.status import card, status
from experiments.report.schema import Contrast, ContrastSide, Estimate, FindingCheck, Page
from tests.command_line import maia


def finished(run: Path, unit: str, at: float, **record: Any) -> None:
    path = run / "units" / slug(unit) / "done.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"unit": unit, "status": "answered", "rounds": 4, "images_made": 5, "usage": {}} | record)
    )
    os.utime(path, (at, at))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    write_plan(Store(tmp_path), [WorkItem(unit, "layer", unit) for unit in "abc"])
    os.utime(tmp_path / "plan.json", (1000, 1000))
    return tmp_path


def test_the_images_of_critics_count_like_those_of_agents(run: Path) -> None:
    finished(run, "a", 1100, images_tested=7)
    finished(run, "b", 1100)
    rounds = run / "units" / slug("c") / "rounds"
    rounds.mkdir(parents=True)
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "dollars": 0.5}
    sent_back = {"accepted": False, "objection": "", "evidence": {"images_made": 11}}
    for number, verdict in ((1, sent_back), (2, None)):
        record = {
            "round": number,
            "reply": {"text": "", "usage": usage},
            "toolbox": {"images_made": 13},
            "verdict": verdict,
        }
        (rounds / f"{number:04d}.json").write_text(json.dumps(record))
    now = status(run)
    assert now.images == 5 + 7 + 5 + 13 + 11
    assert now.rounds == 4 + 4 + 2


@pytest.mark.parametrize(
    ("ends", "pace"),
    [
        ((), None),
        ((1100,), 36.0),
        ((1100, 1101), 71.3),  # not the 3,600 that the second between them would make
        ((1200, 9000, 9400), 2.0),  # of the last hour alone
    ],
)
def test_the_pace_is_that_of_the_last_hour_and_begins_with_the_plan(
    run: Path, ends: tuple[float, ...], pace: float | None
) -> None:
    for unit, at in zip("abc", ends, strict=False):
        finished(run, unit, at)
    assert status(run).units_an_hour == pace


@pytest.mark.parametrize(
    ("ends", "pace"),
    [
        ((1100, 2000), 36.0),  # 100 s after the command began that went on from there
        ((1100, 1800), 9.0),  # the later command has finished nothing yet
    ],
)
def test_the_pace_leaves_out_the_time_between_two_commands(
    run: Path, ends: tuple[float, ...], pace: float | None
) -> None:
    for generation, at in ((1, 900), (2, 1900)):
        claim = run / "leases" / f"{generation:04d}" / "claim.json"
        claim.parent.mkdir(parents=True)
        claim.write_text("{}")
        os.utime(claim, (at, at))
    for unit, at in zip("ab", ends, strict=True):
        finished(run, unit, at)
    assert status(run).units_an_hour == pace


def test_a_unit_that_is_surveyed_counts_as_begun(run: Path) -> None:
    """Nothing else tells so for minutes: a survey is written down when it is whole."""
    Store(run).put(f"units/{slug('a')}/{STARTED}", b"{}")
    now = status(run)
    assert (now.begun, now.waiting) == (1, 2)


def failed(run: Path, unit: str, kind: str) -> None:
    path = run / "units" / slug(unit) / "failed-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"error": {"type": kind, "message": "it failed"}}))


def test_another_try_is_advised_only_where_it_may_help(run: Path) -> None:
    finished(run, "a", 1100)
    failed(run, "b", "UndrawableError")
    finished(run, "c", 1100)
    assert "--retry-failed" not in card(status(run))


def test_of_several_failures_one_that_may_be_mended_is_enough(run: Path) -> None:
    finished(run, "a", 1100)
    failed(run, "b", "UndrawableError")
    failed(run, "c", "BackendError")
    assert "--retry-failed" in card(status(run))


def test_a_run_of_runs_is_their_sum_and_at_its_end_when_its_result_is_there(tmp_path: Path) -> None:
    """As one of `maia ablate`, whose variants are runs of their own."""
    (tmp_path / "manifest.json").write_text("{}")
    for name in ("full", "one-shot"):
        part = tmp_path / "variants" / name
        part.mkdir(parents=True)
        (part / "manifest.json").write_text("{}")
        write_plan(Store(part), [WorkItem(unit, "layer", unit) for unit in "ab"])
        finished(part, "a", 1100)
    assert (status(tmp_path).state, status(tmp_path).waiting) == ("interrupted", 2)
    finished(tmp_path / "variants/full", "b", 1100)
    finished(tmp_path / "variants/one-shot", "b", 1100)
    assert status(tmp_path).state == "interrupted", "what compares them is still to come"
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/ablation.json").write_text("{}")
    now = status(tmp_path)
    assert (now.state, now.units, now.done, now.rounds) == ("finished", 4, 4, 16)
    assert "variants/full, variants/one-shot" in card(now)
    with pytest.raises(UsageError, match="runs in it") as refused:
        export(tmp_path, "csv")
    assert "variants/full" in refused.value.fix


def test_a_run_of_labels_has_no_studies_to_tell_of(tmp_path):
    (tmp_path / "manifest.json").write_text('{"command": "label"}')
    with pytest.raises(UsageError, match="no studies"):
        status(tmp_path)


def test_an_audits_findings_are_shown_with_its_state_the_largest_first(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path)
    (tmp_path / "manifest.json").write_text('{"command": "audit"}')
    write_plan(store, [])

    def finding(title: str, difference: float) -> Contrast:
        sides = (
            ContrastSide(name="in", mean=Estimate(value=0.1)),
            ContrastSide(name="out", mean=Estimate(value=0.9)),
        )
        check = FindingCheck(name="On real [/b] images", words="replicated [as said]", holds=True)
        return Contrast(title=title, difference=Estimate(value=difference), sides=sides, checks=(check,))

    blocks = (finding("hat: lower with snow", -0.2), finding("hat: lower with night", -0.8))
    Page(title="Audit of hat", summary="2 findings.", blocks=blocks).save(tmp_path, "audit")
    (tmp_path / "experiments/elsewhere.json").symlink_to("/etc/hostname")  # costs itself alone
    assert maia("status", tmp_path) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("lower with night -0.80") < said.index("lower with snow -0.20")
    assert "0.10 and 0.90" in said
    assert "on real [/b] images" in said
    assert "replicated [as said]" in said
    assert "Audit of hat: 2 findings." in said
