"""An answer is accepted on fresh evidence only; one lucky image never decides."""

from __future__ import annotations

from zlib import crc32

import pytest

from actors.backend import Priority
from agents.critic import ConfirmationSettings, Critic, share_of
from agents.stimuli import control_subjects, prompts_for
from agents.tasks.base import Answer
from tests.tools.fakes import FakeStudio, FakeSubject
from tools.toolbox import seed_for

pytestmark = pytest.mark.anyio


def critic(activation, **settings):
    studio = FakeStudio()
    subject = FakeSubject(studio, activation)
    return Critic(subject, studio, seed=0, settings=ConfirmationSettings(**settings)), studio, subject


def answer(*labels: str) -> Answer:
    return Answer(labels, "words")


async def test_a_label_that_predicts_is_confirmed_with_twenty_images_of_each_kind():
    judge, _, subject = critic(lambda shown: 3.0 if "dog" in shown else len(shown) / 100)
    verdict = await judge.examine(answer("dogs"), 1)
    assert verdict.accepted
    assert verdict.evidence["auroc"] == 1.0
    assert verdict.evidence["e_value"] >= 20
    assert (verdict.evidence["n_positive"], verdict.evidence["n_control"]) == (20, 20)
    assert set(subject.priorities) == {Priority.CONFIRMATION}


async def test_a_wrong_label_goes_back_with_numbers_and_the_strongest_rivals():
    judge, _, _ = critic(lambda shown: 3.0 if "car" in shown else len(shown) / 1000)
    verdict = await judge.examine(answer("dogs"), 1)
    assert not verdict.accepted
    assert "was not confirmed" in verdict.objection
    assert verdict.evidence["n_positive"] == 40


async def test_one_image_that_beats_all_others_does_not_decide():
    """The paper's failure E2: a single lucky image."""
    lucky = iter([100.0] + [0.0] * 10_000)
    judge, _, _ = critic(lambda shown: next(lucky) if "dog" in shown else len(shown) / 1000)
    assert not (await judge.examine(answer("dogs"), 1)).accepted


async def test_a_unit_that_never_answers_confirms_nothing():
    judge, _, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("dogs"), 1)
    assert not verdict.accepted
    assert verdict.evidence["auroc"] == 0.5
    assert verdict.evidence["e_value"] == 1.0


async def test_every_label_of_an_or_is_drawn():
    judge, studio, _ = critic(lambda shown: 1.0 if "dog" in shown or "car" in shown else len(shown) / 1000)
    await judge.examine(answer("dogs", "red cars"), 1)
    prompts = [prompt for prompt, _ in studio.made[:40]]  # what follows measures a second time
    assert (
        sum("dogs" in prompt for prompt in prompts) == sum("red cars" in prompt for prompt in prompts) == 10
    )


async def test_no_seed_of_a_confirmation_can_be_drawn_by_an_exploring_agent():
    judge, studio, _ = critic(lambda shown: 0.0)
    await judge.examine(answer("a dog"), 1)
    open_seeds = {seed_for(0, "generate", prompt, n) for prompt, _ in studio.made for n in range(200)}
    assert not open_seeds & {seed for _, seed in studio.made}


async def test_a_second_examination_has_images_of_its_own():
    judge, studio, _ = critic(lambda shown: 0.0)
    await judge.examine(answer("dogs"), 1)
    first = set(studio.made)
    await judge.examine(answer("dogs"), 2)
    assert not first & set(studio.made[len(first) :])


async def test_a_simpler_label_is_tested_on_images_of_its_own_controls_too():
    judge, studio, _ = critic(lambda shown: 3.0 if "dog" in shown else len(shown) / 1000)
    verdict = await judge.examine(answer("dog with a ball"), 1)
    assert verdict.labels == ("dog",)
    assert len(set(studio.made)) == len(studio.made)


async def test_what_a_study_claims_is_worth_less_the_more_it_has_tested():
    judge, _, _ = critic(lambda shown: 3.0 if "dog" in shown else len(shown) / 1000)
    once = (await judge.examine(answer("dogs"), 1)).evidence
    later = (await judge.examine(answer("dogs"), 3)).evidence
    assert once["e_value_corrected"] == once["e_value"] / 4
    assert later["e_value_corrected"] == later["e_value"] / 24
    assert sum(map(share_of, range(1, 10_000))) == pytest.approx(1, abs=1e-3)


async def test_a_label_that_cannot_be_drawn_is_untestable_and_not_a_zero():
    judge, _, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("forbidden dogs"), 1)
    assert not verdict.accepted
    assert verdict.evidence["kind"] == "untestable"
    assert "could not be made" in verdict.objection


async def test_an_abstention_needs_no_test():
    judge, studio, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("Not interpretable"), 1)
    assert verdict.accepted
    assert verdict.evidence == {"kind": "abstention"}
    assert studio.made == []


async def test_an_abstention_has_the_tools_looked_at():
    verdict = await doubted(lambda shown: 0.0).examine(answer("not interpretable"), 1)
    assert verdict.accepted
    assert verdict.evidence["inspected"] == {"n": 10, "seen": 10, "false": 0}


def test_controls_share_no_word_with_the_label():
    things = control_subjects(["red cars and buses", "the dog"])
    assert len(things) > 50
    assert not [thing for thing in things if {"car", "bus", "dog"} & set(thing.split())]


def test_labels_and_controls_share_their_wordings():
    import random

    one, two = random.Random(3), random.Random(3)
    first, second = prompts_for(["X"] * 50, one), prompts_for(["Y"] * 50, two)
    assert [prompt.replace("X", "Y") for prompt in first] == second
    assert len(set(first)) > 3


class ScriptedSceptic:
    """Sees what the studio was asked to show; lies or proposes as told."""

    def __init__(self, studio, rival=None, honest=True):
        self._studio, self._rival, self._honest = studio, rival, honest

    async def rival(self, images, labels):
        assert len(images) == 15
        assert all(isinstance(activation, float) for _, activation in images)
        return self._rival

    async def shows(self, questions):
        return [(thing in self._studio.shows[image.id]) is self._honest for image, thing in questions]


def doubted(activation, *, rival=None, honest=True):
    studio = FakeStudio()
    sceptic = ScriptedSceptic(studio, rival, honest)
    return Critic(FakeSubject(studio, activation), studio, seed=0, sceptic=sceptic)


async def test_a_rival_that_drives_the_unit_more_sends_the_answer_back():
    """The paper's failure: a label that is too specific, or beside the point, with one lucky experiment behind it."""
    judge = doubted(
        lambda shown: 5.0 if "grass" in shown else 3.0 if "dog" in shown else len(shown) / 100, rival="grass"
    )
    verdict = await judge.examine(answer("dog"), 1)
    assert not verdict.accepted
    assert '"grass"' in verdict.objection
    assert verdict.evidence["rival"]["beats"] == 1.0


async def test_a_rival_that_does_less_is_written_down_and_the_answer_stands():
    verdict = await doubted(lambda shown: 3.0 if "dog" in shown else len(shown) / 100, rival="grass").examine(
        answer("dog"), 1
    )
    assert verdict.accepted
    assert verdict.evidence["rival"]["label"] == "grass"
    assert verdict.evidence["rival"]["beats"] == 0.0
    assert len(verdict.evidence["retest"]) == 10


async def accepted(activation, *labels):
    """Return the verdict on labels of a unit with a little noise that only the prompt decides."""
    judge = doubted(lambda shown: activation(shown) + crc32(shown.encode()) / 2**34)
    verdict = await judge.examine(answer(*labels), 1)
    assert verdict.accepted
    return verdict


async def test_a_combination_stands_if_its_parts_do_less():
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown and "grass" in shown), "a dog on grass")
    assert verdict.labels == ("a dog on grass",)
    assert [each["simpler"] for each in verdict.evidence["simpler"]] == ["dog", "grass"]
    assert all(each["rejected"] for each in verdict.evidence["simpler"])


@pytest.mark.parametrize(
    ("label", "simplest"),
    [("a red dog", "dog"), ("dog on grass", "dog"), ("dog without a leash", "dog"), ("tail of a dog", "dog")],
)
async def test_the_simplest_label_is_accepted_that_the_numbers_cannot_reject(label, simplest):
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown), label)
    assert verdict.labels == (simplest,)
    assert verdict.evidence["positives"][0]["label"] == simplest, "the simpler label is confirmed by itself"
    assert {each["simpler"]: each["rejected"] for each in verdict.evidence["simpler"]}[simplest] is False


@pytest.mark.parametrize("label", ["red dog", "dog without a leash"])
async def test_what_makes_a_difference_stays(label):
    def red_only(shown):
        return 3.0 * ("red dog" in shown)

    def unleashed(shown):
        return 3.0 * ("dog" in shown and "with a leash" not in shown)

    verdict = await accepted(red_only if "red" in label else unleashed, label)
    assert verdict.labels == (label,)


async def test_a_label_that_does_nothing_by_itself_is_dropped():
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown), "dog", "car")
    assert verdict.labels == ("dog",)


async def test_of_each_label_it_is_told_what_share_of_the_exemplars_it_explains():
    verdict = await accepted(lambda shown: 3.0 * ("dataset" in shown), "dataset")
    assert verdict.evidence["explained"] == {
        "n": 15,
        "labels": {"dataset": 1.0},
        "any": 1.0,
    }


async def test_images_that_do_not_show_the_label_are_not_compliant():
    class Blanking(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            return await super().generate(
                [p if seed % 2 else "nothing" for p, seed in zip(prompts, seeds, strict=True)], seeds
            )

    studio = Blanking()
    subject = FakeSubject(studio, lambda shown: 3.0 if "dog" in shown else len(shown) / 100)
    verdict = await Critic(subject, studio, seed=0, sceptic=ScriptedSceptic(studio)).examine(answer("dog"), 1)
    assert 0.2 < verdict.evidence["compliance"] < 0.8
    assert verdict.evidence["compliant"]["auroc"] == 1.0
    assert verdict.evidence["auroc"] < 1.0
