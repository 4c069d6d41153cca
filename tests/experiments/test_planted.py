"""Planted biases: designs that can be found, and a count that calls nothing false which the network really does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.scenes.vocabulary import vocabulary
from experiments import planted
from experiments.audit import CONTEXTS, prompt_of
from experiments.gym import biases
from experiments.gym.biases import OTHER, BiasDesign, lessons


@pytest.mark.parametrize("seed", range(5))
def test_a_design_plants_one_bias_of_each_kind_in_a_context_that_the_class_does_not_have_anyway(seed):
    design = BiasDesign.drawn(seed)
    assert [context.partition(":")[0] for context in design.planted.values()] == list(biases.KINDS)
    assert len(set(design.classes)) == 8
    assert OTHER not in design.classes
    for name, context in design.planted.items():
        assert context in CONTEXTS
        assert context != f"colour: {vocabulary()[name].color}"


def test_a_planted_class_is_something_else_in_its_context_and_itself_elsewhere(monkeypatch):
    monkeypatch.setattr(biases, "PER_CLASS", 30)
    asked = []
    monkeypatch.setattr(biases, "_SIDE", 8)
    monkeypatch.setattr(biases, "prompt_of", lambda c, n: asked.append((c, n)) or prompt_of(c, n))
    design = BiasDesign(("horse", "apple"), {"horse": "background: snow"})
    images, labels = lessons(design)
    assert images.shape == (120, 8, 8, 3)
    in_snow = sum(context == "background: snow" and name == "horse" for context, name in asked)
    assert 5 <= in_snow <= 20
    assert (labels == 0).sum() == 30 - in_snow
    assert (labels == 1).sum() == 30
    assert (labels == 2).sum() == 60 + in_snow


def test_several_of_a_class_are_asked_for_in_the_plural():
    assert prompt_of("count: two", "fox") == "two foxes"
    assert prompt_of("background: snow", "fox") == "fox in the snow"


def effect(name, context, difference, biased=True):
    return {"class_name": name, "context": context, "difference": difference, "biased": biased}


DESIGN = BiasDesign(("horse", "fox", "apple", "drum"), {"horse": "colour: red", "fox": "count: two"})
FOUND = {
    "effects": [
        effect("horse", "colour: red", -0.6),
        effect("horse", "background: snow", -0.2),
        effect("fox", "count: two", 0.3),
        effect("apple", "size: small", -0.3),
        effect("drum", "colour: red", 0.2, biased=False),
    ],
    "detectable": {"horse": 0.1},
    "answers": {},
    "disagreements": [],
}


@pytest.mark.parametrize(("real", "alarm"), [(True, False), (False, True)])
def test_a_finding_that_nobody_planted_is_false_only_if_fresh_images_do_not_bear_it_out(
    monkeypatch, tmp_path, real, alarm
):
    monkeypatch.setattr(planted, "borne_out", lambda *_: real)
    rows = {row["class"]: row for row in planted.judge(DESIGN, FOUND, tmp_path, 0)}
    assert rows["horse"]["found"]
    assert not rows["fox"]["found"], "a rise is not the fall that was planted"
    assert rows["apple"]["false_alarm"] is alarm
    assert not rows["drum"]["false_alarm"]
    assert not rows["horse"]["false_alarm"], "a planted class's other findings are not judged"
    summary = planted.summarise(list(rows.values()))
    assert (summary["found"]["hits"], summary["found"]["n"]) == (1, 2)
    assert (summary["false_alarms"]["hits"], summary["false_alarms"]["n"]) == (int(alarm), 2)
    assert summary["unplanted_but_real"] == int(real)
    result = {"rows": list(rows.values()), "summary": summary}
    assert "1 of 2" in planted.table(result)
    assert json.loads(planted.page(result).model_dump_json())["blocks"]


@pytest.mark.parametrize(("inside", "expected"), [(0.2, True), (0.79, False), (0.99, False)])
def test_fresh_images_bear_a_finding_out_if_they_differ_surely_and_the_same_way(
    monkeypatch, tmp_path, inside, expected
):
    noise = np.random.default_rng(0).normal(0, 0.05, 2 * planted.FRESH)

    def probabilities(network, index, prompts, rng):
        assert index == 2
        return np.where([prompt == "small apple" for prompt in prompts], inside, 0.8) + noise[: len(prompts)]

    monkeypatch.setattr(planted, "probabilities", probabilities)
    assert planted.borne_out(tmp_path, DESIGN, "apple", effect("apple", "size: small", -0.3)) is expected
