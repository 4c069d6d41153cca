"""The data set of scenes: images by index, balanced over the concepts."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.dataset import ScenesDataset
from actors.embedded.drawing.render import render
from actors.embedded.drawing.scene import Scene
from actors.embedded.drawing.vocabulary import concepts
from actors.errors import UsageError
from actors.images import content_id


def test_an_index_is_always_the_same_image_and_other_indices_are_others() -> None:
    one, again = ScenesDataset(50, 3), ScenesDataset(50, 3)
    ids = [one.load(index).id for index in range(8)]
    assert ids == [again.load(index).id for index in range(8)]
    assert len(set(ids)) == 8
    assert ScenesDataset(50, 4).load(0).id != ids[0]


@pytest.mark.slow
def test_every_concept_comes_about_as_often_as_every_other() -> None:
    dataset = ScenesDataset(3000, 0)
    scenes = [dataset.scene(index) for index in range(len(dataset))]
    first = Counter(scene.objects[0].concept for scene in scenes)
    either = Counter(placed.concept for scene in scenes for placed in scene.objects)
    rounds = 3000 // len(concepts())
    assert set(first) == {concept.name for concept in concepts()}
    assert rounds <= min(first.values()) <= max(first.values()) <= rounds + 1
    assert min(either.values()) >= 8
    places = Counter(scene.background for scene in scenes)
    assert max(places.values()) - min(places.values()) <= 1
    assert set(places) == set(BACKGROUNDS)


def test_the_provenance_gives_the_pixels_again_and_says_what_is_in_them() -> None:
    dataset = ScenesDataset(20, 1)
    provenance = dataset.provenance(7)
    scene = Scene.from_dict(provenance.recipe)
    assert content_id(render(scene)) == dataset.load(7).id
    assert provenance.source == "dataset"
    assert provenance.prompt == dataset.caption(7)
    for placed in scene.objects:
        assert placed.concept in provenance.prompt


def test_the_fingerprint_depends_on_size_and_seed() -> None:
    prints = {ScenesDataset(size, seed).fingerprint for size in (10, 20) for seed in (0, 1)}
    assert len(prints) == 4


@pytest.mark.parametrize("index", [-1, 20])
def test_an_index_out_of_range_is_refused_with_the_range(index: int) -> None:
    with pytest.raises(UsageError, match=r"0\.\.19"):
        ScenesDataset(20).load(index)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        ScenesDataset(0)
