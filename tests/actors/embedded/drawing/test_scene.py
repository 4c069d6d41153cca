"""Scenes as values, and the pictures they stand for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import digest, render, render_with_masks
from actors.embedded.drawing.sampling import random_scene
from actors.embedded.drawing.scene import Placed, Scene
from actors.errors import UsageError


def test_a_scene_survives_json() -> None:
    for seed in range(20):
        scene = random_scene(np.random.default_rng(seed))
        assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


@pytest.mark.parametrize(
    "values",
    [
        {"background": "moon base"},
        {"objects": [{"concept": "zorblax", "x": 0.5, "y": 0.5, "size": 0.5}]},
        {"objects": [{"concept": "dog", "x": 0.5, "y": 0.5, "size": 50}]},
        {"objects": [{"concept": "dog"}]},
        {"objects": 3},
        {"color": "red"},
        {"light": 9},
        {"background_color": "ultraviolet"},
    ],
)
def test_an_invalid_scene_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Scene.from_dict(values)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_paints_every_size(background: str) -> None:
    for size in (37, 96, 224):
        pixels = render(Scene(background, texture=3), size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8


def test_equal_scenes_give_equal_pixels_and_other_textures_others() -> None:
    for background in BACKGROUNDS:
        scene = Scene(background, None, (Placed("dog", 0.5, 0.5, 0.4, angle=9),), 7)
        again = Scene.from_dict(scene.to_dict())
        assert np.array_equal(render(scene), render(again))
        other = Scene(background, None, scene.objects, 8)
        assert not np.array_equal(render(scene), render(other))


def test_seeds_give_really_different_pictures_of_one_prompt() -> None:
    pictures = [render(parse_prompt("a dog on the grass", seed).scene).astype(int) for seed in range(4)]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert np.abs(one - other).mean() > 10


def test_masks_cover_what_each_object_adds_and_nothing_that_hides_it() -> None:
    ground = Scene("snow", texture=1)
    one = Scene("snow", None, (Placed("car", 0.4, 0.5, 0.5, "red"),), 1)
    two = Scene("snow", None, (*one.objects, Placed("owl", 0.55, 0.5, 0.3)), 1)
    bare, picture = render(ground).astype(int), render(one).astype(int)
    _, masks = render_with_masks(one)
    assert (np.abs(bare - picture).sum(2)[masks[0]] > 0).mean() > 0.97
    assert (np.abs(bare - picture).sum(2)[~masks[0]] == 0).mean() > 0.98
    _, both = render_with_masks(two)
    assert not (both[0] & both[1]).any()
    assert both[0].sum() < masks[0].sum()


def test_an_object_beyond_the_edge_is_cut_off() -> None:
    _, masks = render_with_masks(Scene(objects=(Placed("car", 1.9, 1.9, 0.2), Placed("car", 0.0, 0.0, 0.5))))
    assert not masks[0].any()
    assert masks[1].any()


def test_a_tint_keeps_the_shading() -> None:
    plain = Scene(objects=(Placed("car", 0.5, 0.5, 0.8),))
    blue = Scene(objects=(Placed("car", 0.5, 0.5, 0.8, "blue"),))
    mask = render_with_masks(plain)[1][0]
    before, after = render(plain)[mask].astype(float), render(blue)[mask].astype(float)
    assert after[:, 2].mean() > after[:, 0].mean() + 40
    assert np.corrcoef(before.mean(1), after.mean(1))[0, 1] > 0.6
    assert after.std() > 15


def test_captions_are_plain_english_that_the_grammar_reads_back() -> None:
    for seed in range(25):
        scene = random_scene(np.random.default_rng(seed), tinted=0.3, named=["car", "owl", "fish"])
        reading = parse_prompt(scene.caption())
        assert not reading.undrawn, scene.caption()
        assert reading.scene.background == scene.background
        assert sorted(o.words for o in reading.scene.objects) == sorted(o.words for o in scene.objects)


def test_the_digest_is_stable_within_a_process() -> None:
    assert digest() == digest()
    assert len(digest()) == 12
