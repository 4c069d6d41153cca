"""Whole studies in the embedded world itself: real pictures, masks, observer, detector."""

from __future__ import annotations

import pytest

from actors.chat.builtin.embedded_words import embedded_words
from actors.chat.builtin.scientist import Scientist
from actors.detection.compose import Formula
from actors.scenes.concept_net import shared_net
from benchmarks.bench_scientist import OPENING, terms_named
from tests.actors.chat.builtin.scene_world import SceneLab, SceneWorld
from tests.actors.chat.builtin.world import study

FORMULAS = [Formula.parse(text) for text in ("umbrella OR castle", "dog|grass")]


@pytest.fixture(scope="module")
def lab() -> SceneLab:
    return SceneLab(shared_net(), FORMULAS, size=60)


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_a_synthetic_neuron_is_named(lab: SceneLab, formula: Formula) -> None:
    words = embedded_words()
    outcome = study(Scientist(words, lab.eyes), SceneWorld(lab, formula), OPENING)
    wanted = {term for concept in formula.concepts for term in words.find(concept)}
    assert terms_named(outcome.labels, words) >= wanted
    assert len(outcome.labels) == (2 if formula.operator == "or" else 1)
