"""What a network may know beforehand: the set's classes among other animals, and the places by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.paper.gym import classifiers, world
from experiments.paper.gym.spawrious import SceneDesign

DESIGN = SceneDesign(("pig", "frog"), ("snow", "grass", "beach"), side=16)


def test_the_lessons_show_the_sets_classes_among_other_animals_and_each_place_alone(monkeypatch):
    monkeypatch.setattr(world, "IMAGES", 45)
    lessons = world.lessons(DESIGN)
    images, labels, n_classes = lessons.images, lessons.labels, lessons.n_classes
    assert n_classes == world.ANIMALS + 3
    assert images.shape == (45, 16, 16, 3)
    assert sorted(np.bincount(labels)) == [3] * 15


def test_the_weights_are_learned_once_and_those_of_another_design_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(world, "IMAGES", 32)
    monkeypatch.setattr(world, "EPOCHS", 1)
    recipe = classifiers.Recipe(architecture="resnet10t", side=32, batch=16)
    first = world.weights(recipe, DESIGN, tmp_path, lambda *_: None)

    def again(*_args):
        pytest.fail("learned a second time")

    assert first.keys() == world.weights(recipe, DESIGN, tmp_path, again).keys()
    world.weights(recipe, SceneDesign(("pig", "dog"), DESIGN.places, side=16), tmp_path, lambda *_: None)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
