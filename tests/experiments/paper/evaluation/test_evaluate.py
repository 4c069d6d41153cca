"""Which labels are compared, on which units, and how results are put together."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from actors.endpoint.faults import EndpointDownError
from actors.errors import MaiaError, UsageError
from actors.serving.replica import ReplicaFacts
from actors.vision.data.datasets import open_dataset
from agents.records.journal import slug
from agents.records.record_types import StudyResult
from agents.records.store import Store, StoreError
from experiments.paper.evaluation.evaluate import Sizes, measure, prepare
from experiments.paper.evaluation.page import EvaluationResult, page
from experiments.paper.evaluation.run_labels import NULL, LabeledUnit, gather, label_of, left_out, with_null
from experiments.paper.evaluation.summary import difference, summarize
from experiments.setup.config import Profile
from experiments.setup.console import Console
from tests.experiments.paper.evaluation.test_predictive import dog_unit, evaluation
from tests.tools.fakes import FakeStudio


def run_directory(path, labels, model="net"):
    store = Store.open(path)
    store.put("manifest.json", json.dumps({"command": "sweep", "model": model}).encode())
    plan = []
    for number, label in enumerate(labels):
        unit = f"net/layer:{number}"
        plan.append({"unit": unit, "layer": "layer", "name": str(number)})
        if label is not None:
            record = {"unit": unit, "labels": label, "status": "answered"}
            store.put(f"units/{slug(unit)}/done.json", json.dumps(record).encode())
    store.put("plan.json", json.dumps(plan).encode())
    return path


def test_units_with_a_label_by_every_method_are_compared(tmp_path):
    run = run_directory(tmp_path / "a", [["dog"], ["cat", "car"], ["not interpretable"], None, ["tree"]])
    other = run_directory(tmp_path / "b", [["animal"], ["fish"], ["sky"], ["sea"], []])
    people = tmp_path / "people.json"
    people.write_text(json.dumps({"layer:0": "puppy", "net/layer:1": "wheels", "layer:4": "leaf"}))
    labeled = gather(run, {"other": other, "people": people})
    assert [(unit.name, unit.labels) for unit in labeled] == [
        ("0", {"maia": "dog", "other": "animal", "people": "puppy"}),
        ("1", {"maia": "cat OR car", "other": "fish", "people": "wheels"}),
    ]


def test_units_that_are_left_out_are_counted_with_the_reason(tmp_path):
    run = run_directory(tmp_path / "a", [["dog"], ["cat"], ["not interpretable"], [], ["tree"]])
    people = tmp_path / "people.json"
    people.write_text(json.dumps({"layer:0": "puppy", "layer:1": "kitten", "layer:2": "grass"}))
    without_label, without_other = left_out(run, gather(run, {"people": people}))
    assert "without a label: 2 of 5 units" in without_label
    assert "not every other method has a label: 1 of 5 units" in without_other
    assert left_out(run_directory(tmp_path / "b", [["dog"]]), gather(tmp_path / "b", {})) == []


def test_what_is_no_label_is_not_evaluated():
    assert label_of(StudyResult(unit="net/x:0", task="selective", labels=["SELECTIVE"])) == ""
    assert label_of(StudyResult(unit="net/x:0", labels=["dog", "car"])) == "dog OR car"
    assert label_of(StudyResult(unit="net/x:0", status="failed")) == ""


def test_a_method_without_labels_for_the_run_is_named(tmp_path):
    run = run_directory(tmp_path / "a", [["dog"]])
    empty = tmp_path / "people.json"
    empty.write_text(json.dumps({"elsewhere:3": "x"}))
    with pytest.raises(UsageError, match=r"people \(1 labels\)"):
        gather(run, {"people": empty})
    empty.write_text("[1]")
    with pytest.raises(UsageError, match="labels by unit"):
        gather(run, {"people": empty})
    with pytest.raises(UsageError, match="there is no run in"):
        gather(tmp_path, {})


def test_the_control_is_another_units_label_of_the_layer_that_names_something_else():
    units = [LabeledUnit(f"u{n}", layer, str(n), {"maia": label}) for n, (layer, label) in enumerate(
        [("a", "dog"), ("a", "brown dogs"), ("a", "car"), ("b", "tree")]
    )]  # fmt: skip
    nulls = [each.labels.get(NULL) for each in with_null(units, 5)]
    assert nulls[:2] == ["car", "car"]
    assert nulls[2] in ("dog", "brown dogs")
    assert nulls[3] is None


class Broken(FakeStudio):
    async def generate(self, prompts, seeds, *, agent=""):
        raise MaiaError("the generator is gone.")


async def test_what_was_measured_is_read_and_a_failure_is_on_record_and_tried_again(tmp_path):
    units = [LabeledUnit("u1", "a", "1", {"maia": "dog", NULL: "guitar"})]
    store, studio = Store.open(tmp_path), FakeStudio()

    async def subject_of(_unit):
        return dog_unit(studio)

    console = Console(quiet=True)
    (failed,) = await measure(console, evaluation(Broken()), units, subject_of, store)
    assert failed["error"] == {"type": "MaiaError", "message": "the generator is gone."}
    (row,) = await measure(console, evaluation(studio), units, subject_of, store)
    made = len(studio.made)
    (again,) = await measure(console, evaluation(studio), units, subject_of, store)
    assert again == row
    assert len(studio.made) == made
    (other,) = await measure(
        console, evaluation(studio), [LabeledUnit("u1", "a", "1", {"maia": "cat"})], subject_of, store
    )
    assert other["labels"] == {"maia": "cat"}, "another label is another measurement"
    made = len(studio.made)
    changed = replace(evaluation(studio), facts={"generator": "another"})
    await measure(console, changed, units, subject_of, store)
    assert len(studio.made) > made, "another generator is another measurement"
    await measure(console, changed, units, subject_of, store)


@pytest.mark.parametrize("fault", [EndpointDownError("it is down."), StoreError("full.")])
async def test_what_every_unit_would_meet_ends_the_evaluation_and_is_no_units_failure(tmp_path, fault):
    class Down(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            return [fault] * len(prompts)

    async def subject_of(_unit):
        return dog_unit(FakeStudio())

    units = [LabeledUnit(f"u{i}", "a", str(i), {"maia": "dog"}) for i in range(3)]
    with pytest.raises(type(fault)):
        await measure(Console(quiet=True), evaluation(Down()), units, subject_of, Store.open(tmp_path))


class Pool:
    """A generator of a model, which also counts what it did."""

    def __init__(self, model):
        self.model, self.requests = model, 0

    async def describe(self):
        self.requests += 1
        generator = {"name": "g", "model": self.model, "settings": "20 steps", "requests": self.requests}
        return ReplicaFacts(7, 1, 8, {"generator": generator})


async def test_an_evaluation_knows_its_generator_and_the_settings_that_decide_its_measures():
    profile = Profile(dataset="scenes:300:1")

    async def facts(profile, pool):
        context = SimpleNamespace(observers=None, studio=FakeStudio(), facts={"generator": "g"})
        bench = SimpleNamespace(
            profile=profile, context=context, pools={"generation": pool},
            dataset=open_dataset(profile.dataset),
        )  # fmt: skip
        return (await prepare(bench, Sizes(2, 2), 0)).facts

    pool = Pool("sd-1")
    first = await facts(profile, pool)
    assert await facts(profile, pool) == first, "what a generator has counted is nothing to a measure"
    assert await facts(profile, Pool("sd-2")) != first
    exact = profile.vision.model_copy(update={"reserve": 0.4})
    assert await facts(profile.model_copy(update={"vision": exact}), pool) != first
    assert json.loads(json.dumps(first)) == first


def rows():
    def methods(a, b):
        same = {
            "negative": 0.5,
            "auroc": 0.9,
            "margin": 2.0,
            "cosy_auc": 0.8,
            "cosy_mad": 1.0,
            "pearson": None,
            "auprc": 0.3,
            "f1": 0.4,
            "iou": 0.2,
        }
        return {"maia": {"positive": a, **same}, "other": {"positive": b, **same}}

    return [
        {"unit": "1", "layer": "conv1", "methods": methods(3.0, 1.0)},
        {"unit": "2", "layer": "layer4", "methods": methods(5.0, 2.0)},
        {"unit": "3", "layer": "layer4", "methods": methods(7.0, 3.0)},
        {"unit": "4", "layer": "layer4", "error": {"type": "x", "message": "y"}},
    ]


def test_means_are_by_layer_and_over_all_and_what_was_not_measured_stays_empty():
    means = {(row.layer, row.method): row for row in summarize(rows())}
    assert means["layer4", "maia"].positive == 6.0
    assert means["layer4", "maia"].n == 2
    assert means["average", "other"].positive == 2.0
    assert means["conv1", "maia"].pearson is None


def test_methods_are_compared_unit_by_unit():
    lead = difference(rows(), "maia", "other", "positive")
    assert lead.mean == 3.0
    assert lead.interval[0] <= 3.0 <= lead.interval[1]
    assert lead.n == 3
    assert difference(rows(), "maia", "unknown method", "positive") is None


def test_the_page_shows_the_papers_rows_for_a_network_that_it_studied():
    result = EvaluationResult("resnet152", "p", 0, [], rows(), summarize(rows()))
    assert any(row[0] == "layer4" and row[-2:] == (7.10, 1.74) for row in page(result).blocks[0].rows)
    other = page(replace(result, model="mine"))
    assert all(row[-1] is None for row in other.blocks[0].rows)
    assert "did not study" in other.blocks[0].note
