"""Classifiers that are trained here: the same for the same seed, kept whole, and studied like any network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.errors import UsageError
from actors.vision.networks.zoo import load_network
from experiments.paper.gym import classifiers
from experiments.paper.gym.classifiers import Lessons, Recipe

TINY = Recipe(architecture="test_resnet", side=32, epochs=4, learning_rate=3e-3, batch=8)


@pytest.fixture(scope="module")
def lessons():
    """Dark and bright images of two different sizes of channel noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    images = rng.integers(0, 60, (64, 32, 32, 3)) + 150 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained(lessons):
    return classifiers.train(TINY, Lessons(*lessons, 2), seed=1)


def test_a_network_learns_its_lessons_and_the_same_seed_gives_the_same_weights(trained, lessons):
    images, labels = lessons
    assert (classifiers.logits(trained, TINY.preprocess, images).argmax(1) == labels).mean() > 0.9
    state = torch.random.get_rng_state()
    again = classifiers.train(TINY, Lessons(images, labels, 2), seed=1)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used up"
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_the_features_are_what_the_last_layer_is_fed(trained, lessons):
    found = classifiers.features(trained, TINY.preprocess, lessons[0])
    head = trained.get_classifier()
    scores = found @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    expected = classifiers.logits(trained, TINY.preprocess, lessons[0])
    assert found.shape == (64, 96)
    assert scores == pytest.approx(expected, abs=1e-4)


def test_a_kept_network_is_loaded_by_name_with_its_classes(trained, lessons, tmp_path):
    folder = classifiers.save(trained, tmp_path / "net", TINY, ["dark", "bright"], {"data": "grey"})
    network = load_network(classifiers.spec(folder))
    assert network.class_names == ("dark", "bright")
    assert network.preprocess == TINY.preprocess
    with torch.no_grad():
        scores = network.module(network.preprocess.batch(list(lessons[0][:5]))).numpy()
    assert scores == pytest.approx(classifiers.logits(trained, TINY.preprocess, lessons[0][:5]), abs=1e-5)


def test_a_network_that_was_kept_already_stays(trained, tmp_path):
    folder = classifiers.save(trained, tmp_path / "net", TINY, ["a", "b"])
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    classifiers.save(trained, folder, TINY, ["a", "b"])
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_network_that_could_not_be_put_in_its_place_is_an_error_and_stays_on_disk(trained, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "notes.txt").write_text("a user's own")
    with pytest.raises(OSError, match="net"):
        classifiers.save(trained, tmp_path / "net", TINY, ["a", "b"])
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["notes.txt"]
    assert len(list(tmp_path.glob(".net.*/weights.safetensors"))) == 1


def test_weights_to_begin_with_are_taken_but_for_the_last_layer(trained, lessons):
    start = trained.state_dict()
    still = Recipe(
        architecture="test_resnet", side=32, epochs=1, learning_rate=1e-9, weight_decay=0, batch=64
    )
    images, labels = lessons
    made = classifiers.train(still, Lessons(images, labels, 5), seed=2, start=start)
    assert torch.allclose(made.conv1[0].weight, trained.conv1[0].weight)
    assert made.get_classifier().weight.shape[0] == 5


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(architecture="resnet19"), "'resnet19'"),
        (Recipe(architecture="test_resnet", batch=65), "at least 65"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(recipe, message, lessons):
    with pytest.raises(UsageError, match=message):
        classifiers.train(recipe, Lessons(*lessons, 2), seed=0)


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no classifier"):
        classifiers.load(tmp_path)
