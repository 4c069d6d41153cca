"""The best of many units is judged on images that did not choose it."""

from __future__ import annotations

import numpy as np

from experiments.find import rank


def test_a_selective_unit_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    positive, control = rng.normal(size=(200, 40)), rng.normal(size=(200, 31))
    positive[17] += 3
    rows = rank(positive, control)
    assert rows[0]["index"] == 17
    assert rows[0]["auroc"] > 0.9
    assert rows[0]["q"] < 0.01
    assert sum(row["q"] < 0.05 for row in rows) <= 3


def test_units_without_any_response_are_no_better_than_chance() -> None:
    rows = rank(np.zeros((3, 10)), np.zeros((3, 8)))
    assert {row["auroc"] for row in rows} == {0.5}
