"""The real weights: what the network behind the observer knows of photographs, and which network it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sklearn.datasets import load_sample_images

from actors.embedded.photographs.classifier import LiteClassifier, independent_classifier
from actors.embedded.photographs.look import look
from actors.images import Image
from actors.packaged import LITE0, LITE2, head_digest
from actors.vision.networks.zoo import load_network


def test_a_palace_is_recognized_in_the_whole_photograph_and_in_parts() -> None:
    palace = Image.from_pixels(load_sample_images().images[0])
    seen = look(LiteClassifier(), [palace])[0]
    assert seen.seen()[0][0].name == "palace"


@pytest.mark.parametrize("packaged", [LITE0, LITE2])
def test_a_packaged_network_is_known_by_its_weights(packaged) -> None:  # type: ignore[no-untyped-def]
    assert head_digest(load_network(packaged.name).module) == packaged.head


def test_the_network_under_study_never_judges_itself() -> None:
    assert independent_classifier("tf_efficientnet_lite0") is LITE2
    assert independent_classifier("timm:tf_efficientnet_lite2.in1k") is LITE0
    assert independent_classifier("python:mine.py:build", LITE2.head) is LITE0


def test_a_classifier_that_is_shown_no_picture_loads_no_weights() -> None:
    """Drawn pictures are not for it, and weights that are not used cost seconds in every replica."""
    unused = LiteClassifier(replace(LITE2, number=9))
    assert unused.probabilities([]).shape == (0, 1000)
