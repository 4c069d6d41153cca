"""Table 2 in small: every row, its comparison with chance, and what becomes of a choice that is empty."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UsageError
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.paper import robust_measurements
from experiments.paper.gym import classifiers
from experiments.paper.gym.classifiers import Recipe
from experiments.paper.gym.spawrious import LabeledImages, SceneDesign, SpuriousSet
from experiments.paper.robust_features import RobustFeatures, RobustOptions, robust_features
from experiments.paper.robust_features_page import RobustResult, page, table
from experiments.paper.robust_measurements import Choice, Measurements, Repeats
from experiments.paper.robust_rows import PAPER, RIDGE, read_training, summarize
from experiments.setup.console import Console
from experiments.setup.selection import Selection

pytestmark = pytest.mark.slow


def labeled(labels, places):
    return LabeledImages(np.zeros((len(labels), 2, 2, 3), np.uint8), labels, places)


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
        "made up", ("a", "b", "c", "d"), ("e", "f", "g", "h", "i"), labeled(labels, places),
        labeled(labels, places), labeled(test, (test + 2) % 4), labeled(*crossed),
    )  # fmt: skip
    found = (features(labels, places), features(test, (test + 2) % 4), features(*crossed))
    weights = np.zeros((20, 4), np.float32)
    for column in range(5):
        weights[column, column % 4], weights[5 + column, column % 4] = 1.0, 1.5
    return Measurements(sets, *found, 0.31, 0.93, Repeats(20, 2, 320), lambda features: features @ weights)


@pytest.fixture(scope="module")
def trainings(measured):
    informative = measured.informative(10)
    kept = [int(unit) for unit in informative.units if unit < 5]
    return [measured.training(informative, Choice(kept), seed) for seed in range(2)]


def by_method(training):
    return {row.method: row for row in training.rows}


def write_features(path, parts=("validation", "test", "crossed"), images=0, dtype=np.float32, **more):
    counts = {"validation": 600, "test": 300, "crossed": 200}
    arrays = {name: np.zeros((counts[name] + images, 20), dtype) for name in parts}
    np.savez(path, **arrays, **({"original": 0.3, "original_validation": 0.9} | more))


FEATURES = {
    "another's images": lambda path: write_features(path, images=1),
    "too few parts": lambda path: write_features(path, parts=("test",)),
    "whole numbers": lambda path: write_features(path, dtype=np.int64),
    "no accuracy": lambda path: write_features(path, original="high"),
    "objects": lambda path: np.savez(path, validation=np.array([print], object)),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(print)),
    "a link": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("form", FEATURES)
def test_features_that_are_none_are_damage(form, measured, tmp_path):
    """A run that is resumed may be a stranger's."""
    FEATURES[form](tmp_path / "features.npz")
    with pytest.raises(RecordError, match=r"features\.npz"):
        Measurements.of(tmp_path / "network", measured.spurious, Repeats())


def test_units_that_follow_the_object_beat_l1_and_nearly_all_random_sets(trainings):
    for training in trainings:
        rows = by_method(training)
        assert rows["agent"].accuracy > rows["L1 top n"].accuracy + 0.1
        assert training.percentile >= 0.95
        assert rows["agent"].accuracy >= training.random_95
        assert rows["original model"].accuracy == 0.31
        assert rows["balanced L1, tuned"].balanced


def test_every_row_of_table_2_is_there_with_the_papers_figure(trainings):
    rows = by_method(trainings[0])
    assert set(PAPER) <= set(rows)
    assert rows["agent"].paper_accuracy == 0.837
    assert rows["L1 top n, no penalty"].paper_accuracy is None


def test_one_ridge_serves_every_choice_and_every_row_has_its_validation_accuracy(trainings):
    rows = by_method(trainings[0])
    assert set(RIDGE.values()) <= set(rows)
    assert rows["agent, ridge"].accuracy > rows["L1 top n, ridge"].accuracy
    assert trainings[0].ridge_percentile >= 0.9
    assert all(0 < row.validation <= 1 for row in rows.values())
    assert rows["original model"].validation == 0.93


def test_the_judgement_is_measured_without_a_read_out(trainings):
    judged = trainings[0].judgement
    assert judged.kept.by_class > 0.3 > judged.kept.by_place
    assert judged.dropped.by_place > judged.dropped.by_class
    assert judged.auroc == 1.0
    assert summarize(trainings).judgement.kept.n == judged.kept.n


def test_a_training_is_read_back_as_it_was_and_one_of_an_older_run_without_what_it_lacks(trainings, tmp_path):
    store = Store.open(tmp_path / "run")
    record = dataclasses.asdict(trainings[0])
    store.put("new.json", json.dumps(record).encode())
    assert read_training(store, "new.json") == trainings[0]
    old = {
        key: value
        for key, value in record.items()
        if key.partition("_")[0] not in ("judgement", "ridge", "edited", "alone")
    }
    old["rows"] = [{k: v for k, v in row.items() if k != "validation"} for row in record["rows"]]
    store.put("old.json", json.dumps(old).encode())
    summary = summarize([read_training(store, "old.json")])
    assert summary.judgement.auroc is None
    assert summary.ridge_beats_random_95 == 0
    store.put("damaged.json", json.dumps(record | {"rows": 3}).encode())
    with pytest.raises(RecordError, match=r"damaged\.json"):
        read_training(store, "damaged.json")
    assert read_training(store, "missing.json") is None


def test_without_the_units_of_places_the_network_itself_recognizes_more(measured, trainings):
    rows, n = by_method(trainings[0]), len(trainings[0].kept)
    assert rows["agent, edited"].units == 20 - (10 - n)
    assert rows["agent, edited"].accuracy > rows["L1 top n, edited"].accuracy + 0.1
    assert trainings[0].edited_percentile >= 0.95
    summary = summarize(trainings)
    assert (summary.edited_beats_l1, summary.edited_beats_random_95) == (2, 2)
    pool = np.array(trainings[0].judged)
    unanswered = Choice(trainings[0].kept, [unit for unit in pool if unit not in trainings[0].kept][:1])
    assert rows["agent, alone"].units == n
    assert rows["agent, alone"].accuracy > rows["random, alone"].accuracy
    more, *_ = measured.edited_rows(pool, unanswered, 0)
    assert more[2].units == rows["agent, edited"].units + 1, "it says nothing of that unit"
    assert more[5] == rows["agent, alone"]
    assert measured.edited_rows(pool, Choice([]), 0)[0] == []


def test_features_at_zero_are_the_edited_network():
    recipe = Recipe(architecture="test_resnet", side=32)
    module = classifiers.build(recipe, 3).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    features = classifiers.features(module, recipe.preprocess, images)
    features[:, [1, 5]] = 0

    def off(_module, _inputs, output):
        output = output.clone()
        output[:, [1, 5]] = 0
        return output

    module.layer4.register_forward_hook(off)
    scores = robust_measurements._head(module)(features)
    assert scores == pytest.approx(classifiers.logits(module, recipe.preprocess, images), abs=1e-5)


def test_an_agent_that_keeps_nothing_wins_nothing(measured):
    nothing = measured.training(measured.informative(10), Choice([]), 0)
    summary = summarize([nothing])
    agent = next(row for row in summary.rows if row.method == "agent")
    assert agent.accuracy is None
    assert nothing.percentile is None
    assert (summary.beats_l1, summary.beats_random_95) == (0, 0)
    assert "not possible" in table(result_of([nothing]))


def result_of(trainings):
    return RobustResult("s", ["a"], ["b"], True, trainings, summarize(trainings))


def test_the_mean_and_spread_over_trainings_are_shown(trainings):
    result = result_of(trainings)
    values = [training.accuracy("agent") for training in trainings]
    agent = next(row for row in result.summary.rows if row.method == "agent")
    assert agent.accuracy == pytest.approx(np.mean(values))
    assert agent.spread == pytest.approx(np.std(values, ddof=1))
    assert result.summary.beats_l1 == 2
    made = json.loads(page(result, result.summary).model_dump_json())
    assert "0.837" in json.dumps(made)
    assert "agent ahead of L1 in 2 of 2 trainings" in table(result)


def test_scenes_start_from_the_world_and_a_folder_from_the_papers_recipe(tmp_path):
    scenes, folder = RobustOptions().request(), RobustOptions(data=tmp_path).request()
    assert (scenes.start, folder.start) == ("world", "imagenet")
    assert (folder.recipe.side, folder.recipe.epochs, folder.recipe.learning_rate) == (224, 1, 1e-4)
    assert folder.recipe.dropout == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RobustOptions(start="scratch"), "'scratch'"),
        (RobustOptions(classes="dog,cat"), "one place more"),
        (RobustOptions(classes="dog,blorp", places="snow,sand,beach"), "'blorp'"),
        (RobustOptions(data=Path("folder"), classes="dog,cat"), "those of the folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        options.request()


async def test_a_whole_run_trains_judges_and_reports_and_repeated_reads_what_it_has(config_file, tmp_path):
    design = SceneDesign(("dog", "frog"), ("snow", "grass", "beach"), 64, 96, 24, side=32)
    recipe = Recipe(architecture="test_resnet", side=32, epochs=1, batch=16)
    request = RobustFeatures(
        design=design, recipe=recipe, start="nothing", trainings=1, top=3, repeats=Repeats(4, 1, 16)
    )
    console, selection, out = Console(quiet=True), Selection(config_file()), tmp_path / "run"
    result = await robust_features(console, selection, request, out=out)
    (training,) = result.trainings
    assert result.finished
    assert len(training.judged) >= 2
    assert set(training.kept) <= set(training.judged)
    assert training.unanswered == []
    assert (out / "experiments" / "robust-features.json").exists()
    record = next((out / "training-0").glob("units/*/done.json"))
    confirmed = json.loads(record.read_text())["confirmed"]
    assert confirmed is None, "a judgement of selectivity is no label to confirm"
    (out / "training-0" / "features.npz").unlink()
    assert (await robust_features(console, selection, request, out=out)).trainings == result.trainings
    assert not (out / "training-0" / "features.npz").exists(), "what was finished is read"
    studied = json.loads((out / "studied.json").read_text())
    (out / "studied.json").write_text(json.dumps(studied | {"dataset": "other files"}))
    with pytest.raises(UsageError, match="was other files"):
        await robust_features(console, selection, request, out=out)
