"""Words are found in free text, and plans survive being printed and read back."""

from __future__ import annotations

import pytest

from actors.embedded.drawing.vocabulary import Noun, Setting
from actors.embedded.language.words import Term, Words, embedded_words
from actors.embedded.reasoning.stimuli import Stimulus, Thing, parse_code

SMALL = Words(
    concepts={
        "dog": Noun("dog", names=("puppy",), categories=("animal",), colors=("brown",)),
        "sheep": Noun("sheep", plural="sheep", categories=("animal",)),
        "orange": Noun("orange", categories=("fruit", "food"), colors=("orange",)),
        "stone": Noun("stone"),
    },
    categories={"animal": Noun("animal"), "fruit": Noun("fruit", categories=("food",)), "food": Noun("food")},
    backgrounds={"snow": Setting("snow", "in the snow", ("winter",)), "stone": Setting("stone", "on stone")},
    colors=("orange", "brown"),
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Two puppies.", [Term("concept", "dog")]),
        ("an orange", [Term("concept", "orange")]),
        ("an orange dog", [Term("color", "orange"), Term("concept", "dog")]),
        ("orange objects", [Term("color", "orange")]),
        ("a stone in winter", [Term("concept", "rock"), Term("background", "snow")]),
        (
            "a tan dog on stone",
            [Term("color", "brown"), Term("concept", "dog"), Term("background", "stone")],
        ),
        ("stone background", [Term("background", "stone")]),
        ("nothing known", []),
        ("", []),
    ],
)
def test_an_ambiguous_word_is_read_by_its_neighbors(text: str, terms: list[Term]) -> None:
    assert embedded_words().find(text) == terms


def test_a_thing_shows_its_kinds_and_its_usual_color() -> None:
    shown = Stimulus((Thing("orange"),), "snow").terms(SMALL)
    assert shown == {
        Term("concept", "orange"): 1.0,
        Term("category", "fruit"): 1.0,
        Term("category", "food"): 1.0,
        Term("color", "orange"): 1.0,
        Term("tone", "orange"): 1.0,
        Term("background", "snow"): 1.0,
    }


def test_an_unknown_color_is_unsure() -> None:
    assert Stimulus((Thing("sheep"),)).terms(SMALL)[Term("color", "brown")] == 0.5


def test_a_plan_reads_as_plain_english() -> None:
    plan = Stimulus((Thing("dog", "orange", 2), Thing("sheep", size="small")), "stone")
    assert plan.prompt(SMALL) == "two orange dogs and small sheep on stone"


@pytest.mark.parametrize(
    "plan",
    [
        Stimulus((Thing("dog", "brown", 3, "small"), Thing("orange")), "snow"),
        Stimulus((Thing("dog"),)),
        Stimulus((), "stone"),
    ],
)
def test_a_code_gives_back_its_plan(plan: Stimulus) -> None:
    assert parse_code(plan.code, SMALL) == plan


@pytest.mark.parametrize("code", ["", "dog", "cat @ snow", "dog @ moon", "dog(pink,,) @ snow", "dog( @ snow"])
def test_a_damaged_code_is_no_plan(code: str) -> None:
    assert parse_code(code, SMALL) is None


def test_every_embedded_prompt_is_drawn_as_planned() -> None:
    """The scientist's plain words and the scene grammar mean the same."""
    from actors.embedded.drawing.grammar import parse_prompt

    words = embedded_words()
    backgrounds = list(words.backgrounds)
    colors = list(words.colors)
    for number, name in enumerate(words.concepts):
        color = colors[number % len(colors)] if number % 3 == 0 else ""
        color = color if words.can_be(name, color) else ""
        plan = Stimulus((Thing(name, color, 1 + number % 2),), backgrounds[number % len(backgrounds)])
        reading = parse_prompt(plan.prompt(words))
        drawn = [(each.concept, each.color or "") for each in reading.scene.objects]
        assert drawn == [(name, color)] * (1 + number % 2), plan.prompt(words)
        assert reading.scene.background == plan.background
        assert not reading.undrawn
