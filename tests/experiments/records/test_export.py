"""A run in other programs' formats, and two runs side by side."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import UsageError
from agents.records import run_files
from experiments.records.diff import diff, summary
from experiments.records.exports.export import export
from experiments.records.headline import UNREACHED
from experiments.report import site
from tests.command_line import maia
from tests.experiments.report.run_directories import LAYER, FakeRun


@pytest.fixture
def run(tmp_path) -> FakeRun:
    run = FakeRun(tmp_path / "run")
    run.write_unit(3, "wheels")
    run.write_unit(5, " \x1b＝HYPERLINK(1)")
    run.write_unit(8, finished=False)
    return run


@pytest.mark.parametrize("wanted", ["jsonl", "neuronpedia", "inspect"])
def test_an_export_names_no_home_folder(run, tmp_path, wanted):
    run.put("manifest.json", {"model": "m", "settings": {"dataset": "/home/ada/photos"}})
    facts = run.done(7)["facts"] | {"model": "python:/home/ada/nets/it.py:make"}
    run.write_unit(7, done=run.done(7) | {"facts": facts})
    export(run.root, wanted, tmp_path / "out")
    written = (tmp_path / "out").read_text()
    assert "/home/ada" not in written
    assert ("~/photos" in written) is (wanted == "inspect")


def write_abstention(run, index):
    """A record of a study that found no meaning; one from before `confirmed` was left empty for it."""
    changes = {"label": "not interpretable", "labels": ["not interpretable"], "confirmed": True}
    run.write_unit(index, done=run.done(index) | changes | {"evidence": {"kind": "abstention"}})


def test_an_abstention_is_called_one_everywhere_and_counts_as_no_label(run, tmp_path):
    write_abstention(run, 9)
    export(run.root, "jsonl")
    rows = [json.loads(line) for line in (run.root / "export.jsonl").read_text().splitlines()]
    assert {row["name"]: row["verdict"] for row in rows} == {
        "3": "confirmed",
        "5": "confirmed",
        "9": "not interpretable",
    }
    export(run.root, "csv", tmp_path / "table.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row["verdict"] for row in sorted(rows, key=lambda row: row["name"])][-1] == "not interpretable"
    features = [
        json.loads(line) for line in Path(export(run.root, "neuronpedia").path).read_text().splitlines()
    ]
    (feature,) = (line for line in features if line["index"] == "9")
    assert (feature["verdict"], feature["explanations"]) == ("not interpretable", [])
    log = json.loads(Path(export(run.root, "inspect").path).read_text())
    assert {
        sample["id"].rpartition(":")[2]: "confirmed" in sample["scores"] for sample in log["samples"]
    } == {
        "3": True,
        "5": True,
        "9": False,
    }
    assert '"unexplained"' in site.write(run.root).with_name("units.js").read_text()
    assert diff(run.root, run.root).same == 3


def test_jsonl_has_one_record_a_finished_unit(run):
    output = export(run.root, "jsonl")
    rows = [json.loads(line) for line in (run.root / "export.jsonl").read_text().splitlines()]
    assert output.units == len(rows) == 2
    assert {row["label"] for row in rows} == {"wheels", " \x1b＝HYPERLINK(1)"}
    assert rows[0]["cost"]["dollars"] == pytest.approx(0.05)


def test_csv_opens_in_a_spreadsheet_and_holds_no_formula(run, tmp_path):
    export(run.root, "csv", tmp_path / "table.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    wheels, formula = sorted(rows, key=lambda row: row["name"])
    assert (wheels["layer"], wheels["name"], wheels["label"]) == (LAYER, "3", "wheels")
    assert (wheels["auroc"], wheels["auroc_low"], wheels["cost_tokens"]) == ("0.91", "0.78", "5380")
    assert formula["label"] == "' \N{REPLACEMENT CHARACTER}＝HYPERLINK(1)"


def test_parquet_reads_back(run):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(export(run.root, "parquet").path)
    assert sorted(table["label"].to_pylist()) == [" \x1b＝HYPERLINK(1)", "wheels"]


def test_neuronpedia_features_have_explanations_and_images_of_the_run(run):
    path = export(run.root, "neuronpedia").path
    feature = json.loads(Path(path).read_text().splitlines()[0])
    assert (feature["modelId"], feature["layer"], feature["index"]) == ("tf_efficientnet_lite0", LAYER, "3")
    (explanation,) = feature["explanations"]
    assert explanation["description"] == "wheels"
    assert {"scoreTypeName": "maia_auroc", "value": 0.91} in explanation["scores"]
    assert len(feature["activations"]) == 3
    assert all((run.root / activation["image"]).is_file() for activation in feature["activations"])


def test_what_stands_beside_each_label_is_no_longer_than_a_note(run):
    """A record of a megabyte is no table of a gigabyte."""
    run.write_unit(5, done=run.done(5, labels=["x"] * 900, description="y" * 1_000_000))
    run.write_unit(6, done=run.done(6, labels=["x"] * 2000))
    written = export(run.root, "neuronpedia")
    assert written.bytes < 20_000_000
    assert any("labels" in problem for problem in written.problems)


@pytest.mark.parametrize("images", [False, True])
def test_an_inspect_log_holds_each_conversation_and_its_scores(run, images):
    log = json.loads(Path(export(run.root, "inspect", images=images).path).read_text())
    assert {"version", "status", "eval", "plan", "results", "stats", "samples"} <= log.keys()
    assert {"created", "task", "dataset", "model", "config", "eval_id", "run_id", "task_id"} <= log[
        "eval"
    ].keys()
    (path,) = (run.root / "inspect").iterdir()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\+00-00_maia-", path.name), "Inspect lists no other names"
    sample = log["samples"][0]
    assert [message["role"] for message in sample["messages"]] == [
        *("system", "user"),
        *("assistant", "user", "assistant", "user", "assistant"),
    ]
    kinds = [part["type"] for part in sample["messages"][3]["content"]]
    assert kinds.count("image") == (2 if images else 0)
    assert sample["scores"]["auroc"]["value"] == 0.91
    assert log["results"]["scores"][0]["metrics"]["mean"]["value"] == pytest.approx(0.91)


def test_an_inspect_log_calls_no_unit_uninterpretable_that_no_image_reached(run):
    evidence = {"kind": "abstention", "finding": {"verdict": "out of reach", "reason": "Nothing came near."}}
    changes = {"label": "not interpretable", "labels": ["not interpretable"], "confirmed": None}
    run.write_unit(9, done=run.done(9, evidence=evidence, **changes), rounds=[])
    log = json.loads(Path(export(run.root, "inspect").path).read_text())
    samples = {sample["id"].rpartition(":")[2]: sample for sample in log["samples"]}
    (choice,) = samples["9"]["output"]["choices"]
    assert choice["message"]["content"] == samples["9"]["metadata"]["headline"] == UNREACHED
    assert samples["3"]["metadata"]["headline"] == "wheels"


def test_a_run_that_is_given_more_units_is_the_same_log_and_another_run_is_another(run, tmp_path):
    def exported(of) -> Path:
        return Path(export(of.root, "inspect").path)

    begun = {"command": "sweep", "model": "net", "layers": ["x"], "asked": "0-63", "units": ["net/x:0"]}
    run.put("manifest.json", begun)
    run.put("leases/0001/claim.json", {"host": "a", "pid": 3, "started": "77"})
    os.utime(run.root / "leases/0001/claim.json", (1_700_000_000, 1_700_000_000))
    first = exported(run)
    assert first.name.startswith("2023-11-14T22-13-20+00-00_maia-sweep_")
    run.put(
        "manifest.json", begun | {"asked": "0-127", "layers": ["x", "y"], "units": ["net/x:0", "net/y:1"]}
    )
    run.put("leases/0002/claim.json", {"host": "b", "pid": 4, "started": "99"})
    run.write_unit(6)
    assert exported(run) == first
    assert len(json.loads(first.read_text())["samples"]) == 3
    other = FakeRun(tmp_path / "other")
    other.write_unit(3)
    other.put("manifest.json", begun | {"units": ["net/x:5"]})
    other.put("leases/0001/claim.json", {"host": "a", "pid": 5, "started": "88"})
    os.utime(other.root / "leases/0001/claim.json", (1_700_000_000, 1_700_000_000))
    assert exported(other).name != first.name


def test_a_log_of_a_measured_unit_has_no_conversation_and_no_score(tmp_path):
    run = FakeRun(tmp_path / "run")
    changes = {"confirmed": None, "evidence": {"kind": "survey"}}
    run.write_unit(3, rounds=[], done=run.done(3, **changes))
    item = {"unit": run.unit_id(3), "layer": LAYER, "name": "3", "task": ""}
    run.put("plan.json", [item])
    log = json.loads(Path(export(run.root, "inspect").path).read_text())
    (sample,) = log["samples"]
    assert sample["messages"] == []
    assert sample["scores"] == {}
    assert log["results"]["scores"] == []


def test_an_export_refuses_unknown_formats_and_runs_without_results(run, tmp_path):
    with pytest.raises(UsageError, match="no format 'xml'"):
        export(run.root, "xml")
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        export(tmp_path / "nowhere", "jsonl")
    with pytest.raises(UsageError, match="no run") as refused:
        export(tmp_path, "jsonl")
    assert str(run.root) in refused.value.fix, "runs below the folder are named"
    empty = FakeRun(tmp_path / "empty")
    empty.write_unit(1, finished=False)
    with pytest.raises(UsageError, match="no unit"):
        export(empty.root, "jsonl")


@pytest.mark.parametrize("command", ["export", "replay", "evaluate"])
@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_run_whose_manifest_is_damaged_is_refused_by_its_name(run, capsys, command, damage):
    (run.root / "manifest.json").write_text(damage)
    assert maia(command, str(run.root)) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("command", ["report", "view"])
def test_a_folder_that_may_not_be_written_is_named(run, monkeypatch, capsys, command):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(run.root / "report"))

    monkeypatch.setattr(run_files, "replace_file", refused)
    assert maia(command, str(run.root), *(["--no-open"] if command == "view" else [])) == 2
    output = capsys.readouterr().err
    assert f"{run.root / 'report'} cannot be read or written (Permission denied)" in output
    assert "port" not in output.replace("report", "")


def test_a_file_is_exported_into_folders_that_are_made_for_it(run, tmp_path):
    written = export(run.root, "csv", tmp_path / "no" / "such" / "folder" / "table.csv")
    assert Path(written.path).read_text().startswith("unit,layer,name")


def test_a_label_that_is_less_than_the_answer_stands_beside_it(run, tmp_path):
    run.write_unit(11, done=run.done(11, "wheels") | {"answered": ["wheels", "a hub"]})
    export(run.root, "csv", tmp_path / "table.csv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))}
    assert (rows["11"]["label"], rows["11"]["answered"]) == ("wheels", "wheels OR a hub")
    assert rows["3"]["answered"] == rows["3"]["label"]


def test_a_diff_counts_changed_labels_verdicts_and_scores(run, tmp_path):
    other = FakeRun(tmp_path / "other")
    other.write_unit(3, "Wheels", done=other.done(3, "WHEELS"))
    worse = {**other.evidence("faces", 1), "auroc": 0.5, "auroc_interval": [0.4, 0.6]}
    other.write_unit(5, "faces", done=other.done(5, "faces", confirmed=False, evidence=worse))
    other.write_unit(9)
    found = diff(run.root, other.root)
    assert (found.units, found.same) == (2, 1), "another case is no other label"
    (changed,) = found.changed
    assert changed.changed == ["label", "verdict", "auroc"]
    assert changed.after.labels == ["faces"]
    assert (found.relabeled, found.verdict_changed, found.score_changed) == (1, 1, 1)
    assert [unit.endswith(":9") for unit in found.only_in_second] == [True]
    output = summary(found)
    assert output.splitlines() == [
        "2 units in both runs: 1 the same, 1 relabeled, 1 with another verdict, 1 with another score",
        f"1 unit only in {other.root}",
    ]
    output = summary(replace(diff(other.root, run.root), units=1))
    assert output.startswith("1 unit in both runs: ")
    assert f"1 unit only in {other.root}" in output


def test_a_diff_names_the_layers_of_runs_without_a_common_unit(run, tmp_path):
    other = FakeRun(tmp_path / "other")
    other.write_unit(9)
    with pytest.raises(UsageError) as refused:
        diff(run.root, other.root)
    assert f"run (2 units of {LAYER}) and " in refused.value.message
    assert f"other (1 unit of {LAYER}) have no unit in common" in refused.value.message


def test_another_network_is_compared_by_layer_and_number(run, tmp_path):
    other = FakeRun(tmp_path / "other", model="resnet18")
    other.write_unit(3, "arches")
    found = diff(run.root, other.root)
    assert [unit.unit for unit in found.changed] == [f"{LAYER}:3"]
    assert found.relabeled == 1


def test_both_commands_print_one_object(run, capsys):
    for arguments in (["export", str(run.root), "-f", "csv"], ["diff", str(run.root), str(run.root)]):
        assert maia(*arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out)["units"] == 2


def test_a_figure_has_one_name_in_every_table(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    export(run.root, "csv", tmp_path / "table.csv")
    columns = (tmp_path / "table.csv").read_text().splitlines()[0].split(",")
    named = set(parquet.read_table(export(run.root, "parquet").path).column_names)
    named |= {"kind", "auroc", "auroc_low", "auroc_high", "e_value", "margin", "strength", "coverage"}
    named |= {"held_back_auroc", "reason"}  # of `card` and `evidence`
    assert set(columns) <= named
