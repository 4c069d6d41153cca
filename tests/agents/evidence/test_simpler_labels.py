"""Every way to say less is found by the words alone, and none that says nothing."""

from __future__ import annotations

import pytest

from agents.evidence.simpler_labels import Doubt, doubts, is_combination, parts_of


def simpler(label: str) -> list[str]:
    return [doubt.simpler for doubt in doubts(label)]


def test_an_exception_is_doubted_by_images_of_what_it_excludes():
    assert doubts("an arch without a trophy") == [Doubt("arch", "arch with a trophy", "arch")]
    assert simpler("dogs, but not on grass") == ["dogs"]


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("a dog on grass", ["dog", "grass"]),
        ("person with a red hat", ["person", "red hat"]),
        ("wheels of parked cars", ["wheels", "parked cars"]),
        ("a cup on a table in a room", ["cup", "table in a room", "cup on a table", "room"]),
        ("dog", []),
        ("dog on", []),
        ("any kind of animal", []),
        ("legs without shoes", []),
    ],
)
def test_the_parts_of_a_combination(label, parts):
    assert parts_of(label) == parts


@pytest.mark.parametrize(
    ("label", "plain"),
    [
        ("a yellow leg", ["leg"]),
        ("bright yellow legs", ["yellow legs"]),
        ("red objects", []),
        ("grass background", []),
        ("dog", []),
        ("", []),
    ],
)
def test_an_adjective_is_doubted_unless_the_noun_is_empty(label, plain):
    assert simpler(label) == plain


def test_what_is_a_combination():
    assert is_combination("dog on grass")
    assert is_combination("dog without a leash")
    assert not is_combination("red dog")


@pytest.mark.parametrize("label", ["a b c d", "dog with cat on mat", "x without y", "dog", "of", "with"])
def test_the_chain_of_simpler_labels_ends(label):
    """Whatever is accepted in place of a label has fewer words, so the search for the simplest one ends."""
    for doubt in doubts(label):
        assert len(doubt.simpler.split()) < len(label.split())
