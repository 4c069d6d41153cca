"""Strength, reach, coverage and the finding that follows from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.evidence.coverage import coverage, more_than_missed, uncovered
from agents.evidence.evidence_record import HeldOutTest, WitnessedImage
from agents.evidence.finding import Figures, of_abstention, of_label
from agents.evidence.reach import range_of, reach, strength
from agents.evidence.verdict import VERDICTS
from agents.evidence.witness import Accuracy, accuracy


def seeing(sensitivity, specificity):
    return Accuracy(sensitivity=sensitivity, specificity=specificity, n_with=20, n_without=20)


GOOD = seeing(1.0, 1.0)


def looked(*covered, activation=2.0, origin="exemplar"):
    return [
        WitnessedImage(image=f"{i:08x}", activation=activation, origin=origin, shows={"dog": each})
        for i, each in enumerate(covered)
    ]


def test_the_range_of_a_rare_unit_follows_its_one_strong_image():
    assert range_of(0.001, [1.0] + [0.0] * 14).high == 1.0
    assert range_of(-9.5, [1.4] + [-5.1] * 14, generated=[2.0] * 5).high == 1.4


def test_one_outlier_does_not_set_the_range():
    unit = range_of(0.0, [15.0] + [7.0] * 14)
    assert unit.high == pytest.approx((15 + 14 * 7) / 15)


def test_the_range_of_a_class_uses_its_anchor():
    unit = range_of(0.3, [2.5] * 15, anchor=6.0)
    assert unit.high == 6.0
    assert not reach(unit, [2.2] * 99, 0.5).reached
    assert range_of(0.3, [9.0] * 15, anchor=6.0).high == 9.0


@pytest.mark.parametrize("activations", [[], [0.5, 0.5], [float("nan")]])
def test_a_unit_that_does_not_vary_has_no_range(activations):
    assert range_of(0.5, activations) is None


def test_a_label_is_as_strong_as_the_part_of_the_range_that_its_images_reach():
    unit = range_of(1.0, [9.0] * 5)
    found = strength(unit, {"dog": [5.0, 5.0], "cat": [1.0, 1.0]}, 0.3)
    assert found.share == pytest.approx(0.25)
    assert found.labels == {"dog": pytest.approx(0.5), "cat": pytest.approx(0.0)}
    assert found.interval[0] <= found.share <= found.interval[1]
    assert not found.strong


def test_reach_is_the_mean_of_the_best_images():
    unit = range_of(0.0, [10.0] * 5)
    assert not reach(unit, [10.0, 0.0, 0.0, 0.0, 0.0], 0.3).reached
    assert reach(unit, [4.0] * 5 + [0.0] * 90, 0.3).reached
    assert not reach(unit, [], 0.3).reached


def test_a_share_is_corrected_for_the_errors_of_the_witness():
    witness = accuracy([True] * 16 + [False] * 4, [False] * 18 + [True] * 2)
    assert witness.share(0.8 * 0.5 + 0.1 * 0.5) == pytest.approx(0.5)
    assert seeing(0.5, 0.6).share(0.5) is None, "such a witness guesses"
    assert accuracy([True] * 4, [False] * 20) is None


@pytest.mark.parametrize(
    ("covered", "covers"),
    [
        ([True] * 5 + [False] * 10, True),
        ([True] * 4 + [False] * 11, False),
        ([True] * 6 + [None] * 9, True),
        ([True] * 2 + [None] * 13, None),
        ([False] * 12 + [None] * 3, False),
        ([None] * 15, None),
        ([], None),
    ],
)
def test_images_without_a_clear_answer_neither_cover_nor_refute(covered, covers):
    assert coverage(looked(*covered), ["dog"], GOOD, 0.3).covers is covers


def test_the_strongest_images_without_the_label_come_first_and_unknown_ones_are_no_objection():
    images = [
        *looked(False, activation=3.0),
        *looked(True, None, activation=9.0),
        *looked(False, activation=5.0),
    ]
    assert [each.activation for each in uncovered(images, 1.0)] == [5.0, 3.0]


def test_no_more_images_lack_the_label_than_a_careless_witness_overlooks():
    careless = seeing(0.8, 1.0)
    assert not more_than_missed(looked(*[True] * 12, *[False] * 3), 1.0, careless)
    assert more_than_missed(looked(*[True] * 12, *[False] * 3), 1.0, GOOD)
    assert more_than_missed(looked(*[True] * 5, *[False] * 10), 1.0, careless)
    assert not more_than_missed(looked(*[True] * 15), 1.0, GOOD)


UNIT = range_of(0.0, [10.0] * 15)
REACHED, UNREACHED = reach(UNIT, [8.0] * 9, 0.3), reach(UNIT, [1.0] * 9, 0.3)
STRONG, FAINT = strength(UNIT, {"dog": [8.0] * 9}, 0.3), strength(UNIT, {"dog": [1.0] * 9}, 0.3)
COVERING = coverage(looked(*[True] * 10), ["dog"], GOOD, 0.3)
NARROW = coverage(looked(*[False] * 10), ["dog"], GOOD, 0.3)
HALF = coverage(looked(*[True] * 15, *[False] * 15), ["dog"], GOOD, 0.3)
CARELESS = coverage(looked(*[True] * 15, *[False] * 15), ["dog"], seeing(0.55, 1.0), 0.3)
TRUE = HeldOutTest(
    status="holds", total=600, sampled=400, drawn=80, shown=12, auroc=0.9, auroc_interval=[0.8, 1.0],
    corrected=0.9, e_value=99.0, share=0.8,
)  # fmt: skip


def told(**figures):
    return TRUE.model_copy(update=figures)


ALL = Figures(UNIT, REACHED, STRONG, GOOD, COVERING, TRUE)
BLIND, SILENT = accuracy([True] * 20, [True] * 20), accuracy([None] * 20, [None] * 20)
FEW = told(status="too few", auroc=None, e_value=None)


@pytest.mark.parametrize(
    ("specific", "figures", "verdict"),
    [
        (True, ALL, "confirmed"),
        (True, replace(ALL, held_out=FEW), "holds for generated images"),
        (True, replace(ALL, held_out=None), "holds for generated images"),
        (True, replace(ALL, witness=BLIND), "not confirmed"),
        (True, replace(ALL, witness=SILENT), "not confirmed"),
        (False, replace(ALL, reach=UNREACHED, witness=BLIND), "out of reach"),
        (True, replace(ALL, held_out=FEW, witness=BLIND), "not confirmed"),
        (None, replace(ALL, reach=UNREACHED, strength=None, witness=None), "holds on your images"),
        (True, replace(ALL, held_out=FEW, coverage=NARROW, witness=BLIND), "not confirmed"),
        (True, replace(ALL, held_out=FEW, witness=SILENT), "not confirmed"),
        (True, replace(ALL, held_out=None, coverage=None, witness=None), "holds for generated images"),
        (True, replace(ALL, held_out=told(status="undecided")), "holds for generated images"),
        (True, replace(ALL, held_out=told(status="contradicted")), "not confirmed"),
        (True, replace(ALL, strength=FAINT), "weak"),
        (True, replace(ALL, coverage=NARROW), "partial"),
        (True, replace(ALL, coverage=NARROW, held_out=FEW), "partial"),
        (True, replace(ALL, coverage=HALF), "partial"),
        (True, replace(ALL, coverage=CARELESS), "confirmed"),
        (False, ALL, "not confirmed"),
        (False, replace(ALL, reach=UNREACHED), "holds on your images"),
        (None, replace(ALL, reach=reach(UNIT, [], 0.3), strength=None), "holds on your images"),
        (None, replace(ALL, strength=None), "holds on your images"),
        (None, replace(ALL, strength=None, held_out=FEW), "untested"),
        (True, replace(ALL, reach=UNREACHED, strength=FAINT, held_out=FEW), "out of reach"),
        (True, replace(ALL, reach=UNREACHED, coverage=NARROW), "out of reach"),
        (None, replace(ALL, reach=reach(UNIT, [], 0.3), strength=None, held_out=FEW), "untested"),
        (False, Figures(None, None), "not confirmed"),
    ],
)
def test_the_finding_says_no_more_than_the_figures(specific, figures, verdict):
    found = of_label(specific, figures)
    assert found.verdict == verdict
    assert found.verdict in VERDICTS
    assert found.reason


def test_a_label_of_images_that_are_far_from_a_class_that_wins_does_not_hold_on_them():
    absent = range_of(0.4, [4.2] * 3 + [2.0] * 12, anchor=7.5)
    figures = replace(ALL, unit=absent, reach=reach(absent, [1.0] * 9, 0.5))
    found = of_label(False, figures)
    assert found.verdict == "out of reach"
    assert "holds none of the class" in found.reason
    present = range_of(0.4, [9.0] * 3 + [2.0] * 12, anchor=7.5)
    held = replace(figures, unit=present, reach=reach(present, [1.0] * 9, 0.5))
    assert of_label(False, held).verdict == "holds on your images"


def test_the_reason_says_that_the_witness_tells_nothing_apart():
    for figures in (ALL, replace(ALL, reach=UNREACHED)):
        assert "nothing is known of what" in of_label(True, replace(figures, witness=BLIND)).reason


def test_a_label_that_a_rival_beats_is_not_confirmed():
    assert of_label(True, ALL, beaten_by="grass").verdict == "not confirmed"


def test_the_reason_says_that_parts_of_a_picture_are_no_images_of_their_own():
    few = told(status="too few", auroc=None, e_value=None, shown=12, pictures=1)
    for figures in (replace(ALL, held_out=few), replace(ALL, held_out=few, reach=UNREACHED)):
        assert (
            "12 of 80 images that no agent saw show the label, which count as 1"
            in of_label(True, figures).reason
        )
        assert "nor are parts of a picture that is among the exemplars" in of_label(True, figures).reason


def test_an_abstention_without_reach_is_out_of_reach():
    assert of_abstention(Figures(UNIT, UNREACHED)).verdict == "out of reach"
    assert of_abstention(Figures(UNIT, REACHED)).verdict == "not interpretable"
