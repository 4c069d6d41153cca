"""What units follow, on images of every class in every place."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.paper.gym.selectivity import FactorShares

LABELS, PLACES = np.arange(240) % 4, np.arange(240) // 4 % 5


def features(*weights: tuple[float, float, float]) -> np.ndarray:
    """Columns that follow class, place and noise with these weights, each part of variance 1."""
    rng = np.random.default_rng(1)
    parts = [(x - x.mean()) / x.std() for x in (LABELS == 1, PLACES == 2, rng.normal(size=240))]
    return np.stack([sum(w * part for w, part in zip(each, parts, strict=True)) for each in weights], axis=1)


def test_the_parts_are_those_that_the_unit_is_made_of():
    shares = FactorShares.of(features((1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)), LABELS, PLACES)
    assert shares.by_class == pytest.approx([1, 0, 1 / 3, 0], abs=0.04)
    assert shares.by_place == pytest.approx([0, 1, 1 / 3, 0], abs=0.04)


def test_a_unit_that_never_changes_follows_nothing():
    shares = FactorShares.of(np.full((240, 1), 3.0), LABELS, PLACES)
    assert (shares.by_class[0], shares.by_place[0]) == (0, 0)


def test_a_choice_is_judged_by_whether_its_units_follow_the_class_more_than_the_others():
    shares = FactorShares.of(features((2, 0, 1), (0, 2, 1), (1, 0, 1), (0, 1, 1)), LABELS, PLACES)
    right, wrong = shares.judged([0, 1, 2, 3], {0, 2}), shares.judged([0, 1, 2, 3], {1, 3})
    assert (right.auroc, wrong.auroc) == (1.0, 0.0)
    assert (right.kept.n, right.dropped.n) == (2, 2)
    assert shares.judged([0, 1], ()).auroc is None
