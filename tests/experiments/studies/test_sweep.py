"""A sweep from the command line, over the real sandbox and a real HTTP endpoint; then what reads it.

The models run in the tests' process; `tests/docs/test_commands.py` and `tests/faults` sweep on Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.records import cross_unit
from experiments.studies.sweep import read_screening
from tests.experiments.labels.test_tiers import label, write_labels
from tests.fake_endpoint import FakeEndpoint, Fault
from tests.faults.world import CommandLine, labels, script, write_world
from tests.object_store import s3

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(script, probed=True) as started:
        yield started
        assert started.complaints == []


@pytest.fixture
def maia(endpoint, tmp_path_factory, monkeypatch, capsys) -> CommandLine:
    folder = tmp_path_factory.getbasetemp() / "sweeps"
    folder.mkdir(exist_ok=True)
    config = write_world(folder, endpoint, ray={"address": "none"}, agents=4)
    return CommandLine(config, monkeypatch, capsys)


def stop_and_resume(maia: CommandLine, endpoint: FakeEndpoint, out: Path) -> None:
    """Study three units in two attempts: the endpoint stops the first."""
    endpoint.faults.extend([Fault.no_quota()] * 4)
    code, stopped = maia("sweep", "0", "--units", "3-5", "--out", str(out))
    endpoint.faults.clear()
    assert code == 1
    assert stopped["stopped"]["type"] == "EndpointStopError"
    assert stopped["failed"] == 0, "no unit is to blame"
    assert maia("status", str(out))[1]["state"] == "interrupted"

    # The gate before the endpoint holds its stop for a while: another run has another gate.
    code, summary = maia("sweep", "0", "--units", "3-5", "--out", str(out))
    assert code == 0, summary
    assert (summary["done"], summary["rounds"], summary["screened"]) == (3, 12, {"alive": 3})
    assert len(labels(out)) == 3
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["3", "4", "5"]
    assert all(row["cost"]["requests"] == 4 and row["status"] == "answered" for row in rows)


def compare_and_report_again(maia: CommandLine, endpoint: FakeEndpoint, out: Path, log: Path) -> None:
    """Repeat a finished run: it asks nothing, and makes up for a missing comparison."""
    asked = len(endpoint.seen)
    assert maia("sweep", "0", "--units", "3-5", "--out", str(out))[0] == 0
    assert len(endpoint.seen) == asked, "a finished run asks nothing"
    compared = cross_unit.read(Store(out))
    assert compared is not None
    cross_unit.forget(Store(out))
    assert maia("export", str(out), "--format", "inspect", "--out", str(log))[0] == 0
    assert maia("report", str(out))[0] == 0, "without it, results are told"
    assert maia("sweep", "0", "--units", "3-5", "--out", str(out))[0] == 0
    assert cross_unit.read(Store(out)) == compared, "what an interrupted run did not come to is made up for"
    assert len(endpoint.seen) == asked


def ask_for_fewer_units(maia: CommandLine, out: Path) -> None:
    code, output = maia("sweep", "0", "--units", "3-4", "--out", str(out))
    assert code == 2
    assert '--units was "3-5", now "3-4", which leaves out 1 of its 3' in output
    assert "(--units 3-5,MORE)" in output


def replay_records(maia: CommandLine, endpoint: FakeEndpoint, out: Path) -> None:
    """Play the run again: as it was, with moved answers, and with a changed record."""
    asked = len(endpoint.seen)
    code, again = maia("replay", str(out / "0:4"))
    assert (code, again["rounds"], again["divergence"]) == (0, 4, "")
    assert again["reworded"] is False
    for answer in out.glob("units/*_0_5-*/calls/*.answer"):
        answer.rename(answer.with_name(f"{'0' * 32}{answer.name[32:]}"))  # as if asked in other words
    code, again = maia("replay", str(out / "0:5"))
    assert (code, again["rounds"], again["divergence"], again["reworded"]) == (0, 4, "", True)
    record = next(out.glob("units/*_0_4-*/rounds/0002.json"))
    record.write_text(record.read_text().replace("banana: activation", "melon: activation"))
    code, again = maia("replay", str(out / "4"))
    assert code == 1
    assert again["divergence"].startswith("round 2: observation")
    code, again = maia("replay", str(out))
    assert (code, again["diverged"]) == (1, 1)
    assert [unit["rounds"] for unit in again["units"]] == [4, 1, 4], "a run alone stands for all its units"
    assert maia("replay", str(out / "units"))[1] == again
    assert len(endpoint.seen) == asked, "replaying asks nothing"


def branch_from_a_round(maia: CommandLine, endpoint: FakeEndpoint, out: Path, tmp_path: Path) -> None:
    onwards = ("branch", str(out / "0:4"), "--from-round", "2", "--trust")
    code, branch = maia(*onwards, "--seed", "3", "--out", str(tmp_path / "branch"))
    assert (code, branch["seed"]) == (0, 3)
    code, again = maia("replay", str(tmp_path / "branch" / "0:4"))
    assert (code, again["divergence"]) == (0, ""), "of a branch, the rounds that it took over are another's"
    assert again["rounds"] == again["recorded"] == branch["rounds"]

    asked, studied = len(endpoint.seen), out / "studied.json"
    studied.write_text(json.dumps({**json.loads(studied.read_text()), "network": "another's"}))
    code, output = maia(*onwards, "--out", str(tmp_path / "other"))
    assert code == 2
    assert "network (its weights" in output
    assert "Branch with the weights" in output
    assert "--out" not in output, "another folder would not help"
    assert not (tmp_path / "other" / "manifest.json").exists()
    assert len(endpoint.seen) == asked


def test_a_sweep_is_studied_reported_resumed_and_replayed(
    maia, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    """One run serves all steps: studying it is what takes time."""
    out = tmp_path / "run"
    stop_and_resume(maia, endpoint, out)
    compare_and_report_again(maia, endpoint, out, tmp_path / "log.json")
    ask_for_fewer_units(maia, out)
    replay_records(maia, endpoint, out)
    branch_from_a_round(maia, endpoint, out, tmp_path)
    assert (out / "results.jsonl").is_file()


@pytest.mark.parametrize("content", ["[]", '{"a": 5}', '{"a": [5]}', '{"a": [{"unit": "3"}]}', "{", "null"])
def test_a_screening_that_is_none_is_damage(content: str, tmp_path: Path) -> None:
    """A run that is resumed may be a stranger's."""
    (tmp_path / "screening.json").write_text(content)
    with pytest.raises(RecordError, match=r"screening\.json is damaged"):
        read_screening(Store(tmp_path))


@pytest.mark.slow
def test_a_run_may_be_given_more_units_and_keeps_those_it_has(
    maia, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert maia("sweep", "0", "--units", "4-5", "--out", str(out))[0] == 0
    before = labels(out)
    (out / "crosswise.json").write_text('{"of": "fewer"}')
    asked = len(endpoint.seen)
    code, summary = maia("sweep", "0", "--units", "3-5,7", "--out", str(out))
    assert (code, summary["units"], summary["done"], summary["screened"]) == (0, 4, 4, {"alive": 4})
    assert len(endpoint.seen) == asked + 2 * 4, "only the new units are studied"
    assert maia("sweep", "0", "--units", "3-5,7", "--out", str(whole))[0] == 0
    assert labels(out) == labels(whole)
    assert before.items() <= labels(out).items()
    assert (out / "crosswise.json").read_bytes() == (whole / "crosswise.json").read_bytes()
    assert (out / "screening.json").read_bytes() == (whole / "screening.json").read_bytes()
    plans = [json.loads((run / "plan.json").read_bytes()) for run in (out, whole)]
    assert sorted(map(str, plans[0])) == sorted(map(str, plans[1]))
    manifests = [json.loads((run / "manifest.json").read_bytes()) for run in (out, whole)]
    assert manifests[0] == manifests[1]
    assert len((out / "results.jsonl").read_text().splitlines()) == 4

    asked = len(endpoint.seen)
    assert maia("sweep", "0", "--units", "3-5,7", "--out", str(out))[0] == 0
    assert maia("sweep", "0", "--units", "3,4,5,7", "--out", str(out))[0] == 0, "the same in other words"
    assert len(endpoint.seen) == asked
    # Killed after the plan had grown and before anything else was written down.
    manifest = manifests[0] | {"asked": "4-5", "units": [item["unit"] for item in plans[0][:2]]}
    (out / "manifest.json").write_text(json.dumps(manifest))
    table = json.loads((out / "screening.json").read_bytes())
    (out / "screening.json").write_text(
        json.dumps({"0": [row for row in table["0"] if row["unit"] in (4, 5)]})
    )
    assert maia("sweep", "0", "--units", "3-5,7", "--out", str(out))[0] == 0
    assert len(endpoint.seen) == asked
    assert json.loads((out / "screening.json").read_bytes()) == table
    assert len(json.loads((out / "plan.json").read_bytes())) == 4


def test_a_unit_that_is_not_there_is_refused_before_anything_is_claimed(maia, tmp_path: Path) -> None:
    code, output = maia("sweep", "0", "--units", "0-48", "--out", str(tmp_path / "run"))
    assert code == 2
    assert "numbered 0 to 47" in output
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_status_and_cancel_of_no_run_are_refused(maia, tmp_path: Path) -> None:
    for command in ("status", "cancel"):
        code, output = maia(command, str(tmp_path))
        assert code == 2
        assert "there is no run" in output


@pytest.mark.slow
def test_an_audit_goes_the_way_of_every_run_and_a_class_that_cannot_be_drawn_is_out_of_reach(
    maia, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    asked = ("audit", "--images", "2", "--out", str(out))
    code, result = maia(*asked, "--classes", "dog,kite")
    assert code == 0, result
    assert (result["run"]["done"], result["run"]["rounds"], result["run"]["state"]) == (2, 8, "finished")
    assert set(result["values"]) == {"dog", "kite"}
    assert {len(values) for activations in result["values"].values() for values in activations.values()} == {
        2
    }
    assert all(text.startswith("none found, shown") for text in result["answers"].values())
    assert json.loads((out / "audit.json").read_bytes())["effects"] == result["effects"]
    assert maia("replay", str(out / "output:probability:1"))[1]["divergence"] == ""

    n_asked = len(endpoint.seen)
    assert maia(*asked, "--classes", "dog,kite")[1]["values"] == result["values"]
    assert len(endpoint.seen) == n_asked, "a finished audit asks nothing"
    code, output = maia(*asked, "--classes", "dog")
    assert (code, '--classes was "dog,kite", now "dog"' in output) == (2, True)
    code, more = maia(*asked, "--classes", "dog,kite,cat")
    assert (code, more["run"]["done"]) == (0, 3), "more classes may be added"
    assert {name: more["values"][name] for name in result["values"]} == result["values"]
    # Four rounds of the new class, and what its text claims.
    assert len(endpoint.seen) == n_asked + 4 + 1, "those that had been audited are not audited again"

    n_asked = len(endpoint.seen)
    out = tmp_path / "figures"
    code, result = maia("audit", "--images", "2", "--out", str(out), "--classes", "all", "--figures-only")
    assert len(endpoint.seen) == n_asked, "figures need no agent"
    assert (code, result["run"]["done"], result["run"]["failed"]) == (0, 7, 0)
    assert "the image maker cannot draw it" in result["out_of_reach"]["frobnicator"]
    assert not any(effect["class_name"] == "frobnicator" for effect in result["effects"])
    code, output = maia("replay", str(out / "output:probability:1"))
    assert code == 2
    assert "there are no rounds" in output


@pytest.mark.slow
def test_a_sweep_at_a_url_is_resumed_on_another_machine(
    maia, endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3(monkeypatch) as bucket:
        out = f"{bucket}/sweeps/tiny"
        monkeypatch.setenv("MAIA_CACHE", str(tmp_path / "first"))
        code, summary = maia("sweep", "0", "--units", "3-4", "--out", out)
        assert (code, summary["done"]) == (0, 2)

        monkeypatch.setenv("MAIA_CACHE", str(tmp_path / "second"))
        code, state = maia("status", out)
        assert (code, state["state"], state["done"]) == (0, "finished", 2)
        assert not list((tmp_path / "second" / "working").glob("*/blobs/*")), "a status needs no images"
        asked = len(endpoint.seen)
        code, again = maia("sweep", "0", "--units", "3-4", "--out", out)
        assert (code, again["done"], again["rounds"]) == (0, 2, summary["rounds"])
        assert len(endpoint.seen) == asked, "the answers that were paid for came along"
        assert maia("replay", f"{out}/0:3")[1]["divergence"] == ""
        code, again = maia("replay", out)
        assert (code, len(again["units"]), again["diverged"]) == (0, 2, 0)
        assert maia("report", out)[0] == 0

        code, output = maia("status", f"{bucket}/sweeps/tyni")
        assert code == 2
        assert "there is no run at" in output
        for missing in (f"{bucket}/tyni", f"{bucket}/sweeps/tyni", f"{bucket}/sweeps/tyni/0:3"):
            code, output = maia("replay", missing)
            assert (code, f"there is no run at {missing}, and none at" in output) == (2, True)
        code, output = maia("estimate", "m", "l", "--like", f"{bucket}/sweeps/tyni")
        assert (code, "there is no run at" in output) == (2, True)
        code, output = maia("export", out)
        assert (code, "Name a file to write with --out" in output) == (2, True), (
            "a working copy does not last"
        )
        code, output = maia("export", out, "--out", str(tmp_path / "tiny.jsonl"))
        assert (code, (tmp_path / "tiny.jsonl").read_text().count("\n")) == (0, 2)
        code, output = maia("export", out, "--out", f"{bucket}/tiny.jsonl")
        assert (code, "is a URL; a folder or file of this machine is needed" in output) == (2, True)
        assert maia("cancel", out)[1]["asked"] is False


@pytest.mark.slow
def test_repeated_studies_give_one_result_with_agreement_and_are_replayed(
    maia, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    sweep = ("sweep", "0", "--units", "3-4", "--repeat", "2", "--out", str(out))
    code, summary = maia(*sweep)
    assert (code, summary["units"], summary["done"]) == (0, 2, 2)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for row in rows:
        assert [repeat["number"] for repeat in row["repeats"]] == [1, 2]
        assert row["agreement"]["studies"] == 2
    asked = len(endpoint.seen)
    assert maia(*sweep)[0] == 0
    assert len(endpoint.seen) == asked, "a finished run asks nothing"
    code, again = maia("replay", str(out / "0:4"))
    assert (code, again["divergence"]) == (0, "")
    assert again["rounds"] == again["recorded"] > 4
    code, output = maia(
        "branch", str(out / "0:4"), "--from-round", "1", "--trust", "--out", str(tmp_path / "b")
    )
    assert code == 2
    assert "studied several times" in output
    code, output = maia("sweep", "0", "--units", "3-4", "--out", str(out))
    assert code == 2
    assert "--repeat was 2, now not set" in output


@pytest.mark.slow
def test_agents_go_to_doubtful_units_and_later_to_all(
    maia: CommandLine, endpoint: FakeEndpoint, tmp_path: Path
) -> None:
    """Of three units one has no label by embeddings; two have one, which the critic tests."""
    first, out = tmp_path / "first", tmp_path / "tiers"
    assert maia("sweep", "0", "--units", "3", "--out", str(first))[0] == 0
    network = json.loads((first / "studied.json").read_text())["network"]
    known = [replace(label(unit, "banana" if unit > 3 else None), layer="0") for unit in range(6)]
    source = str(write_labels(tmp_path / "labels", known, network))
    asked = ["sweep", "0", "--units", "3-5", "--out", str(out)]
    code, summary = maia(*asked, "--agents", "top:1", "--labels", source)
    assert code == 0, summary
    assert (summary["done"], summary["rounds"]) == (3, 4), "one agent, of four rounds"
    rows = {row["name"]: row for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    assert {name: row["tier"] for name, row in rows.items()} == {
        "3": "agent",
        "4": "embedding",
        "5": "embedding",
    }
    assert rows["3"]["why"].startswith("of the words nothing fits")
    assert "not doubtful" in rows["4"]["why"]
    requests = len(endpoint.seen)
    assert maia(*asked, "--agents", "top:1", "--labels", source)[0] == 0
    assert len(endpoint.seen) == requests, "a finished run asks nothing"
    code, summary = maia(*asked)
    assert code == 0, summary
    assert (summary["done"], summary["rounds"]) == (3, 12), "more agents, and no fewer results"
    rows = {row["name"]: row for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())}
    assert {row["tier"] for row in rows.values()} == {"agent"}
    assert rows["4"]["proposal"]["labels"] == ["banana"]
