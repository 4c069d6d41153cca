"""What a network may know beforehand: the set's classes among other animals, and the places by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.paper.gym import classifiers, world
from experiments.paper.gym.spawrious import SceneDesign
from experiments.paper.gym.world import Effort

DESIGN = SceneDesign(("pig", "frog"), ("snow", "grass", "beach"), side=16)


def test_the_lessons_show_the_sets_classes_among_other_animals_and_each_place_alone():
    lessons = world.lessons(DESIGN, Effort(images=45))
    images, labels, n_classes = lessons.images, lessons.labels, lessons.n_classes
    assert n_classes == world.ANIMALS + 3
    assert images.shape == (45, 16, 16, 3)
    assert sorted(np.bincount(labels)) == [3] * 15


def test_the_weights_are_learned_once_and_those_of_another_design_apart(tmp_path):
    effort = Effort(images=32, epochs=1)
    recipe = classifiers.Recipe(architecture="test_resnet", side=32, batch=16)
    first = world.weights(recipe, DESIGN, tmp_path, lambda *_: None, effort)

    def again(*_args):
        pytest.fail("learned a second time")

    assert first.keys() == world.weights(recipe, DESIGN, tmp_path, again, effort).keys()
    other = SceneDesign(("pig", "dog"), DESIGN.places, side=16)
    world.weights(recipe, other, tmp_path, lambda *_: None, effort)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
