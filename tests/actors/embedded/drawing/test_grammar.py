"""Prompts become scenes, and every word is accounted for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.embedded.drawing.grammar import MAX_OBJECTS, ParsedPrompt, parse_prompt
from actors.embedded.drawing.lexicon import read
from actors.embedded.drawing.vocabulary import BACKGROUND_WORDS, COLORS, vocabulary

WORDS = st.sampled_from(
    [*list(vocabulary().words())[::9], *BACKGROUND_WORDS, *COLORS, "two", "3", "1000000", "a",
     "the", "next to",
     "behind", "on", "in", "left", "corner", "tiny", "huge", "without", "no", "and", ",", "photo of",
     "running",
     "qwxz", "🐶", "çà", "object", "background"]
)  # fmt: skip


def shown(reading: ParsedPrompt) -> list[str]:
    return [placed.words for placed in reading.scene.objects]


def assert_accounted(text: str, reading: ParsedPrompt) -> None:
    said = Counter(word for term in read(text) for word in term.words)
    assert Counter((*reading.drawn, *reading.ignored, *reading.undrawn)) == said


@given(st.lists(WORDS, max_size=25), st.integers(0, 2**40))
@settings(max_examples=150, deadline=None)
def test_every_word_is_drawn_ignored_or_reported(words: list[str], seed: int) -> None:
    text = " ".join(words)
    reading = parse_prompt(text, seed)
    assert_accounted(text, reading)
    assert len(reading.scene.objects) <= MAX_OBJECTS
    for word in reading.undrawn[:5]:
        assert any(word in note for note in reading.notes)


@given(st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_a_scene(text: str) -> None:
    assert_accounted(text, parse_prompt(text))


@pytest.mark.parametrize(
    "text", ["", "   ", "\x00", "🐶" * 500, "dog " * 3000, "x" * 10_000, "крас дом", "。。。"]
)
def test_odd_input_is_reported_and_never_fails(text: str) -> None:
    reading = parse_prompt(text)
    assert reading.scene.objects or reading.notes


@pytest.mark.parametrize(
    ("prompt", "objects", "background"),
    [
        ("a dog and a cat on the grass", ["dog", "cat"], "grass"),
        ("A PHOTO OF A RED CAR!!", ["red car"], None),
        ("three puppies at the beach", ["dog", "dog", "dog"], "beach"),
        ("an orange cat", ["orange cat"], None),
        ("an orange on a table", ["orange"], "wood"),
        ("a car that is red, under a starry night sky", ["red car"], "night"),
        ("a golden retriever in a snowy field", ["dog"], "snow"),
        ("two cups of coffee", ["coffee", "coffee"], None),
        ("a pair of sunglasses", ["sunglasses"], None),
        ("a pair of blue mice", ["blue mouse", "blue mouse"], None),
        ("a stone wall", [], "stone"),
        ("a rock", ["rock"], None),
        ("a dog without a hat", ["dog"], None),
        ("a dog, no background", ["dog"], None),
        ("the sky", [], "sky"),
    ],
)
def test_prompts(prompt: str, objects: list[str], background: str | None) -> None:
    reading = parse_prompt(prompt, 5)
    assert sorted(shown(reading)) == sorted(objects)
    assert background in (None, reading.scene.background)
    assert not reading.undrawn


def test_a_named_backdrop_color_is_a_plain_background_of_that_color() -> None:
    scene = parse_prompt("a banana on a blue background").scene
    assert (scene.background, scene.background_color) == ("plain background", "blue")
    assert scene.objects[0].color is None


def test_positions_and_sizes_are_kept() -> None:
    for seed in range(6):
        corner = parse_prompt("a tiny frog in the top left corner", seed).scene.objects[0]
        assert corner.x < 0.3
        assert corner.y < 0.3
        assert corner.size < 0.2
        right = parse_prompt("a huge frog on the right side", seed).scene.objects[0]
        assert right.x > 0.5
        assert right.size > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_relations_place_objects_towards_each_other(seed: int) -> None:
    def where(prompt: str) -> dict[str, tuple[float, float]]:
        return {placed.concept: (placed.x, placed.y) for placed in parse_prompt(prompt, seed).scene.objects}

    above = where("an owl above a tractor")
    assert above["owl"][1] < above["tractor"][1]
    left = where("an owl to the left of a tractor")
    assert left["owl"][0] < left["tractor"][0]
    worn = where("a bear wearing a crown")
    assert worn["crown"][1] < worn["bear"][1]
    behind = parse_prompt("a tractor behind an owl", seed).scene.objects
    assert [placed.concept for placed in behind] == ["tractor", "owl"]


def test_a_category_draws_a_member_that_the_seed_chooses_and_says_so() -> None:
    chosen = set()
    for seed in range(12):
        reading = parse_prompt("a bird", seed)
        name = reading.scene.objects[0].concept
        assert "bird" in vocabulary()[name].categories
        assert f"chose {name} for bird" in reading.notes
        chosen.add(name)
    assert len(chosen) > 3


def test_undrawable_words_are_reported() -> None:
    reading = parse_prompt("a dog with a leash running from a zorblax in the snow and the desert")
    assert {"leash", "zorblax", "desert"} <= set(reading.undrawn)
    assert any("running" in note for note in reading.notes)


def test_surplus_objects_are_reported() -> None:
    reading = parse_prompt("100 dogs")
    assert len(reading.scene.objects) == MAX_OBJECTS
    assert any("12 of 100" in note for note in reading.notes)


def test_equal_seeds_give_minimal_pairs_and_others_give_other_layouts() -> None:
    dog, cat = (parse_prompt(f"a {name}", 4).scene for name in ("dog", "cat"))
    assert (dog.background, dog.texture, dog.light) == (cat.background, cat.texture, cat.light)
    assert (dog.objects[0].x, dog.objects[0].size) == (cat.objects[0].x, cat.objects[0].size)
    assert len({parse_prompt("a dog", seed).scene.objects[0].x for seed in range(8)}) == 8
    assert len({parse_prompt("a dog", seed).scene.background for seed in range(30)}) > 5
