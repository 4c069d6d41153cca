"""Statistics of evidence against values worked out by hand or by simulation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from agents.evidence.statistics import (
    auroc,
    auroc_interval,
    average_precision,
    benjamini_hochberg,
    detectable_difference,
    e_benjamini_hochberg,
    e_value,
    permutation_p_values,
    standardized_margin,
    wilson_interval,
)


def test_auroc_counts_a_tie_as_half():
    assert auroc([3, 2], [1, 2, 0]) == pytest.approx(5.5 / 6)
    assert auroc([1, 1], [1]) == 0.5


def test_auroc_of_an_empty_group_is_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="each group"):
        auroc([], [1.0])


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_interval_of_an_auroc_holds_it_and_has_width_also_at_the_ends(value):
    low, high = auroc_interval(value, 20, 20)
    assert 0 <= low <= value <= high <= 1
    assert high - low > 0.05
    narrow = auroc_interval(value, 200, 200)
    assert narrow[1] - narrow[0] < high - low


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        positives, controls = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
        low, high = auroc_interval(auroc(positives, controls), 20, 20)
        covered += low <= 0.7602 <= high  # P(N(1,1) > N(0,1))
    assert covered / 300 >= 0.92


def test_without_a_difference_the_e_value_seldom_reaches_twenty_at_any_time():
    """Ville's inequality: at most one run in twenty, however often one looks."""
    rng = random.Random(1)
    reached = 0
    for _ in range(400):
        positives = [rng.random() for _ in range(60)]
        controls = [rng.random() for _ in range(60)]
        reached += any(e_value(positives[:n], controls[:n]) >= 20 for n in range(1, 61))
    assert reached / 400 <= 0.05 + 0.02


def test_a_clear_difference_is_found_within_twenty_pairs():
    assert e_value([2.0] * 20, [1.0] * 20) > 1000


def test_ties_leave_the_e_value_unchanged():
    assert e_value([0.0] * 50, [0.0] * 50) == 1.0


def test_a_constant_control_group_gives_no_margin():
    assert standardized_margin([1.0, 2.0], [0.0, 0.0]) == 0.0
    assert standardized_margin([3.0], [0.0, 2.0]) == pytest.approx(2.0)


def test_the_wilson_interval_without_trials_is_the_whole_range():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(10, 10)
    assert 0.7 < low < 0.75
    assert high == pytest.approx(1.0)


def test_benjamini_hochberg_against_a_worked_example():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_average_precision_is_one_when_separated_and_the_prevalence_when_not():
    assert average_precision([3, 2], [1, 0]) == 1.0
    assert average_precision([1, 1], [1, 1, 1, 1]) == pytest.approx(1 / 3)
    assert average_precision([3, 1], [2]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    with pytest.raises(ValueError, match="each group"):
        average_precision([], [1])


def test_the_permutation_test_counts_every_exchange_as_often_as_any_other():
    """Of the 20 ways to deal three of six, two are as far apart; of the 15 to deal two of six, one."""
    assert permutation_p_values([([4, 5, 6], [1, 2, 3])], among=100)[0] == pytest.approx(2 / 20, abs=0.03)
    # Without spread within the groups, any other deal is nearer.
    found = permutation_p_values([([0, 0, 0, 0], [5, 5])] * 20, among=100)
    assert found.mean() == pytest.approx(1 / 15, abs=0.01)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="two values"):
        permutation_p_values([([1.0], [1.0, 2.0])])


@pytest.mark.slow
@pytest.mark.parametrize(("n_tests", "n_real"), [(264, 1), (2400, 1), (2400, 100)])
def test_a_true_difference_among_many_tests_is_claimed_and_chance_is_not(n_tests, n_real):
    rng = np.random.default_rng(7)
    tests = [(rng.normal(3 if i < n_real else 0, 1, 12), rng.normal(size=100)) for i in range(n_tests)]
    claimed = benjamini_hochberg(permutation_p_values(tests)) <= 0.05
    assert claimed[:n_real].all()
    assert claimed[n_real:].sum() <= 1 + 0.1 * n_real


@pytest.mark.slow
def test_p_values_of_many_tests_keep_their_level():
    rng = np.random.default_rng(8)
    p = permutation_p_values([(rng.normal(size=8), rng.normal(size=30)) for _ in range(2000)])
    for level in (0.5, 0.1, 0.01):
        assert np.mean(p <= level) == pytest.approx(level, rel=0.5)
    assert permutation_p_values([([1.0, 1.0], [1.0, 1.0])]).tolist() == [1.0]
    assert permutation_p_values([]).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: (rng.normal(0.6, 0.2, 24), rng.normal(0.7, 0.2, 48)),
        lambda rng: (rng.normal(0.6, 0.3, 24), rng.normal(0.7, 0.05, 48)),
        lambda rng: (rng.random(24) < 0.8, rng.random(48) < 0.9),
        lambda rng: (np.full(24, 0.99), rng.random(48) < 0.89),
    ],
    ids=["alike", "one is wide", "rare failures", "one never fails"],
)
def test_differences_that_the_null_allows_are_seldom_claimed_whatever_the_spreads(draw):
    rng = np.random.default_rng(9)
    p = permutation_p_values([draw(rng) for _ in range(1000)], margin=0.1)
    assert np.mean(p <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)


def test_a_difference_within_the_margin_has_no_p_value_below_one_and_a_larger_one_is_claimed():
    rng = np.random.default_rng(10)
    first, second = rng.normal(0.55, 0.01, 10), rng.normal(0.5, 0.01, 20)
    assert permutation_p_values([(first, second)], margin=0.1)[0] == 1.0
    assert permutation_p_values([(first + 0.2, second)], margin=0.1)[0] < 0.01
    assert permutation_p_values([(second, first + 0.2)], margin=0.1)[0] < 0.01


@pytest.mark.slow
def test_a_detectable_difference_passes_both_stages_in_four_of_five_cases():
    rng = np.random.default_rng(6)
    size = detectable_difference(1.0, [(6, 60, 1.0), (30, 40, 0.05)], margin=0.3)
    first = [rng.normal(size, 1, 6).mean() - rng.normal(0, 1, 60).mean() > 0.3 for _ in range(400)]
    p = permutation_p_values(
        [(rng.normal(size, 1, 30), rng.normal(0, 1, 40)) for _ in range(400)], margin=0.3
    )
    assert 0.74 < np.mean(np.array(first) & (p <= 0.05)) < 0.86
    assert detectable_difference(0.0, [(6, 60, 0.05)], margin=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("e_values", "claimed"),
    [
        ([20.0], [True]),
        ([19.0], [False]),
        ([25.0, 1.0, 30.0], [False, False, False]),  # two of three would need 30 each
        ([31.0, 1.0, 30.0], [True, False, True]),
        ([20.0, 20.0, 20.0], [True, True, True]),
        ([], []),
    ],
)
def test_e_benjamini_hochberg_by_hand(e_values, claimed):
    assert e_benjamini_hochberg(e_values).tolist() == claimed


def test_false_discoveries_stay_below_the_rate_on_labels_that_say_nothing():
    """Of 40 labels 20 are chance; the share of them among the claims stays under 5 % on average."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        chance = [e_value(rng.normal(size=20), rng.normal(size=20)) for _ in range(20)]
        real = [e_value(rng.normal(3, 1, size=20), rng.normal(size=20)) for _ in range(20)]
        claimed = e_benjamini_hochberg([*chance, *real])
        shares.append(claimed[:20].sum() / max(1, claimed.sum()))
        assert claimed[20:].sum() >= 15
    assert np.mean(shares) <= 0.05
