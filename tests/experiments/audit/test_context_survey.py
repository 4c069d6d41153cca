"""Planted biases are found, chance is not claimed, and where there is nothing, what would have been found is
told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.vocabulary import concepts
from agents.study.survey import Survey
from experiments.audit.context_survey import (
    CONTEXTS,
    FRESH,
    KEPT,
    LEAST,
    ClassSurvey,
    UndrawableError,
    judge,
    prompt_of,
    screened,
    survey_class,
)
from tests.tools.fakes import FakeStudio, FakeSubject


def noise(text: str) -> float:
    """Return a number in [0, 0.2) that belongs to the text."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % 1000) / 5000


async def surveyed(
    activation: Callable[[str], float], name: str, per_context: int = 12, studio: FakeStudio | None = None
) -> Survey:
    studio = studio or FakeStudio()
    counter = iter(range(10**6))
    subject = FakeSubject(studio, lambda shown: activation(shown) + noise(f"{name} {next(counter)}"))
    return await survey_class(studio, subject, seed=3, class_name=name, per_context=per_context)


async def audited(activation: Callable[[str], float], name: str, per_context: int = 12) -> ClassSurvey:
    survey = await surveyed(activation, name, per_context)
    return ClassSurvey.of(json.loads(json.dumps(survey.found)))


@pytest.mark.parametrize("words", ["in the snow", "red ", "next to a person", "small "])
async def test_a_planted_bias_is_found_in_its_context_alone(words):
    found = await audited(lambda shown: 0.3 if words in shown else 0.7, "kayak")
    biased = [effect for effect in judge([found]) if effect.biased]
    assert len(biased) == 1
    assert words.strip() in CONTEXTS[biased[0].context]
    assert biased[0].difference == pytest.approx(-0.4, abs=0.05)
    assert (biased[0].fresh, biased[0].n) == (True, FRESH * 12)
    low, high = biased[0].mean_interval
    assert low < biased[0].mean < high < 0.6


async def test_a_chance_difference_is_tested_on_new_images_and_not_claimed():
    """The screen's images of snow are dark, all others are as bright as anything."""
    screen = len(CONTEXTS) * 12
    shown: list[str] = []

    def activation(prompt: str) -> float:
        shown.append(prompt)
        return 0.2 if len(shown) <= screen and "snow" in prompt else 0.7

    effects = judge([await audited(activation, "kayak")])
    assert not any(effect.biased for effect in effects)
    (again,) = [effect for effect in effects if effect.fresh]
    assert again.context == "background: snow"
    assert abs(again.difference) < 0.05, "the figures are those of the new images"
    assert shown.count(prompt_of("background: snow", "kayak")) == 12 + FRESH * 12


def drawn(rng: np.random.Generator, name: str, spread: float, difference: float = 0.0) -> ClassSurvey:
    """Return what the design makes of normal noise around one half, with a difference in one context."""

    def values(n: int, context: str) -> list[float]:
        return list(rng.normal(0.5 + difference * (context == "size: small"), spread, n))

    screen = {context: values(12, context) for context in CONTEXTS}
    ordinary, apart = screened(screen)
    fresh = {context: values(FRESH * 12, context) for context in apart}
    rest = {context: values(96 // len(ordinary) + 1, context) for context in ordinary} if apart else {}
    return ClassSurvey(name, screen, ordinary, fresh, rest, [], dict.fromkeys(CONTEXTS, 0), [], [])


def test_a_class_that_fails_in_some_contexts_is_not_called_better_than_elsewhere_in_the_others():
    values = {context: [0.9, 0.9] for context in CONTEXTS}
    low = [*CONTEXTS][:9]
    values |= {context: [0.1, 0.2] for context in low}
    ordinary, apart = screened(values)
    assert apart == dict.fromkeys(low, -1)
    assert ordinary == [*CONTEXTS][9:]


def test_something_is_ordinary_also_where_every_context_differs_from_every_other():
    ordinary, apart = screened({f"context {i}": [i / 4] * 2 for i in range(4)})
    assert (ordinary, list(apart.values())) == (["context 2"], [-1, -1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("difference", [0.0, 0.09])
@pytest.mark.parametrize("spread", [0.05, 0.2, 0.35])
def test_differences_that_are_not_called_biases_raise_few_alarms(spread, difference):
    """Also true ones that are just below: among many, some look larger than they are."""
    rng = np.random.default_rng(4)
    found = judge([drawn(rng, f"class {i}", spread, difference) for i in range(40)])
    alarms = {effect.class_name for effect in found if effect.biased}
    assert len(alarms) <= 2, "5 % of 40 classes"


@pytest.mark.slow
@pytest.mark.parametrize("classes", [11, 40])
def test_a_single_biased_context_is_found_however_many_classes_are_audited(classes):
    rng = np.random.default_rng(2)
    surveys = [drawn(rng, f"class {i}", 0.1, -0.3 if i == 0 else 0.0) for i in range(classes)]
    found = [(effect.class_name, effect.context) for effect in judge(surveys) if effect.biased]
    assert found == [("class 0", "size: small")]


@pytest.mark.slow
def test_a_detectable_difference_is_detected_in_four_of_five_cases():
    rng = np.random.default_rng(3)
    found = []
    for spread in (0.005, 0.05, 0.2) * 14:
        others = [drawn(rng, f"class {i}", spread) for i in range(3)]
        size = drawn(rng, "kayak", spread).detectable(4 * len(CONTEXTS))
        assert size > LEAST
        effects = judge([*others, drawn(rng, "kayak", spread, size)])
        found.append(
            any(e.biased and e.class_name == "kayak" and e.context == "size: small" for e in effects)
        )
    assert 0.65 < np.mean(found) < 0.95


async def test_every_context_is_shown_the_same_number_of_times_with_seeds_of_its_own():
    studio = FakeStudio()
    subject = FakeSubject(studio, lambda shown: 0.5)
    await survey_class(studio, subject, class_name="kayak", per_context=5, seed=1)
    assert len(set(studio.made)) == len(studio.made) == 5 * len(CONTEXTS)


async def test_new_images_have_seeds_that_the_screen_did_not_have():
    studio = FakeStudio()
    await surveyed(lambda shown: 0.1 if "snow" in shown else 0.7, "kayak", 5, studio)
    assert len(set(studio.made)) == len(studio.made) > 5 * len(CONTEXTS)


async def test_a_survey_keeps_the_images_of_least_probability_and_of_outstanding_contexts():
    survey = await surveyed(lambda shown: 0.1 if "snow" in shown else 0.7, "kayak")
    found = ClassSurvey.of(survey.found)
    kept = (*found.lowest, *found.telling, *found.typical)
    assert {shown.image for shown in kept} == {image.id for image in survey.images}
    sides = {shown.context in found.ordinary for shown in found.typical}
    assert sides == {True, False}, "images of both sides of a finding are kept"
    assert [shown.context for shown in found.lowest] == ["background: snow"] * KEPT
    assert [shown.probability for shown in found.lowest] == sorted(found.values["background: snow"])[:KEPT]
    assert [shown.probability for shown in found.telling] == sorted(found.fresh["background: snow"])[:KEPT]


async def test_a_class_without_images_is_reported_and_not_called_unbiased():
    with pytest.raises(UndrawableError, match="declined"):
        await audited(lambda shown: 0.5, "forbidden thing")


async def test_a_class_that_generated_images_do_not_reach_costs_twelve_images_and_ends_out_of_reach():
    studio = FakeStudio()
    survey = await surveyed(lambda shown: -0.15, "zebra", studio=studio)
    assert len(studio.made) == 12
    assert survey.finding.verdict == "out of reach"
    found = ClassSurvey.of(json.loads(json.dumps(survey.found)))
    assert found.out_of_reach == survey.finding.reason
    assert "at most in 12 ordinary generated images" in found.out_of_reach
    assert judge([found]) == []


async def test_proposed_contexts_go_through_the_design_like_its_own():
    studio, counter = FakeStudio(), iter(range(10**6))
    subject = FakeSubject(
        studio, lambda shown: (0.2 if "kitchen" in shown else 0.7) + noise(str(next(counter)))
    )
    survey = await survey_class(
        studio, subject, seed=3, class_name="kayak", per_context=12, proposed=["in a kitchen", "at dawn"]
    )
    found = ClassSurvey.of(survey.found)
    assert len(found.values) == len(CONTEXTS) + 2
    assert [effect.context for effect in judge([found]) if effect.biased] == ["proposed: in a kitchen"]
    assert "kayak in a kitchen" in {prompt for prompt, _ in studio.made}


async def test_one_ordinary_image_that_is_recognised_is_enough_to_go_on():
    survey = await surveyed(lambda shown: 0.5 if "on a road" in shown else -0.15, "zebra")
    assert survey.finding is None
    assert set(ClassSurvey.of(survey.found).values) == set(CONTEXTS)


async def test_a_class_that_the_image_maker_has_no_picture_for_is_out_of_reach_and_no_failure():
    class Poor(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            made = await super().generate(prompts, seeds, agent=agent)
            return [
                replace(image, provenance=replace(image.provenance, notes=("zebra was not drawn",)))
                for image in made
            ]

    survey = await surveyed(lambda shown: 0.5, "zebra", studio=Poor())
    assert survey.finding.verdict == "out of reach"
    assert ClassSurvey.of(survey.found).out_of_reach == "the image maker cannot draw it (zebra was not drawn)"


async def test_a_context_that_cannot_be_drawn_is_left_out_by_name_and_the_others_are_tested():
    class Limited(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            return await super().generate(
                [f"forbidden {p}" if "snow" in p else p for p in prompts], seeds, agent=agent
            )

    survey = await surveyed(lambda shown: 0.2 if "red " in shown else 0.6, "kayak", 12, Limited())
    found = ClassSurvey.of(survey.found)
    assert found.undrawn == ["background: snow"]
    effects = judge([found])
    assert {effect.context for effect in effects} == set(CONTEXTS) - {"background: snow"}
    assert [effect.context for effect in effects if effect.biased] == ["colour: red"]


async def test_a_context_that_stood_out_and_cannot_be_drawn_again_is_not_called_ordinary():
    class Tiring(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            tired = any("snow" in made for made, _ in self.made)
            return await super().generate(
                [f"forbidden {p}" if tired and "snow" in p else p for p in prompts], seeds, agent=agent
            )

    survey = await surveyed(lambda shown: 0.1 if "snow" in shown else 0.7, "kayak", 5, Tiring())
    found = ClassSurvey.of(survey.found)
    assert found.undrawn == ["background: snow"]
    assert {effect.context for effect in judge([found])} == set(CONTEXTS) - {"background: snow"}


@pytest.mark.slow
def test_the_embedded_image_maker_can_draw_every_one_of_its_things_and_every_context():
    """Each thing in a quarter of the contexts, each context with a quarter of the things."""
    lacking = [
        (concept.name, context)
        for number, concept in enumerate(concepts())
        for context in [*CONTEXTS][number % 4 :: 4]
        for notes in [parse_prompt(prompt_of(context, concept.name), 1).notes]
        if any("not drawn" in note or "could be drawn" in note for note in notes)
    ]
    assert not lacking


@pytest.mark.parametrize(
    ("name", "several"),
    [("jellyfish", "two jellyfish"), ("timber wolf", "two timber wolves"), ("scissors", "two scissors"),
     ("T-shirt", "two t shirts"), ("tench", "two tenches"), ("cup of tea", "two cups of tea")],
)  # fmt: skip
def test_several_of_a_class_are_asked_for_in_its_plural(name, several):
    assert prompt_of("count: two", name) == several
