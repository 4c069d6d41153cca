"""The regressions of Table 2, on features whose useful columns are known."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.paper.gym import logistic


@pytest.fixture(scope="module")
def told_apart():
    """Four classes; columns 0 to 3 each follow one of them, column 4 never varies, the rest is noise."""
    rng = np.random.default_rng(3)
    labels = np.arange(240) % 4
    features = rng.normal(size=(240, 17)).astype(np.float32)
    features[np.arange(240), labels] += 3
    features[:, 4] = 2.5
    return features, labels


def test_a_sparse_fit_keeps_the_columns_that_carry_the_classes(told_apart):
    fit = logistic.sparse_to(*told_apart, 4)
    assert sorted(fit.units) == [0, 1, 2, 3]
    assert fit.accuracy(*told_apart) > 0.9


def test_a_sparse_fit_on_some_units_names_them_by_the_networks_numbers(told_apart):
    features, labels = told_apart
    fit = logistic.sparse_to(features, labels, 2, np.array([2, 3, 9, 12]))
    assert sorted(fit.units) == [2, 3]


def test_a_fit_is_standardised_by_its_own_data_and_survives_a_constant_column(told_apart):
    features, labels = told_apart
    fit = logistic.unregularized(features, labels, [0, 1, 2, 3, 4])
    assert fit.accuracy(features, labels) == pytest.approx(
        logistic.unregularized(features * 100 + 7, labels, [0, 1, 2, 3, 4]).accuracy(
            features * 100 + 7, labels
        )
    )


def test_the_strength_that_does_best_on_held_out_halves_is_taken(told_apart):
    fit = logistic.tuned(*told_apart, np.random.default_rng(0), splits=2)
    assert {0, 1, 2, 3} <= set(fit.units)
