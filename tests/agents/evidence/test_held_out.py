"""The test on real images stands for the data set, and claims nothing where the label has nothing to do with
the unit.
"""

from __future__ import annotations

import numpy as np
import pytest

from agents.evidence.evidence_record import Range
from agents.evidence.held_out import JudgedImage, Sample, draw, held_out_test
from agents.evidence.statistics import auroc
from agents.evidence.witness import Accuracy

UNIT = Range(low=0.0, high=3.0, lit=1.5)


def population(rng, n=400, prevalence=0.12, effect=1.4):
    """Return activations, and which of the images show the label."""
    shown = rng.random(n) < prevalence
    return rng.normal(size=n) + effect * shown, shown


def examined(
    rng, activations, shown, *, errors=(1.0, 1.0), witness=None, looks=80, picture=lambda number: number
):
    drawn = draw(activations, looks, rng)
    sensitivity, specificity = errors
    rates = [sensitivity if shown[place.position] else 1 - specificity for place in drawn]
    judged = [
        JudgedImage(place, float(activations[place.position]), bool(rng.random() < rate), picture(number))
        for number, (place, rate) in enumerate(zip(drawn, rates, strict=True))
    ]
    return held_out_test(
        Sample(600, len(activations), 0),
        judged,
        unit=UNIT,
        witness=witness,
        alpha=0.05,
        min_auroc=0.7,
    )


def test_a_draw_knows_the_probability_of_each_image_and_takes_the_strongest():
    activations = np.arange(400.0)
    drawn = draw(activations, 80, np.random.default_rng(0))
    assert len(drawn) == len({each.position for each in drawn}) == 80
    assert {each.position for each in drawn if each.weight == 1.0} == set(range(380, 400))
    assert sum(each.weight for each in drawn) == pytest.approx(400)
    assert [each.position for each in drawn] != sorted(each.position for each in drawn)


def test_all_images_are_drawn_where_there_are_no_more_than_may_be_asked_about():
    drawn = draw(np.arange(30.0), 80, np.random.default_rng(0))
    assert sorted(each.position for each in drawn) == list(range(30))
    assert {each.weight for each in drawn} == {1.0}


def test_auroc_precision_and_prevalence_are_those_of_the_data_set_and_their_intervals_cover_them():
    rng = np.random.default_rng(1)
    errors, covered, shares, n = [], 0, [], 60
    for _ in range(n):
        activations, shown = population(rng)
        found = examined(rng, activations, shown)
        truth = auroc(activations[shown], activations[~shown])
        errors.append(found.auroc - truth)
        covered += found.auroc_interval[0] <= truth <= found.auroc_interval[1]
        shares.append((found.prevalence - shown.mean(), found.precision - shown[activations >= 1.5].mean()))
    assert abs(np.mean(errors)) < 0.02
    assert covered >= 0.85 * n
    assert np.abs(np.mean(shares, axis=0)).max() < 0.03


def test_the_e_value_is_at_most_one_in_the_mean_where_the_label_ignores_the_unit():
    rng = np.random.default_rng(2)
    found = [examined(rng, *population(rng, effect=0.0)) for _ in range(150)]
    values = np.array([each.e_value for each in found if each.e_value is not None])
    assert values.mean() < 1 + 3 * values.std() / np.sqrt(len(values))
    assert (values >= 20).mean() <= 0.05
    assert np.mean([each.status == "holds" for each in found]) <= 0.05


def test_a_label_that_drives_the_unit_holds_with_few_images_of_it():
    rng = np.random.default_rng(3)
    found = [examined(rng, *population(rng, prevalence=0.04, effect=3.0)) for _ in range(20)]
    assert sum(each.status == "holds" for each in found) >= 15


def test_errors_of_the_witness_are_corrected():
    rng = np.random.default_rng(4)
    witness = Accuracy(sensitivity=0.85, specificity=0.9, n_with=40, n_without=40)
    raw, corrected, truth = [], [], []
    for _ in range(40):
        activations, shown = population(rng, prevalence=0.3)
        found = examined(rng, activations, shown, errors=(0.85, 0.9), witness=witness)
        raw.append(found.auroc)
        corrected.append(found.corrected)
        truth.append(auroc(activations[shown], activations[~shown]))
    assert np.mean(truth) - np.mean(raw) > 0.05
    assert abs(np.mean(truth) - np.mean(corrected)) < 0.04


@pytest.mark.parametrize(
    ("effect", "prevalence", "status"),
    [(3.0, 0.3, "holds"), (-0.5, 0.4, "contradicted"), (3.0, 0.0, "too few")],
)
def test_the_status_follows_from_the_effect(effect, prevalence, status):
    rng = np.random.default_rng(5)
    assert examined(rng, *population(rng, effect=effect, prevalence=prevalence)).status == status


def test_images_without_a_clear_answer_of_the_witness_are_counted_separately():
    drawn = draw(np.arange(20.0), 20, np.random.default_rng(0))
    judged = [JudgedImage(place, 1.0, None if i % 2 else i < 10, i) for i, place in enumerate(drawn)]
    test = held_out_test(Sample(20, 20, 0), judged, unit=UNIT, witness=None, alpha=0.05, min_auroc=0.7)
    assert (test.drawn, test.shown, test.untold) == (20, 5, 10)
    assert test.auroc == 0.5
    assert test.e_value == 1.0


def of_pictures(*groups):
    """Return the test of images of a label, and of others, that are parts of these pictures."""
    images = [
        (shown, picture)
        for shown, pictures in zip((True, False), groups, strict=True)
        for picture in pictures
    ]
    drawn = draw(np.arange(float(len(images))), len(images), np.random.default_rng(0))
    judged = [
        JudgedImage(place, 9.0 * shown, shown, picture)
        for place, (shown, picture) in zip(drawn, images, strict=True)
    ]
    return held_out_test(Sample(99, 99, 0), judged, unit=UNIT, witness=None, alpha=0.05, min_auroc=0.7)


def test_parts_of_one_picture_count_once():
    apart, together = of_pictures(range(9), range(9, 60)), of_pictures([*range(9)] * 3, range(9, 60))
    assert (apart.shown, apart.pictures, apart.status) == (9, 9, "holds")
    assert (together.shown, together.pictures, together.status) == (27, 9, "holds")
    assert together.e_value == apart.e_value
    assert together.auroc_interval == pytest.approx(apart.auroc_interval)


def test_crops_of_one_photograph_are_too_few_to_tell():
    found = of_pictures([0] * 30, range(1, 30))
    assert (found.shown, found.pictures, found.status) == (30, 1, "too few")
    assert found.dependent


def test_parts_of_pictures_that_an_agent_saw_are_too_few_to_tell():
    found = of_pictures([None] * 12, range(20))
    assert (found.shown, found.pictures, found.status) == (12, 0, "too few")


def test_a_picture_in_parts_of_which_the_label_was_seen_shows_it():
    found = of_pictures([0, 1, 2, 3, 4], [0, 0, 1, *range(5, 15)])
    assert (found.shown, found.pictures, found.e_value is not None) == (5, 5, True)


def test_the_e_value_is_at_most_one_in_the_mean_on_crops_where_the_label_ignores_the_unit():
    rng = np.random.default_rng(6)
    values = []
    for _ in range(200):
        pictures, shown = rng.normal(size=40), rng.random(40) < 0.3
        activations = np.repeat(pictures, 10) + 0.01 * rng.normal(size=400)
        drawn = draw(activations, 80, rng)
        judged = [
            JudgedImage(
                each, activations[each.position], bool(shown[each.position // 10]), each.position // 10
            )
            for each in drawn
        ]
        found = held_out_test(Sample(400, 400, 0), judged, unit=UNIT, witness=None, alpha=0.05, min_auroc=0.7)
        values += [] if found.e_value is None else [found.e_value]
    assert len(values) > 100
    assert np.mean(values) < 1 + 3 * np.std(values) / np.sqrt(len(values))
