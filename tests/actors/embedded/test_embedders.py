"""The stand-ins for image-text models: what an image shows is near the words for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actors.embedded.drawing.grammar import parse_prompt
from actors.embedded.drawing.render import render
from actors.embedded.embedders import PhotographsEmbedder, ScenesEmbedder
from actors.embedding.factory import build_backend
from actors.embedding.settings import BuiltinEmbedding
from actors.errors import UsageError
from actors.images import Image
from actors.packaged import LITE2


class OneClass:
    """A classifier that is sure of a class whose number is the mean brightness."""

    name = "one class"

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.full((len(pictures), 1000), 0.1 / 999, np.float32)
        rows[np.arange(len(pictures)), [int(each.mean()) for each in pictures]] = 0.9
        return rows


@pytest.fixture(scope="module")
def scenes() -> ScenesEmbedder:
    return ScenesEmbedder()


def test_a_drawn_dog_is_near_dog_and_its_kinds_and_far_from_others(scenes: ScenesEmbedder) -> None:
    image = Image.from_pixels(render(parse_prompt("a dog on grass").scene, 224))
    words = ["dog", "animal", "grass", "cat", "car", "beach"]
    near = scenes.images([image]) @ scenes.texts(words).T
    assert (near[0, :3] > scenes.facts.present_above).all()
    assert (near[0, 3:] < 0.1).all()


def test_unknown_words_and_colors_are_failures(scenes: ScenesEmbedder) -> None:
    for word in ("quasar", "red", "red dog"):
        with pytest.raises(UsageError):
            scenes.texts([word])


def test_a_class_of_imagenet_is_near_its_name_and_its_kinds() -> None:
    embedder = PhotographsEmbedder(LITE2, OneClass())
    image = Image.from_pixels(np.full((8, 8, 3), 207, np.uint8))  # golden retriever
    near = embedder.images([image]) @ embedder.texts(["golden retriever", "dog", "animal", "sports car"]).T
    assert (near[0, :3] > embedder.facts.present_above).all()
    assert near[0, 3] < 0.05
    with pytest.raises(UsageError, match="knows no 'quasar'"):
        embedder.texts(["quasar"])


def test_stand_ins_say_what_they_are() -> None:
    backend = build_backend(BuiltinEmbedding(sees="scenes"))
    assert "no colors" in str(backend.describe()["stand_in"])
    with pytest.raises(UsageError, match="no network for photographs"):
        build_backend(BuiltinEmbedding(sees="photographs"))
