"""The role of a unit: what is planted is named, and what has no effect is not."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evidence.role import RandomChanges, rates_among, role


def outputs(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, k))


def test_outputs_that_the_unit_raises_and_lowers_are_named_with_their_effect() -> None:
    clean, rng = outputs(15, 50), np.random.default_rng(1)
    ablated = clean.copy()
    amount = 1 + 0.1 * rng.normal(size=15)
    ablated[:, 7] -= 2 * amount
    ablated[:, 3] += amount
    found = role(clean, ablated, clean, [f"class {i}" for i in range(50)])
    assert found is not None
    assert found.raised[0].name == "class 7"
    assert found.lowered[0].name == "class 3"
    # Centered over 50 outputs: 2 less its share of the sum, which is (2 - 1) / 50.
    assert found.raised[0].effect == pytest.approx(2 * amount.mean() - amount.mean() / 50)
    low, high = found.raised[0].interval
    assert low < found.raised[0].effect < high


def test_a_change_that_all_outputs_share_is_no_effect() -> None:
    clean = outputs(15, 20)
    found = role(clean, clean - 3.0, clean)
    assert found is not None
    assert (found.raised, found.lowered, found.flips) == ((), (), 0)
    assert found.norm == pytest.approx(0, abs=1e-12)


def test_a_unit_without_effect_is_claimed_no_more_often_than_the_rate_allows() -> None:
    false = 0
    for seed in range(200):
        rng = np.random.default_rng((2, seed))
        clean = rng.normal(0, 1, (12, 30))
        found = role(clean, clean + rng.normal(0, 0.1, clean.shape), clean)
        assert found is not None
        false += bool(found.raised or found.lowered)
    # Binomial with 200 studies at 5 %: 19 or more happen in one of a thousand.
    assert false <= 18


def test_what_a_pass_that_changes_nothing_changes_is_the_floor() -> None:
    clean = outputs(10, 8)
    placebo = clean + np.where(np.arange(8) == 2, 0.01, 0)
    found = role(clean, clean - np.where(np.arange(8) == 5, 0.005, 0), placebo)
    assert found is not None
    assert not found.raised
    assert found.floor == pytest.approx(0.01 * 7 / 8)


def test_images_whose_first_output_changes_are_counted() -> None:
    clean = np.array([[3.0, 1, 0]] * 4 + [[0.0, 0, 5]] * 2)
    found = role(clean, clean - np.array([2.5, 0, 0]), clean)
    assert found is not None
    assert found.flips == 4
    assert role(clean[:2], clean[:2], clean[:2]) is None


def compared(effects: np.ndarray) -> list[RandomChanges]:
    """Return the comparisons of units, a row each: own effect first, then those of random changes."""
    return [
        RandomChanges(
            len(row) - 1,
            5,
            float(row[0]),
            float(np.median(row[1:])),
            (1 + int((row[1:] >= row[0]).sum())) / len(row),
            tuple(map(float, row[1:])),
        )
        for row in effects
    ]


def test_units_that_are_random_directions_are_rarely_said_to_do_more() -> None:
    """Over 200 layers of 40 units the share with any false claim is about 5 %, whatever each unit's scale."""
    rng = np.random.default_rng(4)
    scales = rng.lognormal(0, 2, (200, 40, 1))
    layers = rng.lognormal(0, 0.4, (200, 40, 21)) * scales
    wrong = sum(bool((rates_among(compared(layer)) <= 0.05).any()) for layer in layers)
    assert wrong <= 20


def test_units_that_do_more_are_named_though_their_own_p_is_near_five_percent() -> None:
    rng = np.random.default_rng(4)
    effects = rng.lognormal(0, 0.4, (40, 21))
    effects[:6, 0] = 12.0
    rates = rates_among(compared(effects))
    assert (rates[:6] <= 0.05).all()
    assert (rates[6:] <= 0.05).sum() <= 1
    none = compared(np.where(np.arange(21) == 0, 0.0, effects))
    assert (rates_among(none) == 1).all()
