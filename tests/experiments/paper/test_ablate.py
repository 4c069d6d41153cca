"""Variants are compared on the same units, with intervals, and on synthetic neurons with the truth."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from actors.errors import UsageError
from agents.records.manifest import claim_studied
from agents.records.store import Store
from experiments.paper import ablate as ablation
from experiments.paper.ablate import Ablation, _differences, _truth, _Unit, ablate, page, table
from experiments.paper.evaluate import NULL, summarise
from experiments.paper.gym.neurons import choose
from experiments.setup.console import Console
from tests.experiments.paper.test_evaluate import rows as evaluated

UNITS = {
    unit.name: _Unit(None, "synthetic", unit.name, unit) for unit in choose("dog; blue; dog OR car; frog")
}


def records(labels):
    return {
        name: {"labels": each} if each is not None else {"status": "failed"}
        for name, each in zip(UNITS, labels, strict=True)
    }


FULL = records([["a puppy"], ["blue"], ["dog", "car"], ["frog"]])
LESS = records([["dog"], ["red"], ["dog"], None])


def test_labels_are_scored_against_the_truth_and_a_failed_study_is_wrong():
    found = _truth(UNITS, {"full": FULL, "one-shot": LESS}, ["full", "one-shot"])
    assert found["full"]["right"] == 1.0
    assert found["full"]["lead"] is None
    assert found["one-shot"]["right"] == 0.25
    assert found["one-shot"]["lead"]["mean"] == pytest.approx((0 + 1 + 1 / 3 + 1) / 4)
    low, high = found["one-shot"]["lead"]["interval"]
    assert 0 <= low < found["one-shot"]["lead"]["mean"] < high <= 1


def result():
    rows = [
        {**row, "methods": {"full": row["methods"]["maia"], "one-shot": row["methods"]["other"]}}
        for row in evaluated()
        if "methods" in row
    ]
    return {
        "rows": rows,
        "prompts": "p",
        "variants": ["full", "one-shot"],
        "summary": summarise([{**row, "layer": "all"} for row in rows]),
        "differences": _differences(rows, ["one-shot", NULL]),
        "truth": _truth(UNITS, {"full": FULL, "one-shot": LESS}, ["full", "one-shot"]),
    }


def test_the_lead_of_the_whole_system_is_paired_by_unit_and_told_with_its_interval():
    found = result()
    assert found["differences"]["one-shot"]["positive"]["mean"] == 3.0
    assert "pearson" not in found["differences"]["one-shot"], "what was not measured is not compared"
    assert found["differences"][NULL] == {}
    told = table(found)
    assert "truth: one-shot: 0.25 right" in told


def test_the_page_has_the_papers_columns_beside_ours():
    made = json.loads(page(result()).model_dump_json())
    cells = json.dumps(made["blocks"][0])
    assert "DALL-E 3" in cells
    assert "4.64" in cells
    assert made["blocks"][1]["title"] == "Against the truth"


@pytest.mark.anyio
async def test_a_variant_that_does_not_exist_is_refused_before_anything_starts(config_file, tmp_path):
    asked = Ablation("synthetic", "", "dog", variants=("half",))
    with pytest.raises(UsageError, match="'half'"):
        await ablate(Console(quiet=True), config_file(), None, asked, out=tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.anyio
async def test_a_comparison_is_not_gone_on_with_on_another_network(config_file, tmp_path, monkeypatch):
    @contextlib.asynccontextmanager
    async def bench(profile, **_):
        yield SimpleNamespace(context=SimpleNamespace(facts={"network": "cc", "dataset": "bb"}))

    async def units(*_):
        return {}

    monkeypatch.setattr(ablation.Workbench, "open", bench)
    monkeypatch.setattr(ablation, "_units", units)
    store = Store.open(tmp_path / "run")
    claim_studied(store, {"network": "aa", "dataset": "bb"})
    with pytest.raises(UsageError, match="started with something else"):
        await ablate(Console(quiet=True), config_file(), None, Ablation("m", "l", "3"), out=store.root)
    assert list(store.keys("")) == ["studied.json"]
