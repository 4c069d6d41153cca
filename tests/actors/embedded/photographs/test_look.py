"""Photographs are seen in several views, and words are said only where the classifier is sure of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actors.embedded.photographs.look import PhotoSighting, look, views_of
from actors.embedded.photographs.taxonomy import imagenet
from actors.images import Image
from actors.masks import paint

TABBY, EGYPTIAN_CAT, TIGER_CAT, ESPRESSO, DAISY = 281, 285, 282, 967, 985


def views(*rows: dict[int, float]) -> np.ndarray:
    """Return probabilities of views that show these classes, the rest spread evenly."""
    probabilities = np.empty((len(rows), 1000), np.float32)
    for place, known in enumerate(rows):
        probabilities[place] = (1 - sum(known.values())) / (1000 - len(known))
        probabilities[place, list(known)] = list(known.values())
    return probabilities


def sighting(*rows: dict[int, float]) -> PhotoSighting:
    return PhotoSighting(views(*rows), imagenet())


def shows(seen: PhotoSighting, name: str) -> bool | None:
    meaning = imagenet().meaning(name)
    assert meaning is not None
    return seen.shows(meaning)


class Recording:
    """A classifier that is sure of one class, and keeps what it was shown."""

    name = "recording"

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        assert all(each.dtype == np.uint8 and each.ndim == 3 for each in pictures)
        self.shown += pictures
        return views(*[{ESPRESSO: 0.9}] * len(pictures))


def test_classes_share_what_their_kind_is_sure_of() -> None:
    seen = sighting(*[{TABBY: 0.2, EGYPTIAN_CAT: 0.2, TIGER_CAT: 0.2}] * 6)
    assert [node.name for node, _ in seen.seen()] == ["cat"]
    assert shows(seen, "cat") is True
    assert shows(seen, "tabby") is None
    assert shows(seen, "espresso") is False


def test_an_even_spread_over_all_classes_is_nothing_that_is_known() -> None:
    seen = sighting(*[{}] * 6)
    assert seen.seen() == []
    assert shows(seen, "animal") is not True


def test_two_things_in_different_parts_are_both_seen() -> None:
    left, right = {ESPRESSO: 0.9}, {DAISY: 0.9}
    names = {node.name for node, _ in sighting(left, left, left, right, right, right).seen()}
    assert names == {"espresso", "daisy"}


def test_kinds_of_which_hardly_any_member_is_a_class_are_never_denied() -> None:
    assert shows(sighting(*[{ESPRESSO: 0.9}] * 6), "person") is None


def test_a_highlighted_region_is_cut_out_and_brightened_unless_the_whole_is_asked_for() -> None:
    picture = np.full((100, 140, 3), 90, np.uint8)
    picture[20:50, 90:130] = 200
    activation = np.zeros((10, 14), np.float32)
    activation[2:5, 9:13] = 1
    masked = paint(Image.from_pixels(picture), activation, 0.5)
    cuts = views_of(masked)
    assert all(cut.shape[0] < 100 and cut.shape[1] < 140 for cut in cuts)
    assert all((cut == 200).mean() > 0.1 for cut in cuts)
    whole = views_of(masked, whole=True)
    assert whole[0].shape == picture.shape
    assert np.median(whole[0]) == pytest.approx(90, abs=4)


def test_all_views_of_all_images_go_through_the_classifier_in_one_call() -> None:
    classifier = Recording()
    images = [Image.from_pixels(np.full((20 + n, 30, 3), 40 * n, np.uint8)) for n in range(3)]
    seen = look(classifier, images)
    assert len(classifier.shown) == 18
    assert [each.views.shape for each in seen] == [(6, 1000)] * 3
    assert look(classifier, []) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (3, 4)])
def test_tiny_and_thin_images_have_views_too(size: tuple[int, int]) -> None:
    assert all(cut.size for cut in views_of(Image.from_pixels(np.zeros((*size, 3), np.uint8))))
