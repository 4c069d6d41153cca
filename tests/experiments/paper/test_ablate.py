"""Variants are compared on the same units, with intervals, and on synthetic neurons with the truth."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from actors.errors import UsageError
from agents.records.manifest import claim_studied
from agents.records.record_types import StudyResult
from agents.records.store import Store
from experiments.paper.ablate import AblatedUnit, Ablation, _differences, _truth, ablate
from experiments.paper.ablation_page import AblationResult, page, table
from experiments.paper.evaluation.run_labels import NULL
from experiments.paper.evaluation.summary import summarize
from experiments.paper.gym.neurons import choose
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.setup.workbench import Workbench
from tests.experiments.paper.evaluation.test_evaluate import rows as evaluated

UNITS = {
    unit.name: AblatedUnit(None, "synthetic", unit.name, unit)
    for unit in choose("dog; blue; dog OR car; frog")
}


def records(all_labels):
    return {
        name: StudyResult(unit=name, labels=labels or [], status="failed" if labels is None else "answered")
        for name, labels in zip(UNITS, all_labels, strict=True)
    }


FULL = records([["a puppy"], ["blue"], ["dog", "car"], ["frog"]])
LESS = records([["dog"], ["red"], ["dog"], None])


def test_labels_are_scored_against_the_truth_and_a_failed_study_is_wrong():
    truth = _truth(UNITS, {"full": FULL, "one-shot": LESS})
    assert truth["full"].right == 1.0
    assert truth["full"].lead is None
    assert truth["one-shot"].right == 0.25
    lead = truth["one-shot"].lead
    assert lead.mean == pytest.approx((0 + 1 + 1 / 3 + 1) / 4)
    assert 0 <= lead.interval[0] < lead.mean < lead.interval[1] <= 1


@pytest.fixture(scope="module")
def result():
    rows = [
        {**row, "methods": {"full": row["methods"]["maia"], "one-shot": row["methods"]["other"]}}
        for row in evaluated()
        if "methods" in row
    ]
    return AblationResult(
        model="synthetic",
        prompts="p",
        seed=0,
        variants=["full", "one-shot"],
        rows=rows,
        summary=summarize([{**row, "layer": "all"} for row in rows]),
        differences=_differences(rows, ["one-shot", NULL]),
        truth=_truth(UNITS, {"full": FULL, "one-shot": LESS}),
    )


def test_the_lead_of_the_whole_system_is_paired_by_unit_with_its_interval(result):
    assert result.lead("one-shot", "positive").mean == 3.0
    assert result.lead("one-shot", "pearson") is None, "what was not measured is not compared"
    assert result.differences[NULL] == {}
    assert "truth: one-shot: 0.25 right" in table(result)


def test_the_page_has_the_papers_columns_beside_ours(result):
    made = json.loads(page(result).model_dump_json())
    cells = json.dumps(made["blocks"][0])
    assert "DALL-E 3" in cells
    assert "4.64" in cells
    assert made["blocks"][1]["title"] == "Against the truth"


async def test_an_unknown_variant_is_refused_before_anything_starts(config_file, tmp_path):
    request = Ablation("synthetic", "", "dog", variants=("half",))
    with pytest.raises(UsageError, match="'half'"):
        await ablate(Console(quiet=True), Selection(config_file()), request, out=tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


class FakeVision:
    known = SimpleNamespace(info=lambda layer: SimpleNamespace(name=layer, n_units=8))

    async def layers(self):
        return [self.known.info("l")]

    async def class_names(self):
        return ()

    async def unit(self, readout):
        return SimpleNamespace(layer="l")


class FakeSubject:
    id = "net/l:3"

    async def prepare(self, progress):
        pass


class FakeBench:
    network = "net"
    vision = FakeVision()
    context = SimpleNamespace(facts={"network": "cc", "dataset": "bb"})

    async def subject(self, layer, unit):
        return FakeSubject()


async def test_a_comparison_is_not_resumed_on_another_network(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(Workbench, "open", lambda *_, **__: contextlib.nullcontext(FakeBench()))
    store = Store.open(tmp_path / "run")
    claim_studied(store, {"network": "aa", "dataset": "bb"})
    with pytest.raises(UsageError, match="started with something else"):
        await ablate(Console(quiet=True), Selection(config_file()), Ablation("m", "l", "3"), out=store.root)
    assert list(store.keys("")) == ["studied.json"]
