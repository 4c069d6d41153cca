from __future__ import annotations

import numpy as np
import pytest

from actors.detection.masks import dilated, dilated_as_authors, merged, radius_for, resized


def dot(size: int = 61) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[size // 2, size // 2] = True
    return mask


def test_merging_is_the_union() -> None:
    one, other = dot(5), np.eye(5, dtype=bool)
    assert (merged(np.stack([one, other]), (5, 5)) == (one | other)).all()
    assert not merged(np.zeros((0, 5, 7), bool), (5, 7)).any()


@pytest.mark.parametrize("radius", [1, 2.5, 18])
def test_dilation_grows_a_dot_into_a_disc(radius: float) -> None:
    rows, columns = np.mgrid[-30:31, -30:31]
    assert (dilated(dot(), radius) == (rows**2 + columns**2 <= radius**2)).all()


def test_nothing_stays_nothing_and_no_dilation_changes_nothing() -> None:
    empty = np.zeros((4, 6), bool)
    assert not dilated(empty, 5).any()
    assert not dilated_as_authors(empty).any()
    assert (dilated(dot(), 0) == dot()).all()


def test_the_authors_dilation_reaches_18_pixels_along_the_axes() -> None:
    grown = dilated_as_authors(dot())
    middle = np.flatnonzero(grown[30])
    assert (middle.min(), middle.max()) == (30 - 18, 30 + 18)
    assert (grown == grown.T).all() or (grown == grown[::-1]).all()
    assert not grown[30 - 18, 30 - 18]
    # One step is OpenCV's 5x5 ellipse: a full 3x5 bar and one pixel above and below.
    once = dilated_as_authors(dot(5), 1)
    assert once.astype(int).sum(axis=1).tolist() == [1, 5, 5, 5, 1]


def test_a_radius_is_given_for_an_image_of_224_pixels() -> None:
    assert radius_for((224, 100), 18) == 18
    assert radius_for((448, 896), 18) == 72


def test_resizing_takes_the_nearest_pixel() -> None:
    mask = np.array([[True, False], [False, True]])
    assert (resized(mask, (4, 6)) == np.kron(mask, np.ones((2, 3), bool))).all()
    assert resized(mask, (2, 2)) is mask
