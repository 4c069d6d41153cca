"""`maia synthetic` in one process: real pictures, masks, detector, observer, critic, and truths to be
found.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from actors.embedded.drawing.withheld import Withheld
from actors.errors import UsageError
from agents.records.manifest import claim_studied
from agents.records.record_types import Manifest
from agents.records.store import Store
from benchmarks.bench_scientist import drawn
from benchmarks.in_process import run_context
from experiments.paper.gym.dataset import ALONE, PLANTED, GymDataset
from experiments.paper.gym.neurons import choose, planted
from experiments.paper.gym.opening import lacked, open_gym, studied, without
from experiments.paper.synthetic_neurons import GymContext, NeuronRun, study_neurons
from experiments.paper.synthetic_summary import summarize, table
from experiments.setup import config
from experiments.setup.console import Console
from tests.experiments.paper.gym.test_score import neuron_row

pytestmark = pytest.mark.slow


async def test_synthetic_neurons_are_named_and_scored(tmp_path):
    """Of each kind one, with few exemplars: the figures over many are the benchmark's."""
    profile = config.load(None).profile("embedded").model_copy(update={"dataset": "scenes:200:0"})
    run = NeuronRun(
        Store.open(tmp_path / "run"),
        Manifest(command="synthetic"),
        choose("umbrella OR castle; dog|grass; random 0; hair"),
    )
    async with run_context(profile) as (own, detector):
        result = await study_neurons(Console(quiet=True), GymContext(own, detector, profile, tmp_path), run)
    assert json.loads((tmp_path / "run/synthetic.json").read_text()) == json.loads(json.dumps(asdict(result)))
    assert list(result.left_out) == ["hair"]
    rows = {row.truth: row for row in result.rows}
    assert rows["random 0"].labels == ["not interpretable"]
    assert all(row.right for row in rows.values()), rows
    assert rows["dog|grass"].operator
    assert rows["dog|grass"].found_kind == "conditional"
    assert rows["umbrella OR castle"].found_kind == "polysemantic"
    assert rows["umbrella OR castle"].first_right.images <= rows["umbrella OR castle"].images
    assert result.summary.two_afc.n == 2
    assert "against one look at the exemplars" in table(result)


@pytest.mark.parametrize("changed", ["network", "dataset"])
async def test_neurons_of_another_detector_or_data_set_are_not_resumed(changed, tmp_path):
    profile = config.load(None).profile("embedded").model_copy(update={"dataset": "scenes:40:0"})
    async with run_context(profile) as (own, detector):
        chosen = choose("umbrella")
        _, fingerprint = open_gym(detector, profile, tmp_path, 0, chosen)
        facts = {"network": "a detector", "dataset": fingerprint}
        store = Store.open(tmp_path / "run")
        claim_studied(store, facts | {changed: "another"})
        lab = GymContext(replace(own, facts=own.facts | facts), detector, profile, tmp_path)
        with pytest.raises(UsageError, match="started with something else"):
            await study_neurons(
                Console(quiet=True),
                lab,
                NeuronRun(store, Manifest(command="synthetic"), chosen, baseline=False),
            )
    assert list(store.keys("")) == ["studied.json"], "and nothing was claimed or studied"


@pytest.mark.parametrize(
    ("asked", "message"), [("pizza|zorblax", "zorblax"), ("snow|desert", "scene has one")]
)
async def test_a_unit_that_no_scene_can_show_is_refused_by_name(asked, message, tmp_path):
    profile = config.load(None).profile("embedded").model_copy(update={"dataset": "scenes:40:0"})
    chosen = choose(f"umbrella; {asked}")
    async with run_context(profile) as (_, detector):

        async def open_all() -> None:
            gym, _ = open_gym(detector, profile, tmp_path, 0, chosen)
            await studied(gym, chosen)

        with pytest.raises(UsageError, match=message):
            await open_all()


def test_what_drives_a_unit_is_planted_whatever_it_is():
    shown = planted(choose("turtle|bed; apple|snow; turtle|bed; dog OR cat; umbrella"))
    assert shown == [("turtle", "bed"), ("apple", "snow"), ("dog",), ("cat",), ("umbrella",)]
    dataset = GymDataset(30, 3, shown)
    scenes = [dataset.scene(index) for index in range(30, len(dataset))]
    pairs, alone = scenes[: 2 * PLANTED], scenes[2 * PLANTED :]
    assert len(alone) == 3 * ALONE
    assert all({"turtle", "bed"} <= {o.concept for o in scene.objects} for scene in pairs[:PLANTED])
    assert all(scene.background == "snow" for scene in pairs[PLANTED:])
    assert [[o.concept for o in scene.objects] for scene in alone[:ALONE]] == [["dog"]] * ALONE


def test_concepts_are_taken_from_maker_and_models_alone_and_only_from_stand_ins():
    loaded, third = config.load(None), Withheld(share=1 / 3, seed=2)
    profile = without(loaded.profile("embedded"), third)
    assert lacked(profile) == third.concepts()
    assert profile.chat.observers.withheld == profile.chat.interpreter.withheld == third
    assert profile.dataset == loaded.profile("embedded").dataset
    assert profile.detection == loaded.profile("embedded").detection
    with pytest.raises(UsageError, match="embedded image maker"):
        without(loaded.profile("hosted"), third)


def test_units_that_the_maker_cannot_drive_are_counted_apart():
    row = neuron_row("mono", right=True)
    far = [
        replace(row, right=False, reachable=False, verdict=verdict)
        for verdict in ("out of reach", "confirmed")
    ]
    summary = summarize([row, *far])
    assert summary.by_kind["mono"].n == 1
    counts = summary.out_of_reach
    assert (counts.n, counts.held, counts.called) == (2, 1, 1)
    assert summarize([row]).out_of_reach is None


def test_drawn_units_differ_by_seed_and_are_of_every_kind():
    from actors.embedded.language.words import embedded_words

    words = embedded_words()
    first, second = drawn(5, 1, words), drawn(5, 2, words)
    assert first != second
    assert [unit.kind for unit in choose(first)] == ["mono"] * 5 + ["or"] * 5 + ["given"] * 5
