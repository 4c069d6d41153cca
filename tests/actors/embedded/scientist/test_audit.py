"""Bias audits and selectivity tests against classifiers whose faults are known."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from actors.embedded.language.words import embedded_words
from actors.embedded.reasoning.stimuli import Stimulus
from actors.embedded.scientist.scientist import Scientist
from tests.actors.embedded.scientist.world import World, study

WORDS = embedded_words()
AUDIT = 'Find where the probability of the class "teapot" is low. Use [CODE]; end with [BIAS]: ...'
SELECTIVE = """Is this unit robust? Use [CODE]; end with [REASONING]: ... and [LABEL]: SELECTIVE or SPURIOUS.
The classes: dog, cat, horse, cow.
The backgrounds: beach, desert, mud, forest, snow."""
LAST = "No further program will be run: give [BIAS] or [REASONING] and [LABEL] now."


def audit(low: Callable[[Stimulus], bool], seed: int = 0, *, usual: float = 0.8, lowered: float = 0.3) -> str:
    def probability(content: Stimulus, rng: random.Random) -> float:
        if "teapot" not in content.concepts:
            return min(usual, 0.02)
        return min(1.0, max(0.0, rng.gauss(lowered if low(content) else usual, 0.15 * usual)))

    world = World(WORDS, probability, seed)
    return study(Scientist(WORDS), world, AUDIT, seed=seed, last_word=LAST).answer


@pytest.mark.parametrize(
    ("low", "word"),
    [
        (lambda content: content.background == "snow", "in the snow"),
        (
            lambda content: any(t.concept == "teapot" and t.color == "purple" for t in content.things),
            "purple",
        ),
        (lambda content: any(t.concept == "teapot" and t.count > 4 for t in content.things), "five"),
    ],
)
def test_a_planted_bias_is_found(low: Callable[[Stimulus], bool], word: str) -> None:
    answer = audit(low)
    assert answer.startswith("[BIAS]: The score of teapot is lower")
    assert word in answer


def test_a_companion_that_lowers_the_score_is_found() -> None:
    first = audit(lambda content: False)
    companion = random.Random("teapot").sample([n for n in WORDS.concepts if n != "teapot"], 6)[0]
    assert "No bias was found" in first
    assert f"beside a{'n' if companion[0] in 'aeiou' else ''} {companion}" in audit(
        lambda content: companion in content.concepts
    )


def test_a_negative_audit_reports_the_detectable_difference() -> None:
    clear = [audit(lambda content: False, seed) for seed in range(5)]
    assert all("No bias was found for teapot" in answer for answer in clear)
    assert all("would have been seen" in answer for answer in clear)


@pytest.mark.parametrize("usual", [0.0, 0.001, 0.02])
def test_an_unrecognized_class_is_reported_as_unmeasured(usual: float) -> None:
    answer = audit(lambda content: False, usual=usual)
    assert answer.startswith("[BIAS]: Nothing could be measured for teapot")
    assert "No bias" not in answer
    assert "would have been seen" not in answer


def test_a_loss_of_a_hardly_recognized_class_is_reported_as_impossible() -> None:
    answer = audit(lambda content: False, usual=0.045)
    assert "No bias was found" in answer
    assert "A loss of that size was not possible" in answer


@pytest.mark.slow
def test_a_rejected_suspect_is_reported_with_its_figures() -> None:
    """At the limit the verdict changes with the images, and so with the seed; the figures say why."""
    answers = [audit(lambda content: content.background == "snow", seed, lowered=0.7) for seed in range(12)]
    fallen = [answer for answer in answers if "did not hold" in answer]
    assert fallen
    for answer in fallen:
        tail = answer.partition("did not hold on fresh images: ")[2]
        assert re.search(r"\(mean 0\.\d\d against 0\.\d\d without, \d+ fresh images, p = 0\.\d+\)", tail)


def selectivity(unit: Callable[[Stimulus], float], opening: str = SELECTIVE) -> str:
    def activation(content: Stimulus, rng: random.Random) -> float:
        return unit(content) + rng.gauss(0, 0.2)

    world = World(WORDS, activation)
    return study(Scientist(WORDS), world, opening, last_word=LAST).answer


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        (lambda c: float("dog" in c.concepts), "SELECTIVE"),
        (lambda c: float(c.background == "snow"), "SPURIOUS"),
        (lambda c: float("dog" in c.concepts) + float(c.background == "snow"), "SPURIOUS"),
        (lambda c: float("dog" in c.concepts and c.background == "snow"), "SPURIOUS"),
        (lambda c: 0.0, "SPURIOUS"),
    ],
)
def test_only_a_unit_that_follows_the_object_is_selective(
    unit: Callable[[Stimulus], float], label: str
) -> None:
    answer = selectivity(unit)
    assert answer.startswith("[REASONING]: ")
    assert answer.splitlines()[-1] == f"[LABEL]: {label}"
