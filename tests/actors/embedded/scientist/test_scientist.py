"""Whole studies in a world without pixels: the scientist finds what drives a unit, or says that nothing
does.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.tasks import DescribeUnitTask
from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Term, Words, embedded_words
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.reasoning.study_state import read_study
from actors.embedded.scientist.scientist import Scientist
from benchmarks.bench_scientist import OPENING, make, planted, terms_named
from tests.actors.embedded.scientist.world import Outcome, World, WorldEyes, random_scene, run, study

WORDS = embedded_words()
VIOLIN, FRUIT, RED, SNOW = (
    Term("concept", "violin"),
    Term("category", "fruit"),
    Term("color", "red"),
    Term("background", "snow"),
)


def shows(content: Stimulus, term: Term) -> bool:
    return content.terms(WORDS).get(term, 0.0) > 0.5


def world_of(unit: Callable[[Stimulus], bool], **options: object) -> World:
    """Return a world whose unit is strong, with some spread and noise, where `unit` holds."""

    def activation(content: Stimulus, rng: random.Random) -> float:
        return rng.uniform(0.6, 1.0) if unit(content) else rng.uniform(0, 0.08)

    return World(WORDS, activation, **options)  # type: ignore[arg-type]


def studied(world: World, **options: object) -> Outcome:
    return study(Scientist(WORDS, WorldEyes(world)), world, OPENING, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def violins() -> tuple[World, Outcome]:
    """A unit that violins drive, and its study."""
    world = world_of(lambda content: shows(content, VIOLIN))
    return world, studied(world)


@pytest.mark.slow
@pytest.mark.parametrize("term", [FRUIT, RED, SNOW], ids=str)
def test_one_term_is_named_and_nothing_else(term: Term) -> None:
    outcome = studied(world_of(lambda content: shows(content, term)))
    assert terms_named(outcome.labels, WORDS) == {term}
    assert "[DESCRIPTION]:" in outcome.answer
    assert "mean activation" in outcome.answer
    assert outcome.images <= 350


def test_a_concept_is_named_and_nothing_else(violins: tuple[World, Outcome]) -> None:
    _, outcome = violins
    assert outcome.labels == ["violin"]
    assert "mean activation" in outcome.answer


def test_labels_that_it_is_told_are_among_the_first_things_shown(violins: tuple[World, Outcome]) -> None:
    _, outcome = violins
    asked = ChatRequest(tuple(outcome.messages[:4]), seed=0, task=DescribeUnitTask(hypotheses=("a wolf",)))
    informed, blind = Scientist(WORDS).next_turn(asked), Scientist(WORDS).next_turn(replace(asked, task=None))
    assert informed.count('"wolf') + informed.count("a wolf") >= 2
    assert "wolf" not in blind


def test_two_unrelated_concepts_get_two_labels() -> None:
    outcome = studied(world_of(lambda content: shows(content, VIOLIN) or shows(content, FRUIT)))
    assert len(outcome.labels) == 2
    assert terms_named(outcome.labels, WORDS) == {VIOLIN, FRUIT}


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["horse", "necklace", "bus"])
def test_a_concept_that_no_exemplar_shows_is_found_all_the_same(hidden: str) -> None:
    """The strongest images of a unit may all show one of the things that drive it."""
    absent = Term("concept", hidden)

    def without_it(rng: random.Random, words: Words) -> Stimulus:
        while shows(scene := random_scene(rng, words), absent):
            pass
        return scene

    world = world_of(lambda content: shows(content, VIOLIN) or shows(content, absent), dataset=without_it)
    assert terms_named(studied(world).labels, WORDS) == {VIOLIN, absent}


@pytest.mark.slow
def test_a_condition_is_named_with_what_it_conditions() -> None:
    world = world_of(
        lambda content: shows(content, FRUIT) and shows(content, SNOW), dataset=planted(FRUIT, SNOW, 0.01)
    )
    assert studied(world).labels == ["fruit in the snow"]


@pytest.mark.slow
def test_an_exception_is_named() -> None:
    outcome = studied(world_of(lambda content: shows(content, FRUIT) and not shows(content, RED)))
    assert outcome.labels == ["fruit without red objects"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dead", "constant", "random", "rare-noise"])
def test_a_unit_without_meaning_is_not_interpretable(kind: str) -> None:
    world, _ = make(kind, 1, WORDS)
    outcome = studied(world)
    assert outcome.labels == ["not interpretable"]
    assert "not interpretable" in outcome.answer.splitlines()[0]


@pytest.mark.slow
def test_a_background_of_the_data_set_is_not_taken_for_the_concept() -> None:
    world, truth = make("confounded", 3, WORDS)
    assert terms_named(studied(world).labels, WORDS) == truth


@pytest.mark.slow
def test_blind_descriptions_are_enough() -> None:
    world = world_of(lambda content: shows(content, VIOLIN))
    assert study(Scientist(WORDS), world, OPENING).labels == ["violin"]


def test_the_scientist_is_a_function_of_the_messages(violins: tuple[World, Outcome]) -> None:
    """A study taken up by another scientist, at any round, goes on as the first would have."""
    world, outcome = violins
    for turn in range(2, len(outcome.messages), 4):
        request = ChatRequest(tuple(outcome.messages[:turn]), seed=0)
        reply = Scientist(WORDS, WorldEyes(world)).next_turn(request)
        assert reply == outcome.messages[turn].text


@pytest.mark.parametrize("after", [1, 4])
def test_the_scientist_answers_on_demand(after: int) -> None:
    outcome = studied(world_of(lambda content: shows(content, VIOLIN)), max_rounds=after + 1)
    assert outcome.rounds == after + 1
    assert outcome.labels == ["violin"]


@pytest.mark.parametrize("text", ["", "MemoryError: the program was stopped", "RESULT | 0.1 | viol"])
def test_programs_that_bring_nothing_end_the_study(text: str) -> None:
    messages = [Message("system", ("the API",)), Message("user", (OPENING,))]
    for _ in range(8):
        reply = Scientist(WORDS).next_turn(ChatRequest(tuple(messages)))
        messages.append(Message("assistant", (reply,)))
        if "```" not in reply:
            break
        messages.append(Message("user", (text,)))
    assert "[LABEL]: not interpretable" in messages[-1].text


@pytest.mark.slow
def test_a_study_survives_a_failing_program_and_cut_output() -> None:
    world = world_of(lambda content: shows(content, VIOLIN))
    scientist = Scientist(WORDS, WorldEyes(world))
    messages = [Message("system", ("the API",)), Message("user", (OPENING,))]
    variables: dict[str, object] = {"system": world, "tools": world}
    for number in range(15):
        text = scientist.next_turn(ChatRequest(tuple(messages)))
        messages.append(Message("assistant", (text,)))
        if "```python" not in text:
            break
        parts = run(text, variables, world)
        if number == 2:
            parts = ["The program ended with: ToolError: 3 of 26 images could not be made."]
        elif number > 0:
            parts = [p[: int(len(p) * 0.7)] if isinstance(p, str) else p for p in parts]
        messages.append(Message("user", tuple(parts)))
    assert "[LABEL]: violin" in messages[-1].text


def test_unexplained_images_are_taken_apart_after_an_objection(violins: tuple[World, Outcome]) -> None:
    """The critic names an exemplar by its rank and an image by what was asked for."""
    world, outcome = violins
    state = read_study(outcome.messages, WORDS)
    made = next(row.stimulus for row in state.rows if len(row.stimulus.things) == 2)
    seen = set(re.findall(r"EXEMPLAR (\d+)", str(outcome.messages)))
    assert "2" in seen
    objection = (
        f'These follow:\nUNEXPLAINED | 0.90 | made: "{made.prompt(WORDS)}"\nUNEXPLAINED | 0.80 | exemplar 2'
    )
    rejected = (*outcome.messages, Message("user", (objection,)))
    assert read_study(rejected, WORDS).unexplained == [made.prompt(WORDS), 2]
    reply = Scientist(WORDS, WorldEyes(world)).next_turn(ChatRequest(rejected))
    assert "I show their parts alone" in reply
    for concept in made.concepts:
        assert f"driven by {with_article(concept)}" in reply


def test_a_rejected_answer_is_followed_by_experiments(violins: tuple[World, Outcome]) -> None:
    world, outcome = violins
    rejected = [*outcome.messages, Message("user", ("Your answer was tested and not confirmed. Go on.",))]
    reply = Scientist(WORDS, WorldEyes(world)).next_turn(ChatRequest(tuple(rejected)))
    assert "```python" in reply


def test_replies_have_the_format_of_the_paper(violins: tuple[World, Outcome]) -> None:
    for message in violins[1].messages:
        if message.role == "assistant" and "```" in message.text:
            assert message.text.count("```python") == 1
            assert "[HYPOTHESIS LIST]:\nHypothesis_1: " in message.text
            assert "[CODE]:\n```python\n" in message.text
            assert "import" not in message.text.split("```python")[1]


@pytest.mark.slow
def test_disobedient_images_and_poor_eyes_do_not_mislead() -> None:
    world = replace(
        world_of(lambda content: shows(content, VIOLIN)), recall=0.75, confusion=0.15, obedience=0.9
    )
    assert terms_named(studied(world).labels, WORDS) == {VIOLIN}


SCOOTER, SQUID = Term("concept", "scooter"), Term("concept", "squid")


@pytest.mark.slow
@pytest.mark.parametrize("terms", [(SCOOTER, SNOW), (VIOLIN, SQUID), (SQUID,)], ids=str)
def test_a_unit_that_fires_on_one_image_is_explained(
    terms: tuple[Term, ...],
) -> None:
    """The one image shows other things as well, and its mask the first thing alone."""
    numbers = itertools.count()

    def holds(content: Stimulus) -> bool:
        return all(shows(content, term) for term in terms)

    def scene(rng: random.Random, words: Words) -> Stimulus:
        while holds(drawn := random_scene(rng, words)):
            pass
        if next(numbers) != 1234:
            return drawn
        things = tuple(Thing(term.name) for term in terms if term.kind == "concept")
        place = next((term.name for term in terms if term.kind == "background"), drawn.background)
        return Stimulus((*things, Thing("teapot")), place)

    def first(content: Stimulus) -> Stimulus:
        return Stimulus(tuple(each for each in content.things if each.concept == terms[0].name))

    outcome = studied(world_of(holds, dataset=scene, looks_at=first))
    assert terms_named(outcome.labels, WORDS) == set(terms)
    assert outcome.images <= 300
