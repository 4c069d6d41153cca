"""Effects of ablations are claimed where they are, and at the rate where they are not."""

from __future__ import annotations

import numpy as np

from agents.evidence.effects import effect_differences, mean_effects


def test_a_planted_effect_is_claimed_with_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(50, 15)) * 0.1
    effects[7] += 1.0
    figures = mean_effects(effects, 0.0)
    assert np.flatnonzero(figures.sure).tolist() == [7]
    assert figures.low[7] < 1.0 < figures.high[7]
    assert np.flatnonzero(mean_effects(effects, 0.0, among=10**6).sure).tolist() == [7]


def test_of_units_without_an_effect_hardly_ever_one_is_claimed():
    rng = np.random.default_rng(1)
    once = [mean_effects(rng.normal(size=(60, 15)), 0.0).sure.any() for _ in range(300)]
    twice = [
        effect_differences(rng.normal(size=(60, 12)) * 3, rng.normal(size=(60, 24)), 0.0).sure.any()
        for _ in range(300)
    ]
    # Three standard errors above 5 %.
    assert np.mean(once) < 0.09
    assert np.mean(twice) < 0.09


def test_differences_as_small_as_those_of_passes_that_change_nothing_are_none():
    alike = np.full((2, 5), 1e-6)
    assert not mean_effects(alike, 1e-5).sure.any()
    assert mean_effects(alike, np.array([1e-5, 1e-7])).sure.tolist() == [False, True]


def test_an_effect_that_is_not_finite_is_no_evidence():
    effects = np.ones((2, 5))
    effects[0, 0] = np.nan
    assert mean_effects(effects, 0.0).sure.tolist() == [False, True]
    assert effect_differences(effects, 0 * effects, 0.0).sure.tolist() == [False, True]
