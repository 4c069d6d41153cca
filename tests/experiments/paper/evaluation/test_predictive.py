"""Labels are put to the test as in the paper: pooled prompts, most and least entailed, and what the unit
answers.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from actors.chat.reply import ChatReply
from actors.errors import BackendError
from experiments.paper.evaluation.predictive import Evaluation, ProbeMeasures, against_concept, compare
from experiments.paper.evaluation.prompts import (
    PROMPTS,
    ChatPromptWriter,
    PromptError,
    TemplatePromptWriter,
    entailment,
)
from tests.tools.fakes import FakeStudio, FakeSubject, picture_of


class FakeWitness:
    """Sees what the studio was asked for; nothing in images that it did not make."""

    def __init__(self, studio):
        self._studio = studio

    async def shows(self, questions):
        return [thing in self._studio.shows.get(image.id, "") for image, thing in questions]


def evaluation(studio, writer=None):
    controls = [picture_of(f"control {number}") for number in range(30)]
    for number, image in enumerate(controls):
        studio.shows[image.id] = f"something {number}"
    return Evaluation(
        studio, writer or TemplatePromptWriter(3), FakeWitness(studio), controls, cosy=6, seed=3
    )


def dog_unit(studio):
    return FakeSubject(studio, lambda shown: (2.0 if "dog" in shown else 0.1) + (len(shown) % 7) / 100)


async def test_the_label_that_is_true_predicts_the_unit_and_another_does_not():
    studio = FakeStudio()
    found = await compare(evaluation(studio), dog_unit(studio), {"maia": "dog", "other": "guitar"})
    right, wrong = found.methods["maia"], found.methods["other"]
    assert right.positive > 1.9 > 0.5 > right.negative
    assert right.auroc == 1.0
    assert wrong.positive < 0.5
    assert right.pearson > 0.9
    assert right.f1 > 0.8 > 0.2 > wrong.f1
    assert right.cosy_auc == 1.0
    assert right.cosy_p < 0.01
    assert wrong.margin < 5 < right.margin


async def test_the_prompts_of_all_methods_are_pooled_and_each_is_drawn_once():
    studio = FakeStudio()
    found = await compare(
        evaluation(studio), dog_unit(studio), {"maia": "dog", "other": "guitar", "third": "dog"}
    )
    assert len(set(found.prompts)) == len(found.prompts)
    assert sum("dog" in prompt for prompt in found.prompts) >= 5
    assert sum("guitar" in prompt for prompt in found.prompts) >= 5
    drawn = [prompt for prompt, _ in studio.made if "close up of" not in prompt]
    assert len([prompt for prompt in drawn if prompt in found.prompts]) == len(found.prompts)
    assert found.methods["third"] == found.methods["maia"], "the same label is measured once"


async def test_a_unit_whose_images_cannot_be_made_is_an_error_and_never_a_score():
    studio = FakeStudio()
    with pytest.raises(BackendError, match="could not be made"):
        await compare(evaluation(studio), dog_unit(studio), {"maia": "forbidden thing"})


def test_measures_over_a_probe_set_fall_when_a_label_misses_or_claims_too_much():
    values = np.r_[np.linspace(5, 6, 10), np.linspace(0, 1, 90)]
    truth = values > 4
    exact = against_concept(values, truth)
    missing, extra = truth.copy(), truth.copy()
    missing[:5] = False
    extra[50:60] = True
    assert exact.f1 == exact.iou == 1.0
    for worse in (against_concept(values, missing), against_concept(values, extra)):
        assert all(getattr(worse, name) < value - 0.05 for name, value in asdict(exact).items())
    nothing = against_concept(values, np.zeros(100, bool))
    assert nothing == ProbeMeasures(), "what cannot be measured is not zero"


@pytest.mark.parametrize(
    ("prompt", "label", "share"),
    [("a photo of a dog on grass", "dog", 1), ("a photo of a puppy", "dog", 1), ("a guitar", "dog", 0),
     ("a red car", "red dog", 0.5), ("a guitar", "dog OR guitar", 1)],
)  # fmt: skip
def test_without_a_language_model_entailment_is_meaning_in_common(prompt, label, share):
    assert entailment(prompt, label) == pytest.approx(share)


class Scripted:
    name = "scripted"
    sees_images = False

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    async def complete(self, request):
        self.requests.append(request)
        return ChatReply(self.replies.pop(0))


GOOD = "\n".join(
    [f"+ {n + 1}. a dog number {n}" for n in range(8)] + [f"- a chair number {n}" for n in range(7)]
)


async def test_a_model_writes_prompts_and_is_asked_once_more_if_they_are_no_use():
    chat = Scripted("I'd rather not.", GOOD)
    positive, neutral = await ChatPromptWriter(chat).write("dogs")
    assert positive[0] == "a dog number 0"
    assert len(positive) == len(neutral) == PROMPTS
    assert all(len(request.messages) == 2 for request in chat.requests), (
        "every question is a fresh conversation"
    )


async def test_a_pairing_must_be_whole_and_without_overlap():
    chat = Scripted("MOST: 1, 2\nLEAST: 2, 3", "MOST: 1, 3\nLEAST: 2, 4.")
    assert await ChatPromptWriter(chat).pair("dogs", ["a", "b", "c", "d"]) == ([0, 2], [1, 3])


async def test_a_model_that_never_answers_usably_is_named():
    with pytest.raises(PromptError, match="scripted"):
        await ChatPromptWriter(Scripted("no", "no")).write("dogs")
