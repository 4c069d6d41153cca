"""Real images: the right worst group is named, a fair classifier has none, and findings replicate or do
not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.audit.context_survey import ContextEffect
from experiments.audit.real_images import Answers, RealImages, Tag
from experiments.audit.replication import attenuation, column_level, replications
from experiments.audit.subgroups import FEW, Groups, findings, halves


def birds(rng: np.random.Generator, n: int = 600, loss: float = 0.0, share: float = 0.95) -> RealImages:
    """Return two classes, each in its own place on `share` of its images; elsewhere its probability is lower
    by `loss`.
    """
    label = np.arange(n) % 2
    place = np.where(rng.random(n) < share, label, 1 - label)
    logit = rng.normal(2.2, 1.2, n)
    probability = 1 / (1 + np.exp(-logit)) - loss * (place != label)
    return RealImages(
        "birds",
        "f" * 24,
        "column 'y' of metadata.csv",
        3,
        ["net/0", "net/1"],
        [],
        list(range(n)),
        [("landbird", "waterbird")[each] for each in label],
        probability.tolist(),
        (probability > 0.5).tolist(),
        {"place": Tag(["land", "water"], place.tolist())},
    )


def test_the_worst_group_is_that_of_the_planted_bias_and_the_associations_are_its_two_places():
    found = findings(birds(np.random.default_rng(1), 1200, loss=0.5), [])
    assert found.worst is not None
    assert (found.worst.class_name, found.worst.level) in {("landbird", "water"), ("waterbird", "land")}
    assert found.worst.below
    named = {(each.class_name, each.context) for each in found.associations if each.biased}
    assert named == {("landbird", "place = water"), ("waterbird", "place = land")}
    assert all(each.difference == pytest.approx(-0.5, abs=0.12) for each in found.associations if each.biased)


def test_a_fair_classifier_has_no_association_and_seldom_a_group_that_is_surely_below():
    rng = np.random.default_rng(2)
    found = [findings(birds(rng, 1200), []) for _ in range(60)]
    assert sum(any(each.biased for each in one.associations) for one in found) <= 3, "5 % of 60"
    assert sum(one.worst.below for one in found) <= 6, "2.5 % of 60 are expected"


def test_the_worst_groups_accuracy_is_not_the_least_of_many_noisy_ones():
    """Twenty equal groups: the least accuracy is far below the truth, the one of the other half is not."""
    rng = np.random.default_rng(4)
    least, reported = [], []
    for _ in range(40):
        values = np.repeat(np.arange(20), 40)
        correct = rng.random(len(values)) < 0.8
        real = replace(
            birds(rng, len(values)), classes=["bird"] * len(values), correct=correct.tolist(),
            tags={"tag": Tag([str(n) for n in range(20)], values.tolist())},
        )  # fmt: skip
        table = Groups.of(real)
        least.append(min(each.accuracy for each in table.subgroups()))
        reported.append(table.worst().accuracy)
    assert np.mean(least) < 0.72
    assert np.mean(reported) == pytest.approx(0.8, abs=0.03)


def test_of_a_group_with_too_few_images_no_figure_is_given():
    real = birds(np.random.default_rng(5), 200)
    small = [each for each in Groups.of(real).subgroups() if each.n < FEW]
    assert small
    assert all(
        (each.accuracy, each.accuracy_interval, each.probability) == (None, None, None) for each in small
    )


def test_the_intervals_of_all_groups_hold_together():
    rng, missed = np.random.default_rng(6), 0
    for _ in range(200):
        real = birds(rng, 400, share=0.5)
        correct = rng.random(400) < 0.85
        groups = Groups.of(replace(real, correct=correct.tolist())).subgroups()
        missed += any(not each.accuracy_interval[0] <= 0.85 <= each.accuracy_interval[1] for each in groups)
    assert missed <= 20, "at most 5 % of 200, with room for chance"


def test_the_adjusted_average_weights_groups_by_their_share_of_the_training_images():
    training = {"place": {"landbird": {"land": 90, "water": 10}, "waterbird": {"land": 0, "water": 100}}}
    real = replace(birds(np.random.default_rng(7), 800, loss=0.5, share=0.5), training=training)
    table = Groups.of(real)
    means = {key[::2]: table.correct[rows].mean() for key, rows in table.groups.items()}
    expected = (
        0.45 * means["landbird", "land"]
        + 0.05 * means["landbird", "water"]
        + 0.5 * means["waterbird", "water"]
    )
    plain, adjusted = table.averages()
    assert (plain.weighted_by, adjusted.weighted_by) == ("", "place")
    assert adjusted.accuracy == pytest.approx(expected)
    assert adjusted.accuracy > plain.accuracy + 0.1


def test_the_halves_share_images_that_are_tagged_alike_evenly():
    real = birds(np.random.default_rng(8), 400)
    second = halves(real)
    for rows in Groups.of(real).groups.values():
        assert abs(second[rows].sum() - len(rows) / 2) <= 1


def test_of_pairs_that_differ_in_one_tag_alone_each_half_has_images_of_both_kinds():
    """Every scene is shown once on land and once on water: tagged alike are no two images."""
    place, scene = np.tile([0, 1], 200), np.repeat(np.arange(200), 2)
    tags = {"place": Tag(["land", "water"], place.tolist())}
    tags |= {f"digit {at}": Tag([*"0123456789"], (scene // 10**at % 10).tolist()) for at in range(3)}
    real = replace(
        birds(np.random.default_rng(11), 400),
        classes=["bird"] * 400,
        tags=tags,
        correct=(place == 0).tolist(),
    )
    second = halves(real)
    assert all(70 <= second[place == each].sum() <= 130 for each in (0, 1))
    worst = Groups.of(real).worst()
    assert (worst.attribute, worst.level, worst.accuracy) == ("place", "water", 0.0)


def finding(context: str, difference: float) -> ContextEffect:
    return ContextEffect(
        "waterbird", context, 0.5 + difference, (0.4, 0.6), 0.5, difference, 0.001, 0.01, 48, 0, True
    )


@pytest.mark.parametrize(
    ("loss", "difference", "verdict"),
    [(0.5, -0.4, "replicated"), (0.5, 0.4, "opposite"), (0.0, -0.4, "not replicated")],
)
def test_a_finding_is_replicated_where_a_column_shows_the_same_sign(loss, difference, verdict):
    """The column tells land from water; the context is called a forest there."""
    real = birds(np.random.default_rng(9), 800, loss=loss)
    real = replace(real, tags={"background": Tag(["woods", "water"], real.tags["place"].values)})
    (found,) = replications(real, [finding("background: forest", difference)])
    assert (found.verdict, found.told_by) == (verdict, "column 'background'")
    assert found.interval[0] < found.effect < found.interval[1]


def test_a_finding_that_no_column_tells_or_with_few_images_is_said_not_to_be_tested():
    real = birds(np.random.default_rng(10), 100)
    (untold,) = replications(real, [finding("colour: red", -0.4)])
    assert (untold.verdict, untold.effect) == ("not tested", None)
    real = replace(real, tags={"background": Tag(["snow", "grass"], [0] * 6 + [1] * 94)})
    (few,) = replications(real, [finding("background: snow", -0.4)])
    assert (few.verdict, few.n, few.effect) == ("too few images", 3, None)


def observed(rng: np.random.Generator, s: float, c: float) -> tuple[RealImages, float]:
    """Return images with answers of observers of this sensitivity and specificity, and the true
    difference.
    """
    n, difference = 4000, -0.4
    snow = rng.random(n) < 0.2
    values = np.clip(0.8 + difference * snow + rng.normal(0, 0.05, n), 0, 1)
    said = np.where(snow, rng.random(n) < s, rng.random(n) > c)
    answers = Answers("waterbird", "background: snow", list(range(n)), said.tolist(),
                      round(1000 * s), 1000, round(1000 * (1 - c)), 1000)  # fmt: skip
    real = replace(
        birds(rng, n), classes=["waterbird"] * n, probabilities=values.tolist(), tags={}, answers=[answers]
    )
    return real, difference


def test_what_observers_blur_is_said_and_corrected():
    real, true = observed(np.random.default_rng(11), 0.9, 0.85)
    (found,) = replications(real, [finding("background: snow", -0.4)])
    assert found.verdict == "replicated"
    assert abs(found.effect) < 0.85 * abs(true), "errors of the observers make the difference look smaller"
    assert found.corrected == pytest.approx(true, abs=0.03)


def test_observers_who_cannot_tell_a_context_replicate_nothing():
    real, _ = observed(np.random.default_rng(12), 0.55, 0.5)
    (found,) = replications(real, [finding("background: snow", -0.4)])
    assert found.verdict == "not tested"
    assert attenuation(replace(real.answers[0], present=0)) is None
    assert not findings(real, []).associations, "nor are there groups by their answers"


@pytest.mark.parametrize(
    ("context", "attribute", "levels", "level"),
    [
        ("background: snow", "Place", ["grass", "Snow"], 1),
        ("background: forest", "scene", ["woods", "sea"], 0),
        ("count: two", "number", ["1", "2"], 1),
        ("background: water", "place", ["0", "1"], None),
        ("colour: red", "place", ["red"], None),
    ],
)
def test_a_column_tells_a_context_by_name_alone(context, attribute, levels, level):
    assert column_level(context, attribute, levels) == level
