"""`maia synthetic` in one process: real pictures, masks, detector, observer, critic, and truths to be found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from actors.errors import UsageError
from agents.manifest import claim_studied
from agents.store import Store
from benchmarks.bench_scientist import drawn
from benchmarks.in_process import laboratory
from experiments import config
from experiments.console import Console
from experiments.gym.neurons import choose
from experiments.synthetic import measure, open_gym, table

pytestmark = pytest.mark.anyio


async def test_synthetic_neurons_are_named_and_scored(tmp_path):
    profile = config.load(None).profile("embedded").model_copy(update={"dataset": "scenes:40:0"})
    chosen = choose("umbrella OR castle; dog|grass; random 0; whisker")
    async with laboratory(profile) as (own, detector):
        result = await measure(
            Console(quiet=True),
            own,
            detector,
            profile,
            chosen,
            Store.open(tmp_path / "run"),
            {"command": "synthetic"},
            cache=tmp_path,
            seed=0,
            baseline=True,
        )
    assert json.loads((tmp_path / "run/synthetic.json").read_text()) == json.loads(json.dumps(result))
    assert list(result["left_out"]) == ["whisker"]
    rows = {row["truth"]: row for row in result["rows"]}
    assert rows["random 0"]["labels"] == ["not interpretable"]
    assert all(row["right"] for row in rows.values()), rows
    assert rows["dog|grass"]["operator"]
    assert rows["dog|grass"]["found_kind"] == "conditional"
    assert rows["umbrella OR castle"]["found_kind"] == "polysemantic"
    assert rows["umbrella OR castle"]["first_right"]["images"] <= rows["umbrella OR castle"]["images"]
    assert result["summary"]["two_afc"]["n"] == 2
    assert "against one look at the exemplars" in table(result)


@pytest.mark.parametrize("changed", ["network", "dataset"])
async def test_neurons_begun_with_another_detector_or_data_set_are_not_gone_on_with(changed, tmp_path):
    profile = config.load(None).profile("embedded").model_copy(update={"dataset": "scenes:40:0"})
    async with laboratory(profile) as (own, detector):
        _, fingerprint = open_gym(detector, profile, tmp_path, 0)
        begun = {"network": "a detector", "dataset": fingerprint}
        store = Store.open(tmp_path / "run")
        claim_studied(store, begun | {changed: "another"})
        with pytest.raises(UsageError, match="begun with something else"):
            await measure(
                Console(quiet=True),
                replace(own, facts=own.facts | begun),
                detector,
                profile,
                choose("umbrella"),
                store,
                {"command": "synthetic"},
                cache=tmp_path,
                seed=0,
                baseline=False,
            )
    assert list(store.keys("")) == ["studied.json"], "and nothing was claimed or studied"


def test_drawn_units_differ_by_seed_and_are_of_every_kind():
    from actors.chat.builtin.embedded_words import embedded_words

    words = embedded_words()
    first, second = drawn(5, 1, words), drawn(5, 2, words)
    assert first != second
    assert [unit.kind for unit in choose(first)] == ["mono"] * 5 + ["or"] * 5 + ["given"] * 5
