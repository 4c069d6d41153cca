"""The map is the same each time, keeps alike labels together, and grows without moving."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.atlas import layout
from experiments.atlas.words import WordVectors, kinds

LABELS = [f"{look} {thing}" for thing in ("poodle", "beagle", "tabby", "oboe", "violin") for look in
          ("red", "old", "wet", "big")]  # fmt: skip


def places(labels: list[str], known: np.ndarray | None = None) -> np.ndarray:
    unknown = np.full((len(labels), 2), np.nan) if known is None else known
    return layout.project(WordVectors.of(labels).matrix(), np.ones(len(labels), int), unknown)


def test_a_map_is_the_same_each_time_and_fills_the_square():
    first = places(LABELS)
    np.testing.assert_array_equal(first, places(LABELS))
    assert first.min() >= 0
    assert first.max() <= 1
    assert np.ptp(first, axis=0).min() > 0.5


def test_labels_of_one_thing_lie_together():
    vectors = WordVectors.of(LABELS)
    near = layout.neighbors(vectors.matrix(), 3)
    things = np.repeat(np.arange(5), 4)
    assert (things[near] == things[:, None]).mean() > 0.9
    assert "dog" in kinds("old poodle")
    similar = vectors.similarities("poodle")
    assert similar[:4].min() > similar[4:8].max() > similar[12:].max(), "poodles, then dogs, then instruments"


def test_a_few_new_labels_move_no_other_and_lie_by_what_is_like_them():
    before = places(LABELS)
    known = np.vstack([before, [[np.nan, np.nan]]])
    after = places([*LABELS, "small oboe"], known)
    np.testing.assert_array_equal(after[:-1], before.astype(np.float32))
    away = np.linalg.norm(after[:-1] - after[-1], axis=1)
    assert set(np.argsort(away)[:3]) <= set(range(12, 20)), "instruments"


def test_more_labels_than_landmarks_are_placed_among_them(monkeypatch):
    monkeypatch.setattr(layout, "LANDMARKS", 10)
    assert np.isfinite(places(LABELS)).all()


@pytest.mark.parametrize(
    "labels", [["dog"], ["dog", "cat"], ["dog", "cat", "of the"], ["!!", "??", "--", "::"]]
)
def test_few_labels_or_labels_without_words_have_places(labels):
    found = places(labels)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_units_of_a_label_form_a_disk_and_those_without_have_no_place():
    points = layout.spread(np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([0, 1, 0, -1, 0]))
    assert np.isnan(points[3]).all()
    np.testing.assert_allclose(points[1], [0.1, 0.9])
    assert np.linalg.norm(points[[0, 2, 4]] - 0.5, axis=1).max() < 0.05
    assert len({tuple(point) for point in points[[0, 2, 4]].tolist()}) == 3
