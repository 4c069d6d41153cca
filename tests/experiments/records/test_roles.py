"""What a recorded role says in words, tables and searches, whatever is on record."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from agents.evidence.role import Faithfulness, OutputEffect, RandomChanges, Recognition, Role
from experiments.atlas.search_index import open_index
from experiments.records.exports.export import export
from experiments.records.results import as_parquet
from experiments.records.roles import RecordedRole
from experiments.report import site
from experiments.report.records import RunDirectory
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun

SNOW = Role(
    n=15,
    outputs=1000,
    raised=(
        OutputEffect(803, "snowplow, snowplough", 1.9, (1.5, 2.3), 0.001),
        OutputEffect(795, "ski", 0.8, (0.5, 1.1), 0.01),
    ),
    lowered=(OutputEffect(1, "=SUM(1)<b>", -0.5, (-0.7, -0.3), 0.02),),
    floor=0.0,
    flips=4,
    norm=0.11,
    norm_interval=(0.1, 0.12),
    cosine=0.99,
    random=RandomChanges(20, 5, 1.9, 0.6, 1 / 21),
    faithful=Faithfulness(
        803,
        "snowplow, snowplough",
        15,
        15,
        1.9,
        (1.4, 2.4),
        0.1,
        (-0.1, 0.3),
        1.8,
        (1.3, 2.3),
        "with the label",
    ),
    recognition=Recognition(14, 0.81, (0.6, 0.9), 0.64, (0.4, 0.8), 0.03),
    edited=117,
)


def record(role: Role = SNOW, **changes: Any) -> dict[str, Any]:
    return {"status": "known", "found": json.loads(json.dumps(asdict(role))) | changes}


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    run = FakeRun(tmp_path / "run")
    run.write_unit(3, done=run.done(3, "wheels", role=record()))
    run.write_unit(4, "snow on roofs")
    none = {"status": "none", "reason": "it is an output itself, and nothing is computed from it."}
    run.write_unit(5, done=run.done(5, "hats", role=none))
    failed = {"status": "failed", "error": {"type": "BackendError", "message": "<i>gone</i>.", "fix": ""}}
    run.write_unit(6, done=run.done(6, "shoes", role=failed))
    run.write_unit(7, done=run.done(7, "dogs", role=record(raised="snow")))
    return run


def test_a_role_is_said_in_plain_sentences() -> None:
    effect, random, without, faithful = RecordedRole.of({"role": record()}).sentences()
    assert effect == ("On its 15 exemplars it raises snowplow +1.90, ski +0.80 and lowers =SUM(1)<b> -0.50.")
    assert random == (
        "Its largest effect on the 5 strongest of them is 1.90. Random changes of the same size do less "
        "(median 0.60 of 20; p 0.048)."
    )
    assert "takes 4 of 15 exemplars for another class" in without
    assert "falls from 0.81 to 0.64" in without
    assert faithful == (
        "Ablating it lowers snowplow by 1.90 on 15 new images of the label, and by 0.10 on 15 of other "
        "things: the effect comes with the label."
    )


def test_an_effect_that_chance_may_have_is_said_to_be_one_without_negations() -> None:
    doubtful = RecordedRole.of({"role": record(random=asdict(RandomChanges(20, 15, 1.9, 2.1, 0.4)))})
    assert doubtful.sentences()[1] == (
        "Its largest effect on them is 1.90. Random changes of the same size may do as much "
        "(median 2.10 of 20; p 0.4)."
    )
    assert doubtful.headline().endswith("<b> -0.50; random changes may do as much.")
    assert not RecordedRole.of({"role": record()}).headline().endswith("as much.")
    none = RecordedRole.of({"role": record(raised=[], lowered=[])})
    assert none.headline() == "On its 15 exemplars it has no sure effect on an output."


@pytest.mark.parametrize(
    ("value", "sentences"),
    [
        (None, []),
        ({"status": "none", "reason": "it is no part."}, ["No role: it is no part."]),
        ("snow", ["No role: its record cannot be read."]),
        (record(norm="much"), ["No role: its record cannot be read."]),
        ({"status": "known"}, ["No role: its record cannot be read."]),
    ],
)
def test_what_is_missing_or_damaged_is_said_to_be(value: Any, sentences: list[str]) -> None:
    assert RecordedRole.of({"role": value}).sentences() == sentences
    assert RecordedRole.of({"role": value}).brief() == ""


def test_every_page_shows_the_role_as_text(run: FakeRun) -> None:
    index = site.write(run.root)
    pages = {unit: markup.check(index.parent / "units" / f"{unit}.html") for unit in run_pages(run)}
    page = next(page for name, page in pages.items() if name.split("-")[0].endswith("_3"))
    words = " ".join(next(page.find("section", **{"aria-labelledby": "role-title"})).text.split())
    assert "raises snowplow +1.90" in words
    assert "=SUM(1)<b>" in words
    assert "1.50 to 2.30" in words
    layer = markup.check(next((index.parent / "layers").iterdir()))
    assert "raises snowplow +1.90" in " ".join(layer.text.split())
    table = (index.parent / "units.js").read_text()
    assert "raises snowplow +1.90" in table
    assert "no part" not in table


def run_pages(run: FakeRun) -> list[str]:
    return [path.stem for path in (run.root / "report" / "units").glob("*.html")]


def test_tables_have_the_role_in_columns(run: FakeRun, tmp_path: Path) -> None:
    export(run.root, "csv", tmp_path / "table.csv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))}
    assert rows["3"]["raises"] == "snowplow +1.90, ski +0.80"
    assert rows["3"]["lowers"] == "'=SUM(1)<b> -0.50"
    assert (rows["3"]["role_comes"], rows["3"]["accuracy_without_unit"]) == ("with the label", "0.64")
    assert (rows["4"]["raises"], rows["4"]["role_missing"]) == ("", "")
    assert "output itself" in rows["5"]["role_missing"]
    assert "gone" in rows["6"]["role_missing"]
    export(run.root, "neuronpedia", tmp_path / "features.jsonl")
    features = [json.loads(line) for line in (tmp_path / "features.jsonl").read_text().splitlines()]
    (feature,) = [each for each in features if "pos_str" in each]
    assert (feature["pos_str"][1], feature["pos_values"][1]) == ("ski", 0.8)


def test_parquet_has_the_same_columns_whatever_its_rows_hold(run: FakeRun) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    none, some = as_parquet([{"unit": "a"}]), as_parquet([{"unit": "a", "role": record()}])
    assert none is not None
    assert some is not None
    first, second = (pq.read_table(io.BytesIO(data)) for data in (none, some))
    assert first.schema == second.schema
    assert second.column("role_norm").to_pylist() == [0.11]


def test_units_are_found_by_the_outputs_that_they_raise(run: FakeRun) -> None:
    found = open_index(RunDirectory(run.root)).search("snowplow", 3)
    assert [(hit.unit.rpartition(":")[2], hit.matched) for hit in found] == [("3", "raises")]
