"""Table 2 in small: every row, its comparison with chance, and what becomes of a choice that is empty."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from actors.errors import UsageError
from experiments.paper import robust_features
from experiments.paper.gym.classifiers import Recipe
from experiments.paper.gym.spawrious import Labelled, SceneDesign, SpuriousSet
from experiments.paper.robust_features import (
    Measurements,
    RobustFeatures,
    _open_set,
    asked_for,
    summarise,
)
from experiments.paper.robust_features_page import page, table
from experiments.setup.console import Console


def labelled(labels, places):
    return Labelled(np.zeros((len(labels), 2, 2, 3), np.uint8), labels, places)


@pytest.fixture(scope="module")
def measured():
    """Columns 0 to 4 follow the class, 5 to 9 the place; 10 to 19 are noise. In the test each place is
    another's.
    """
    rng = np.random.default_rng(0)

    def features(labels, places):
        values = rng.normal(size=(len(labels), 20)).astype(np.float32)
        for column in range(5):
            values[np.arange(len(labels)), column] += 2.0 * (labels == column % 4)
            values[np.arange(len(labels)), 5 + column] += 3.0 * (places == column % 4)
        return values

    labels = np.arange(600) % 4
    places = np.where(rng.random(600) < 0.9, labels, 4)
    test = np.arange(300) % 4
    crossed = np.arange(200) % 4, np.arange(200) // 4 % 5
    sets = SpuriousSet(
        "made up", ("a", "b", "c", "d"), ("e", "f", "g", "h", "i"), labelled(labels, places),
        labelled(labels, places), labelled(test, (test + 2) % 4), labelled(*crossed),
    )  # fmt: skip
    found = (features(labels, places), features(test, (test + 2) % 4), features(*crossed))
    return Measurements(sets, *found, 0.31, 0.93)


@pytest.fixture(scope="module")
def few(module_patch):
    module_patch.setattr(robust_features, "RANDOM_SETS", 20)
    module_patch.setattr(robust_features, "BALANCED_SETS", 2)


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def trainings(measured, few):
    informative = measured.informative(10)
    kept = [unit for unit in informative.units if unit < 5]
    return [{"seed": n, **measured.rows(informative, kept, n)} for n in range(2)]


def test_units_that_follow_the_object_beat_l1_and_nearly_all_random_sets(trainings):
    for training in trainings:
        found = {row["method"]: row for row in training["rows"]}
        assert found["agent"]["accuracy"] > found["L1 top n"]["accuracy"] + 0.1
        assert training["percentile"] >= 0.95
        assert found["agent"]["accuracy"] >= training["random_95"]
        assert found["original model"]["accuracy"] == 0.31
        assert found["balanced L1, tuned"]["balanced"]


def test_every_row_of_table_2_is_there_with_the_papers_figure(trainings):
    methods = {row["method"] for row in trainings[0]["rows"]}
    assert set(robust_features.PAPER) <= methods
    found = {row["method"]: row["paper_accuracy"] for row in trainings[0]["rows"]}
    assert found["agent"] == 0.837
    assert found["L1 top n, no penalty"] is None


def test_one_ridge_serves_every_choice_and_every_row_tells_its_validation_accuracy(trainings):
    found = {row["method"]: row for row in trainings[0]["rows"]}
    assert set(robust_features.RIDGE.values()) <= set(found)
    assert found["agent, ridge"]["accuracy"] > found["L1 top n, ridge"]["accuracy"]
    assert trainings[0]["ridge_percentile"] >= 0.9
    assert all(0 < row["validation"] <= 1 for row in found.values())
    assert found["original model"]["validation"] == 0.93


def test_the_judgement_is_measured_without_a_read_out(trainings):
    judged = trainings[0]["judgement"]
    assert judged["kept"]["by_class"] > 0.3 > judged["kept"]["by_place"]
    assert judged["dropped"]["by_place"] > judged["dropped"]["by_class"]
    assert judged["auroc"] == 1.0
    told = summarise(trainings)["judgement"]
    assert told["kept"]["n"] == judged["kept"]["n"]


def test_trainings_of_older_runs_have_no_judgement_and_are_still_summarised(trainings):
    fields = ("judgement", "ridge_percentile", "ridge_random_95")
    old = {key: value for key, value in trainings[0].items() if key not in fields}
    rows = [{k: v for k, v in row.items() if k != "validation"} for row in old["rows"]]
    summary = summarise([old | {"rows": rows}])
    assert summary["judgement"]["auroc"] is None
    assert summary["ridge_beats_random_95"] == 0


def test_an_agent_that_keeps_nothing_wins_nothing(measured, few):
    training = {"seed": 0, **measured.rows(measured.informative(10), [], 0)}
    summary = summarise([training])
    agent = next(row for row in summary["rows"] if row["method"] == "agent")
    assert agent["accuracy"] is None
    assert training["percentile"] is None
    assert (summary["beats_l1"], summary["beats_random_95"]) == (0, 0)
    told = table({"summary": summary, "trainings": [training]})
    assert "not possible" in told


def test_the_mean_and_spread_over_trainings_are_told_and_shown(trainings):
    summary = summarise(trainings)
    values = [row["accuracy"] for t in trainings for row in t["rows"] if row["method"] == "agent"]
    agent = next(row for row in summary["rows"] if row["method"] == "agent")
    assert agent["accuracy"] == pytest.approx(np.mean(values))
    assert agent["spread"] == pytest.approx(np.std(values, ddof=1))
    assert summary["beats_l1"] == 2
    result = {"summary": summary, "trainings": trainings, "set": "s", "classes": ["a"], "places": ["b"]}
    made = json.loads(page(result).model_dump_json())
    assert "0.837" in json.dumps(made)
    assert "agent ahead of L1 in 2 of 2 trainings" in table(result)


def words(**changes):
    usual = {"data": None, "classes": None, "places": None, "start": None, "trainings": 1, "epochs": None, "top": 5,
             "seed": 0, "limit": None}  # fmt: skip
    return {**usual, **changes}


def test_scenes_start_from_the_world_and_a_folder_from_the_papers_recipe(tmp_path):
    scenes, folder = asked_for(**words()), asked_for(**words(data=tmp_path))
    assert (scenes.start, folder.start) == ("world", "imagenet")
    assert (folder.recipe.side, folder.recipe.epochs, folder.recipe.learning_rate) == (224, 1, 1e-4)
    assert folder.recipe.dropout == 0.1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"start": "scratch"}, "'scratch'"),
        ({"classes": "dog,cat"}, "one place more"),
        ({"classes": "dog,blorp", "places": "snow,sand,beach"}, "'blorp'"),
    ],
)
def test_words_that_do_not_go_together_are_refused(changes, told):
    with pytest.raises(UsageError, match=told):
        asked_for(**words(**changes))


def test_a_folder_brings_its_own_classes(tmp_path):
    with pytest.raises(UsageError, match="those of the folder"):
        asked_for(**words(data=tmp_path, classes="dog,cat"))


@pytest.mark.ray
@pytest.mark.anyio
async def test_a_whole_run_trains_judges_and_reports_and_repeated_reads_what_it_has(
    ray_cluster, config_file, module_patch, tmp_path
):
    for name, value in (("RANDOM_SETS", 4), ("BALANCED_SETS", 1), ("BALANCED_IMAGES", 16)):
        module_patch.setattr(robust_features, name, value)
    design = SceneDesign(("dog", "frog"), ("snow", "grass", "beach"), 64, 96, 24, side=32)
    recipe = Recipe(architecture="resnet10t", side=32, epochs=1, batch=16)
    asked = RobustFeatures(design=design, recipe=recipe, start="nothing", trainings=1, top=3)
    console, out = Console(quiet=True), tmp_path / "run"
    result = await robust_features.robust_features(console, config_file(), None, asked, out=out)
    (training,) = result["trainings"]
    assert result["finished"]
    assert len(training["judged"]) >= 2
    assert set(training["kept"]) <= set(training["judged"])
    assert training["unanswered"] == []
    assert (out / "experiments" / "robust-features.json").exists()
    record = next((out / "training-0").glob("units/*/done.json"))
    assert json.loads(record.read_text())["confirmed"] is None, (
        "a judgement of selectivity is no label to confirm"
    )
    (out / "training-0" / "features.npz").unlink()
    again = await robust_features.robust_features(console, config_file(), None, asked, out=out)
    assert again["trainings"] == result["trainings"]
    assert not (out / "training-0" / "features.npz").exists(), "what was finished is read"
    other = dataclasses.replace(_open_set(asked, tmp_path / "spurious", lambda *_: None), name="other files")
    module_patch.setattr(robust_features, "_open_set", lambda *_: other)
    with pytest.raises(UsageError, match="now other files"):
        await robust_features.robust_features(console, config_file(), None, asked, out=out)
