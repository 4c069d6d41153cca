"""The words of the embedded world."""

from __future__ import annotations

import json

import pytest

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.color import name_of, tint
from actors.embedded.drawing.lexicon import concepts_in
from actors.embedded.drawing.render import sprite
from actors.embedded.drawing.vocabulary import (
    ASSETS,
    BACKGROUND_WORDS,
    COLORS,
    concepts,
    normal,
    pluralize,
    vocabulary,
)


def test_there_are_at_least_250_concepts_and_12_backgrounds_with_names_of_their_own() -> None:
    names = [concept.name for concept in concepts()]
    assert len(names) >= 250
    assert len(set(names)) == len(names)
    assert len(BACKGROUNDS) >= 12


def test_every_concept_is_found_by_each_of_its_names_in_singular_and_plural() -> None:
    for concept in concepts():
        assert concept in concepts_in(concept.name), concept.name
        assert concept in concepts_in(concept.plural), concept.plural
        for name in (concept.name, *concept.names):
            assert concepts_in(name), name


def test_an_own_name_beats_another_concepts_synonym() -> None:
    for concept in concepts():
        assert concepts_in(concept.name) == [concept]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a PUPPY!", ["dog"]),
        ("wolves and mice", ["wolf", "mouse"]),
        ("T-Shirt", ["t-shirt"]),
        ("the fire truck", ["fire engine"]),
        ("a hot dog", ["hot dog"]),
        ("a dog's cherries", ["dog", "cherries"]),
        ("Café", []),
        ("", []),
    ],
)
def test_phrases_name_their_concepts(text: str, expected: list[str]) -> None:
    assert [concept.name for concept in concepts_in(text)] == expected


def test_a_category_stands_for_all_its_members_and_those_of_the_categories_below() -> None:
    birds = {concept.name for concept in concepts_in("birds")}
    animals = {concept.name for concept in concepts_in("an animal")}
    assert {"owl", "penguin"} <= birds < animals
    assert "dog" not in birds
    assert {"tulip", "oak tree"} <= {concept.name for concept in concepts_in("a plant")}


def test_an_unknown_word_has_near_ones() -> None:
    assert "bicycle" in vocabulary().nearest("unicycle")


@pytest.mark.parametrize(
    ("one", "many"), [("fox", "foxes"), ("cherry", "cherries"), ("key", "keys"), ("brush", "brushes")]
)
def test_regular_plurals(one: str, many: str) -> None:
    assert pluralize(one) == many


def test_every_background_word_is_in_the_form_that_the_grammar_reads() -> None:
    for word in BACKGROUND_WORDS:
        assert word == normal(word)


def test_the_sprites_belong_to_the_words() -> None:
    facts = json.loads((ASSETS / "sprites.json").read_text("utf-8"))
    assert list(facts["colors"]) == [concept.name for concept in concepts()]
    assert set(facts["colors"].values()) <= set(COLORS)


def test_every_sprite_shows_something() -> None:
    import numpy as np

    for concept in concepts():
        alpha = np.asarray(sprite(concept.name))[..., 3]
        assert (alpha > 128).mean() > 0.08, concept.name


@pytest.mark.parametrize("color", COLORS)
def test_a_named_color_is_recognized_as_itself_also_when_it_tints_a_sprite(color: str) -> None:
    import numpy as np

    assert name_of(np.array([COLORS[color]], np.uint8)) == color
    pixels = np.asarray(sprite("car")).astype(np.float32) / 255
    painted = tint(pixels[..., :3], color, pixels[..., 3])
    solid = (painted[pixels[..., 3] > 0.9] * 255).astype(np.uint8)
    assert name_of(solid) == color
