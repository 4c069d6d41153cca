"""An answer is accepted on fresh evidence only; one lucky image never decides."""

from __future__ import annotations

import itertools
import json
import random
from zlib import crc32

import pytest

from actors.serving.backend import Priority
from agents.critic.critic import ConfirmationSettings, Critic, share_of
from agents.critic.review import Review
from agents.critic.stimuli import control_subjects, prompts_for
from agents.evidence.evidence_record import Inspection, LabelMeaning
from agents.records.record_types import encode_record
from agents.tasks.base import FinalAnswer
from tests.tools.fakes import FakeStudio, FakeSubject, HeldOutSubject, picture_of
from tools.toolbox import Made, seed_for


def critic(activation, **settings):
    studio = FakeStudio()
    subject = FakeSubject(studio, activation)
    return Critic(subject, studio, seed=0, settings=ConfirmationSettings(**settings)), studio, subject


def answer(*labels: str) -> FinalAnswer:
    return FinalAnswer(labels, "words")


def finding(verdict) -> str:
    return verdict.evidence.verdict


async def test_a_label_that_predicts_is_confirmed_with_twenty_images_of_each_kind():
    judge, _, subject = critic(lambda shown: 3.0 if "dog" in shown else len(shown) / 100)
    verdict = await judge.examine(answer("dogs"), 1)
    assert verdict.accepted
    assert verdict.evidence.auroc == 1.0
    assert verdict.evidence.e_value >= 20
    assert (verdict.evidence.n_positive, verdict.evidence.n_control) == (20, 20)
    assert set(subject.priorities) == {Priority.CONFIRMATION}


async def test_a_wrong_label_goes_back_with_numbers_and_the_strongest_rivals():
    judge, _, _ = critic(lambda shown: 3.0 if "car" in shown else len(shown) / 1000)
    verdict = await judge.examine(answer("dogs"), 1)
    assert not verdict.accepted
    assert "was not confirmed" in verdict.objection
    assert verdict.evidence.n_positive == 40


async def test_a_single_strong_image_does_not_confirm_a_label():
    """The paper's failure E2: a single lucky image."""
    lucky = iter([100.0] + [0.0] * 10_000)
    judge, _, _ = critic(lambda shown: next(lucky) if "dog" in shown else len(shown) / 1000)
    assert not (await judge.examine(answer("dogs"), 1)).accepted


async def test_a_unit_that_never_answers_confirms_nothing():
    judge, _, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("dogs"), 1)
    assert not verdict.accepted
    assert verdict.evidence.auroc == 0.5
    assert verdict.evidence.e_value == 1.0


async def test_images_are_made_of_every_label():
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
    assert verdict.labels == ["dog"]
    assert len(set(studio.made)) == len(studio.made)


async def test_a_shorter_label_that_seems_to_lose_something_is_shown_more_often_before_it_is_taken():
    other_vehicles = itertools.cycle([1.0, 1.0, 1.0, 0.0, 0.0])

    def activation(shown: str) -> float:
        return 1.0 if "road" in shown else next(other_vehicles) if "vehicle" in shown else len(shown) / 1000

    judge, _, _ = critic(activation)
    verdict = await judge.examine(answer("road vehicle"), 1)
    assert verdict.labels == ["road vehicle"]
    (compared,) = verdict.evidence.simpler
    assert (compared.simpler, compared.rejected) == ("vehicle", True)
    assert 10 < compared.n_weaker <= 40


async def test_each_further_test_discounts_the_e_value():
    judge, _, _ = critic(lambda shown: 3.0 if "dog" in shown else len(shown) / 1000)
    once = (await judge.examine(answer("dogs"), 1)).evidence
    later = (await judge.examine(answer("dogs"), 3)).evidence
    assert once.e_value_corrected == once.e_value / 4
    assert later.e_value_corrected == later.e_value / 24
    assert sum(map(share_of, range(1, 10_000))) == pytest.approx(1, abs=1e-3)


async def test_a_label_that_cannot_be_drawn_is_untestable():
    judge, _, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("forbidden dogs"), 1)
    assert not verdict.accepted
    assert verdict.evidence.kind == "untestable"
    assert "could not be made" in verdict.objection


async def test_an_abstention_needs_no_test():
    judge, studio, _ = critic(lambda shown: 0.0)
    verdict = await judge.examine(answer("Not interpretable"), 1)
    assert verdict.accepted
    assert verdict.evidence.kind == "abstention"
    assert studio.made == []
    assert finding(verdict) == "out of reach", "nothing was made, so nothing is known of the unit"


async def test_an_abstention_makes_the_critic_inspect_the_tools():
    verdict = await doubted(lambda shown: 0.0).examine(answer("not interpretable"), 1)
    assert verdict.accepted
    assert verdict.evidence.inspected == Inspection(n=10, seen=10, false=0)


@pytest.mark.parametrize(("best", "word"), [(4.0, "not interpretable"), (1.0, "out of reach")])
async def test_an_abstention_is_out_of_reach_unless_images_reach_the_range(best, word):
    verdict = await doubted(lambda shown: best).examine(answer("not interpretable"), 1)
    assert finding(verdict) == word


def test_controls_share_no_word_with_the_label():
    things = control_subjects(["red cars and buses", "the dog"])
    assert len(things) > 50
    assert not [thing for thing in things if {"car", "bus", "dog"} & set(thing.split())]


def test_labels_and_controls_use_the_same_prompt_templates():
    import random

    one, two = random.Random(3), random.Random(3)
    first, second = prompts_for(["X"] * 50, one), prompts_for(["Y"] * 50, two)
    assert [prompt.replace("X", "Y") for prompt in first] == second
    assert len(set(first)) > 3


class ScriptedSkeptic:
    """Sees what the studio was asked to show; lies or proposes as told."""

    def __init__(self, studio, rival=None, honest=True, meanings=None):
        self._studio, self._rival, self._honest = studio, rival, honest
        self._meanings = meanings or {}
        self.asked = []

    async def meaning(self, label):
        self.asked.append(label)
        return self._meanings.get(label)

    async def rival(self, images, labels):
        assert len(images) == 15
        assert all(isinstance(activation, float) for _, activation in images)
        return self._rival

    async def shows(self, questions):
        return [(thing in self._studio.shows[image.id]) is self._honest for image, thing in questions]


def doubted(activation, *, rival=None, honest=True, dataset="dog", held_out=(), agent_images=None):
    studio = FakeStudio()
    skeptic = ScriptedSkeptic(studio, rival, honest)
    subject = HeldOutSubject(studio, activation, dataset=dataset, held_out=held_out)
    return Critic(subject, studio, seed=0, skeptic=skeptic, agent_images=agent_images)


async def test_a_rival_that_drives_the_unit_more_sends_the_answer_back():
    """The paper's failure: a label that is too specific, or beside the point, with one lucky experiment
    behind it.
    """
    judge = doubted(
        lambda shown: 5.0 if "grass" in shown else 3.0 if "dog" in shown else len(shown) / 100, rival="grass"
    )
    verdict = await judge.examine(answer("dog"), 1)
    assert not verdict.accepted
    assert '"grass"' in verdict.objection
    assert verdict.evidence.rival.beats == 1.0


def meant(activation, meanings, dataset="dog"):
    studio = FakeStudio()
    skeptic = ScriptedSkeptic(studio, meanings=meanings)
    noisy = HeldOutSubject(
        studio, lambda shown: activation(shown) + crc32(shown.encode()) / 2**34, dataset=dataset, held_out=()
    )
    return Critic(noisy, studio, seed=0, skeptic=skeptic), skeptic


async def test_a_broader_word_whose_images_drive_the_unit_as_much_takes_the_place_of_the_label():
    meanings = {"dog": LabelMeaning(core="dog", broader="pet")}
    judge, skeptic = meant(lambda shown: 3.0 if "dog" in shown or "pet" in shown else 0.1, meanings)
    verdict = await judge.examine(answer("dog"), 1)
    assert verdict.labels == ["pet"]
    assert verdict.evidence.simpler[0].simpler == "pet"
    assert skeptic.asked == ["dog", "pet"], "each label is asked about once"


async def test_a_broader_word_is_judged_by_its_images_that_do_not_show_the_label():
    """Asked for a sheepdog's kind, an image maker draws dogs: they say nothing about other animals."""
    meanings = {"dog": LabelMeaning(core="dog", broader="dogged beast")}
    judge, _ = meant(lambda shown: 3.0 if "dog" in shown else 0.1, meanings)
    verdict = await judge.examine(answer("dog"), 1)
    assert verdict.labels == ["dog"]
    assert verdict.evidence.simpler == []


async def test_further_images_of_a_broader_word_do_not_show_the_label_either():
    """Half of the pets that are drawn are dogs; of the others, three in five drive the unit."""
    others = itertools.cycle([3.0, 3.0, 3.0, 0.0, 0.0])

    class HalfDogs(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            drawn = zip(prompts, seeds, strict=True)
            shown = [f"dog {p}" if "pet" in p and seed % 2 else p for p, seed in drawn]
            return await super().generate(shown, seeds, agent=agent)

    studio = HalfDogs()
    skeptic = ScriptedSkeptic(studio, meanings={"dog": LabelMeaning(core="dog", broader="pet")})
    subject = HeldOutSubject(
        studio, lambda s: 3.0 if "dog" in s else next(others) if "pet" in s else len(s) / 1000, held_out=()
    )
    verdict = await Critic(subject, studio, seed=0, skeptic=skeptic).examine(answer("dog"), 1)
    (compared,) = verdict.evidence.simpler
    assert compared.n_weaker > 20, "more were asked for"
    assert compared.mean_weaker < 2.0


async def test_the_search_for_simpler_labels_ends_on_a_cycle():
    meanings = {
        "dog": LabelMeaning(core="dog", broader="hound"),
        "hound": LabelMeaning(core="hound", broader="dog"),
    }
    judge, skeptic = meant(lambda shown: 3.0 if "dog" in shown or "hound" in shown else 0.1, meanings)
    verdict = await judge.examine(answer("dog"), 1)
    assert verdict.labels == ["hound"]
    assert skeptic.asked == ["dog", "hound"]


async def test_a_broader_word_with_lower_activations_is_rejected():
    meaning = LabelMeaning(core="dog", broader="pet")
    judge, _ = meant(lambda shown: 3.0 if "dog" in shown else 0.1, {"dog": meaning})
    verdict = await judge.examine(answer("dog"), 1)
    assert verdict.labels == ["dog"]
    assert verdict.evidence.simpler[0].rejected
    assert verdict.evidence.meanings["dog"].broader == "pet"


async def test_a_narrower_word_whose_images_drive_the_unit_more_sends_the_answer_back():
    meaning = LabelMeaning(core="dog", narrower="poodle", synonym="canine")
    judge, _ = meant(
        lambda shown: 5.0 if "poodle" in shown else 3.0 if "dog" in shown else 0.1, {"dog": meaning}
    )
    verdict = await judge.examine(answer("dog"), 1)
    assert '"poodle"' in verdict.objection
    assert [each.label for each in verdict.evidence.rivals] == ["poodle", "canine"]


async def test_a_weaker_rival_is_recorded_and_the_answer_stands():
    verdict = await doubted(lambda shown: 3.0 if "dog" in shown else len(shown) / 100, rival="grass").examine(
        answer("dog"), 1
    )
    assert verdict.accepted
    assert verdict.evidence.rival.label == "grass"
    assert verdict.evidence.rival.beats == 0.0
    assert len(verdict.evidence.retest) == 10


async def accepted(activation, *labels):
    """Return the verdict on labels of a unit with a little noise that only the prompt decides."""
    judge = doubted(lambda shown: activation(shown) + crc32(shown.encode()) / 2**34, dataset=" ".join(labels))
    verdict = await judge.examine(answer(*labels), 1)
    assert verdict.accepted
    return verdict


async def test_a_combination_is_kept_if_its_parts_drive_the_unit_less():
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown and "grass" in shown), "a dog on grass")
    assert verdict.labels == ["a dog on grass"]
    assert [each.simpler for each in verdict.evidence.simpler] == ["dog", "grass"]
    assert all(each.rejected for each in verdict.evidence.simpler)


@pytest.mark.parametrize(
    ("label", "simplest"),
    [("a red dog", "dog"), ("dog on grass", "dog"), ("dog without a leash", "dog"), ("tail of a dog", "dog")],
)
async def test_the_simplest_label_is_accepted_that_the_numbers_cannot_reject(label, simplest):
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown), label)
    assert verdict.labels == [simplest]
    assert verdict.evidence.positives[0].label == simplest, "the simpler label is confirmed by itself"
    assert {each.simpler: each.rejected for each in verdict.evidence.simpler}[simplest] is False


@pytest.mark.parametrize("label", ["red dog", "dog without a leash"])
async def test_a_qualifier_that_matters_is_kept(label):
    def red_only(shown):
        return 3.0 * ("red dog" in shown)

    def unleashed(shown):
        return 3.0 * ("dog" in shown and "with a leash" not in shown)

    verdict = await accepted(red_only if "red" in label else unleashed, label)
    assert verdict.labels == [label]


async def test_a_label_that_does_not_drive_the_unit_by_itself_is_dropped():
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown), "dog", "car")
    assert verdict.labels == ["dog"]


async def test_coverage_counts_the_exemplars_that_show_each_label():
    verdict = await accepted(lambda shown: 3.0 * ("dog" in shown), "dog")
    found = verdict.evidence.coverage
    assert (found.n, found.shown, found.untold) == (15, 15, 0)
    assert found.labels == {"dog": 1.0}


async def test_images_that_do_not_show_the_label_are_not_compliant():
    class Blanking(FakeStudio):
        async def generate(self, prompts, seeds, *, agent=""):
            return await super().generate(
                [p if seed % 2 else "nothing" for p, seed in zip(prompts, seeds, strict=True)], seeds
            )

    studio = Blanking()
    subject = FakeSubject(studio, lambda shown: 3.0 if "dog" in shown else len(shown) / 100)
    verdict = await Critic(subject, studio, seed=0, skeptic=ScriptedSkeptic(studio)).examine(answer("dog"), 1)
    assert 0.2 < verdict.evidence.compliance < 0.8
    assert verdict.evidence.compliant.auroc == 1.0
    assert verdict.evidence.auroc < 1.0


def noise(shown: str) -> float:
    return random.Random(shown).random() / 4


def of_dogs(shown: str) -> float:
    return 3.0 * ("dog" in shown) + noise(shown)


SOME_DOGS = ["a dog"] * 12 + ["a cat"] * 30 + ["a house"] * 38


async def test_a_label_is_confirmed_that_is_specific_strong_covering_and_true_on_held_out_images():
    verdict = await doubted(of_dogs, held_out=SOME_DOGS).examine(answer("dog"), 1)
    assert verdict.accepted
    assert finding(verdict) == "confirmed"
    held = verdict.evidence.held_out
    assert (held.status, held.drawn, held.shown, held.auroc) == ("holds", 80, 12, 1.0)
    assert held.e_value >= 20


async def test_crops_of_one_photograph_do_not_confirm_a_label():
    judge = doubted(of_dogs, held_out=["a dog"] * 30 + ["a cat"] * 50)

    async def one_picture_of_dogs(indices, k):
        return [0 if index < 30 else int(index) for index in indices]

    judge._subject.held_out_pictures = one_picture_of_dogs
    verdict = await judge.examine(answer("dog"), 1)
    assert finding(verdict) == "holds for generated images"
    assert verdict.evidence.held_out.pictures == 1
    assert "count as 1" in verdict.evidence.finding.reason


@pytest.mark.parametrize("held_out", [(), ["a dog"] * 4 + ["a cat"] * 40])
async def test_without_enough_images_of_the_label_that_are_held_out_it_holds_for_generated_images(held_out):
    verdict = await doubted(of_dogs, held_out=held_out).examine(answer("dog"), 1)
    assert verdict.accepted
    assert finding(verdict) == "holds for generated images"


@pytest.mark.parametrize("label", ["dog", "cat", "forbidden dogs", "not interpretable"])
async def test_a_review_is_read_as_it_was_written_and_every_field_of_its_evidence_is_declared(label):
    review = await doubted(of_dogs, held_out=SOME_DOGS).examine(answer(label), 1)
    written = json.loads(encode_record(review))
    read = Review.model_validate(written)
    assert read == review
    assert read.to_json() == written
    assert not read.evidence.model_extra


async def test_a_label_that_held_out_images_contradict_is_not_confirmed():
    def only_drawn(shown):
        return 3.0 * ("dog" in shown and "true" not in shown) + noise(shown)

    real = [f"a true dog {i}" for i in range(30)] + [f"a true cat {i}" for i in range(50)]
    verdict = await doubted(only_drawn, held_out=real).examine(answer("dog"), 1)
    assert not verdict.accepted
    assert finding(verdict) == "not confirmed"
    assert verdict.evidence.held_out.status == "contradicted"


async def test_a_label_whose_images_reach_too_little_of_the_units_range_is_weak():
    """The exemplars reach 5 and the data set's mean is 0.5."""
    judge = doubted(
        lambda s: of_dogs(s) / 3, agent_images=(made := FakeAgentImages(*[("a wolf", 4.5, False)] * 5))
    )
    judge._skeptic._studio.shows[made.images[0].id] = "a wolf"
    verdict = await judge.examine(answer("dog"), 1)
    assert not verdict.accepted
    assert finding(verdict) == "weak"


async def test_a_unit_that_no_generated_image_reaches_is_out_of_reach():
    verdict = await doubted(lambda s: of_dogs(s) / 3).examine(answer("dog"), 1)
    assert finding(verdict) == "out of reach"
    assert "%" in verdict.objection


async def test_a_label_can_hold_on_real_images_alone():
    def only_real(shown):
        return (3.0 if "true" in shown else 0.3) * ("dog" in shown) + noise(shown)

    real = ["a true dog"] * 12 + ["a true cat"] * 68
    verdict = await doubted(only_real, held_out=real).examine(answer("dog"), 1)
    assert verdict.accepted
    assert finding(verdict) == "holds on your images"


async def test_a_label_that_cannot_be_drawn_may_hold_on_real_images_of_a_unit_that_others_reach():
    def of_forbidden(shown):
        return 3.0 * ("forbidden" in shown) + noise(shown)

    real = ["a forbidden dog"] * 12 + ["a cat"] * 68
    made = FakeAgentImages(*[("a wolf", 4.9, False)] * 5)
    judge = doubted(of_forbidden, dataset="a forbidden dog", held_out=real, agent_images=made)
    judge._skeptic._studio.shows[made.images[0].id] = "a wolf"
    verdict = await judge.examine(answer("forbidden dog"), 2)
    assert verdict.accepted
    assert finding(verdict) == "holds on your images"
    assert "could be made" in verdict.evidence.finding.reason


class FakeAgentImages:
    """What an agent made: (what was asked for, activation, whether from the data set)."""

    def __init__(self, *made):
        self.images = [picture_of(told) for told, _, _ in made]
        self._made = [
            Made(image.id, value, told, edited)
            for image, (told, value, edited) in zip(self.images, made, strict=True)
        ]

    def made(self):
        return self._made

    async def pictures(self, ids):
        by_id = {image.id: image for image in self.images}
        return [by_id[each] for each in ids]


async def test_unexplained_strong_images_are_sent_back_once():
    made = FakeAgentImages(*((f"a comet {i}", 4.9, False) for i in range(3)))
    judge = doubted(of_dogs, agent_images=made)
    judge._skeptic._studio.shows |= {image.id: "a comet" for image in made.images}
    first = await judge.examine(answer("dog"), 1)
    assert not first.accepted
    assert set(first.shown) == {image.id for image in made.images} <= set(judge.images)
    assert 'UNEXPLAINED | 4.90 | made: "a comet 0"' in first.objection
    second = await judge.examine(answer("dog"), 2)
    assert second.accepted
    assert len(second.evidence.uncovered) == 3


async def test_a_label_that_explains_too_few_of_the_strongest_images_is_partial():
    judge = doubted(of_dogs, dataset="a fence")
    for attempt in (1, 2):
        verdict = await judge.examine(answer("dog"), attempt)
        assert not verdict.accepted
        assert finding(verdict) == "partial"
    assert len(verdict.shown) == 8


async def test_no_image_that_is_held_out_is_shown_to_the_agent():
    held_out = ["a dog"] * 30 + ["a fence, held out"] * 6 + ["a cat"] * 30
    judge = doubted(lambda s: 6.0 * ("held" in s) + of_dogs(s), dataset="a fence", held_out=held_out)
    verdict = await judge.examine(answer("dog"), 1)
    held_out = {image.id for image in judge._subject._held_out}
    assert verdict.shown
    assert not held_out & set(verdict.shown)
    assert held_out & {each.image for each in verdict.evidence.uncovered}


@pytest.mark.parametrize("said", [True, False, None])
async def test_a_witness_that_says_the_same_of_every_image_confirms_nothing(said):
    judge = doubted(of_dogs, dataset="a dog", held_out=["a dog"] * 30 + ["a cat"] * 50)

    async def shows(questions):
        return [said] * len(questions)

    judge._skeptic.shows = shows
    verdict = await judge.examine(answer("dog"), 1)
    assert finding(verdict) == "not confirmed"
    assert "witness" in verdict.evidence.finding.reason
    assert verdict.accepted, "no other answer would fare better"
