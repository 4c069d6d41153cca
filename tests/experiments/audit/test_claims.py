"""A [BIAS] text is held against the numbers: what they do not bear out is named, with its kind."""

from __future__ import annotations

import pytest

from experiments.audit.claims import Claim, disagreements, read_claims


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("In the jungle and in snow the probability drops to 0.2, while red canoes score higher.",
         [("background: forest", -1), ("background: snow", -1), ("colour: red", 1)]),
        ("Lower next to a person; higher when small (24 fresh images, p = 0.01).",
         [("companion: person", -1), ("size: small", 1)]),
        ("The score is lower when there are two of them (count).", [("count: two", -1)]),
        ("No bias was found. A difference of 0.2 would have been seen in snow.", []),
        (
            "Nothing could be measured for canoe: it was not recognised in any image, the highest probability being "
            "0.0012, so that no context could take anything from it. Over 96 images of canoe, with 18 backgrounds, "
            "12 colours, counts, sizes and companions, the mean was 0.00.",
            [],
        ),
        (
            "No bias was found for canoe. A difference of 0.11 in the mean of a tested context would have been seen in four "
            "of five cases. A loss of that size was not possible, for the mean is 0.04. What had stood out did not hold on "
            "fresh images: in the snow (background) (mean 0.02 against 0.08 without, 24 fresh images, p = 0.0300); when it "
            "is red (colour) (mean 0.08 against 0.02 without, 24 fresh images, p = 0.0400).",
            [],
        ),
        ("The score in snow is not lower.", []),
        ("It was shown in snow, on grass and beside a dog.", []),
        ("The canoe scores lower when it is a blue canoe.", [("colour: blue", -1)]),
        ("", []),
    ],
)  # fmt: skip
def test_a_text_claims_the_contexts_to_which_it_gives_a_direction(text, claims):
    assert read_claims(text, "canoe") == ([Claim(*each) for each in claims], [])


def effect(context, difference, biased):
    return {"context": context, "difference": difference, "biased": biased}


MEASURED = [
    effect("background: snow", -0.4, True),
    effect("background: forest", 0.3, True),
    effect("colour: red", -0.02, False),
    effect("companion: person", -0.25, True),
]


def kinds(text):
    return {each.context: each.kind for each in disagreements(text, "canoe", MEASURED)}


def test_a_text_that_says_what_was_measured_is_left_alone():
    assert kinds("lower in snow and beside a person; higher in a jungle") == {}


def test_each_way_to_part_from_the_numbers_has_its_name():
    assert kinds("higher in snow; lower when red; lower on the moon; lower on a road") == {
        "background: snow": "opposite",
        "colour: red": "unsupported",
        "companion: crescent moon": "untested",
        "background: road": "untested",
        "background: forest": "missed",
        "companion: person": "missed",
    }


def test_a_text_that_finds_nothing_misses_what_is_there():
    assert set(kinds("No bias was found for canoe.").values()) == {"missed"}


@pytest.mark.parametrize(
    "words", ["lower under chandeliers", "the score drops when occluded by fog", "niedriger, lower bei Nebel"]
)
def test_a_claim_in_words_that_are_not_known_is_named_as_unchecked(words):
    found = disagreements(f"It is higher in snow; {words}. No other bias was found.", "canoe", MEASURED)
    assert [(each.context, each.difference) for each in found if each.kind == "unchecked"] == [(words, None)]
    assert "background: snow" in {each.context for each in found if each.kind == "opposite"}
