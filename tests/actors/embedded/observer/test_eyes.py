"""Drawn scenes are for the concept net, photographs for the classifier; each image by itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from actors.chat.base import ChatRequest, Message
from actors.embedded.language.words import embedded_words
from actors.embedded.observer.eyes import NetEyes
from actors.embedded.observer.observer import Observer
from actors.images import Image
from actors.masks import paint
from actors.vision.data.datasets import open_dataset
from tests.actors.embedded.photographs.test_look import Recording


def scenes(number: int) -> list[Image]:
    dataset = open_dataset(f"scenes:{number}:3")
    return [dataset.load(place) for place in range(number)]


def photographs() -> list[Image]:
    return [Image.from_pixels(pixels) for pixels in load_sample_images().images]


@pytest.mark.slow
def test_photographs_go_to_the_classifier_and_drawn_scenes_do_not() -> None:
    classifier = Recording()
    seen = NetEyes(classifier=classifier).look([*scenes(12), *photographs()])
    drawn, photographed = seen[:12], seen[12:]
    assert sum(each.photograph is not None for each in drawn) <= 1
    assert all(each.photograph is not None for each in photographed)


@pytest.mark.slow
def test_the_classifier_sees_photographs_alone_and_none_twice() -> None:
    classifier = Recording()
    eyes = NetEyes(classifier=classifier)
    drawn = [image for image in scenes(12) if eyes.look([image])[0].photograph is None]
    shown = len(classifier.shown)
    eyes.look(drawn)
    assert len(classifier.shown) == shown
    eyes.look(photographs())
    shown = len(classifier.shown)
    eyes.look(photographs())
    assert len(classifier.shown) == shown


def test_a_masked_photograph_is_one_too() -> None:
    activation = np.zeros((7, 7), np.float32)
    activation[2:5, 2:5] = 1
    masked = [paint(image, activation, 0.5) for image in photographs()]
    assert all(each.photograph for each in NetEyes(classifier=Recording()).look(masked))


def test_without_a_classifier_every_image_is_taken_for_drawn() -> None:
    assert all(each.photograph is None for each in NetEyes().look(photographs()))


def test_the_observer_cannot_tell_whether_a_photograph_has_a_drawn_worlds_background() -> None:
    observer = Observer(embedded_words(), NetEyes(classifier=Recording()))

    def answer(question: str) -> str:
        parts = (f"Does this image show {question}? Answer yes or no.", photographs()[0])
        request = ChatRequest((Message("user", parts),), conversation="witness")
        return observer.answer_all([request])[0].text

    assert answer("an espresso") == "yes"
    assert answer("a palace") == "no"
    assert answer("a stone background").startswith("I cannot tell")
