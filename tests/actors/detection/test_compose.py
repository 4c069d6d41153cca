"""What a synthetic neuron answers, from what was found of its concepts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.detection.base import Detection
from actors.detection.compose import Formula, compose
from actors.errors import UsageError

LEFT = np.array([[1, 1, 0, 0]] * 3, dtype=bool)
RIGHT = np.array([[0, 0, 1, 0]] * 3, dtype=bool)
NOWHERE = np.zeros((3, 4), dtype=bool)

A = Detection(0.8, LEFT, np.zeros((3, 4), np.float32), np.array([0.8, 0.7, 0.6], np.float32))
B = Detection(0.4, RIGHT)
NONE = Detection(0.0, NOWHERE)


def value(text: str, *detections: Detection, **options: str) -> tuple[float, str]:
    """Return the unit's value and which of the masks above it answers with."""
    unit = compose(Formula.parse(text), detections, **options)  # type: ignore[arg-type]
    masks = {"left": LEFT, "right": RIGHT, "both": LEFT | RIGHT, "nowhere": NOWHERE}
    (name,) = [name for name, mask in masks.items() if (mask == unit.mask).all()]
    return unit.score, name


@pytest.mark.parametrize(
    ("text", "detections", "wanted"),
    [
        ("dog", (A,), (0.8, "left")),
        ("dog", (NONE,), (0.0, "nowhere")),
        ("dog OR cat", (A, B), (pytest.approx(0.6), "both")),
        ("dog OR cat", (A, NONE), (0.8, "left")),
        ("dog OR cat", (NONE, B), (0.4, "right")),
        ("dog OR cat", (NONE, NONE), (0.0, "nowhere")),
        ("dog|leash", (A, B), (0.8, "left")),
        ("dog|leash", (A, NONE), (0.0, "nowhere")),
        ("dog|leash", (NONE, B), (0.0, "nowhere")),
        ("dog AND cat", (A, B), (pytest.approx(0.6), "both")),
        ("dog AND cat", (A, NONE), (0.0, "nowhere")),
        ("dog AND NOT cat", (A, NONE), (0.8, "left")),
        ("dog AND NOT cat", (A, B), (0.0, "nowhere")),
        ("dog AND NOT cat", (NONE, NONE), (0.0, "nowhere")),
    ],
)
def test_the_papers_operators(
    text: str, detections: tuple[Detection, ...], wanted: tuple[float, str]
) -> None:
    assert value(text, *detections) == wanted


@pytest.mark.parametrize(
    ("text", "detections", "wanted"),
    [
        ("dog OR cat", (A, B), (0.8, "both")),
        ("dog OR cat", (NONE, B), (0.4, "right")),
        ("dog OR cat", (NONE, NONE), (0.0, "nowhere")),
        ("dog|leash", (A, B), (0.8, "left")),
        ("dog AND leash", (A, B), (0.8, "left")),
        ("dog AND NOT cat", (A, NONE), (0.8, "left")),
    ],
)
def test_the_operators_of_the_authors_code(
    text: str, detections: tuple[Detection, ...], wanted: tuple[float, str]
) -> None:
    assert value(text, *detections, mode="authors-code") == wanted


@pytest.mark.parametrize("text", ["dog|leash", "dog AND cat", "dog AND NOT cat"])
def test_off_is_a_small_value_fixed_by_the_image_in_the_authors_code(text: str) -> None:
    off = (NONE, B) if text != "dog AND NOT cat" else (A, B)
    values = [value(text, *off, mode="authors-code", image_id=f"image {i}") for i in range(200)]
    assert all(0 <= score <= 0.1 and name == "nowhere" for score, name in values)
    assert len({score for score, _ in values}) == 11
    assert values == [value(text, *off, mode="authors-code", image_id=f"image {i}") for i in range(200)]


@pytest.mark.parametrize("mode", ["paper", "authors-code"])
def test_an_absent_concept_inherits_nothing_from_a_present_one_with_many_boxes(mode: str) -> None:
    """The published OR lets B take A's sum of box scores, 2.1 here, and A's mask with it."""
    assert value("dog OR cat", A, NONE, mode=mode) == (0.8, "left")
    assert value("cat OR dog", NONE, A, mode=mode) == (0.8, "left")


detections = st.builds(
    lambda score, bits: Detection(score if any(bits) else 0.0, np.array(bits, dtype=bool).reshape(3, 4)),
    st.floats(0, 1),
    st.lists(st.booleans(), min_size=12, max_size=12),
)


@given(st.lists(detections, min_size=2, max_size=5), st.randoms(), st.sampled_from(["paper", "authors-code"]))
def test_or_stays_within_its_concepts_and_does_not_depend_on_their_order(
    found: list[Detection], random: object, mode: str
) -> None:
    formula = Formula("or", tuple(f"concept {i}" for i in range(len(found))))
    unit = compose(formula, found, mode)  # type: ignore[arg-type]
    present = [each.score for each in found if each.present]
    assert 0 <= unit.score <= 1
    if present:
        assert min(present) * (1 - 1e-12) <= unit.score <= max(present) * (1 + 1e-12)
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = compose(formula, shuffled, mode)  # type: ignore[arg-type]
    assert again.score == unit.score
    assert (again.mask == unit.mask).all()


@given(detections, detections)
def test_a_conditional_and_its_negation_share_out_the_plain_unit(one: Detection, other: Detection) -> None:
    plain = compose(Formula.parse("a"), [one])
    given_b = compose(Formula.parse("a|b"), [one, other])
    without_b = compose(Formula.parse("a AND NOT b"), [one, other])
    assert given_b.score + without_b.score == plain.score


@pytest.mark.parametrize(
    "text", ["dog", "train OR instrument", "dog|leash", "dog AND cat AND leash", "snow AND NOT dog"]
)
def test_a_formula_reads_back_what_it_writes(text: str) -> None:
    assert str(Formula.parse(text)) == text


def test_small_words_belong_to_concepts() -> None:
    assert Formula.parse("salt and pepper").concepts == ("salt and pepper",)
    assert Formula.parse("floor").operator == "mono"


@pytest.mark.parametrize(
    "text", ["", "dog OR ", " OR dog", "dog|", "dog|a|b", "a OR b|c", "a AND b OR c", "a AND NOT b AND NOT c"]
)
def test_text_that_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Formula.parse(text)


def test_detections_of_other_images_or_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="2 detections"):
        compose(Formula.parse("a|b"), [A])
    with pytest.raises(UsageError, match="one image"):
        compose(Formula.parse("a|b"), [A, Detection(0.0, np.zeros((2, 2), bool))])
