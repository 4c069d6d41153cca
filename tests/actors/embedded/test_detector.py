"""The embedded detector finds concepts by all their names, and refuses words that it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from actors.detection.base import Detection, DetectRequest
from actors.embedded.detector import ScenesDetector
from actors.embedded.drawing.phrases import UnknownConceptError, understand
from actors.embedded.drawing.render import render, render_with_masks
from actors.embedded.drawing.scene import Placed, Scene
from actors.images import Image

SCENE = Scene("grass", None, (Placed("dog", 0.3, 0.55, 0.45), Placed("car", 0.75, 0.4, 0.4, "blue")), 4)


@pytest.fixture(scope="module")
def detector() -> ScenesDetector:
    return ScenesDetector()


def detect(detector: ScenesDetector, concept: str, scene: Scene = SCENE) -> Detection:
    result = detector.detect([DetectRequest(Image.from_pixels(render(scene)), concept)])[0]
    assert isinstance(result, Detection)
    return result


@pytest.mark.parametrize(
    "concept", ["dog", "a puppy", "animals", "mammal", "car", "vehicle", "blue car", "grass", "blue"]
)
def test_a_present_concept_is_detected(detector: ScenesDetector, concept: str) -> None:
    detection = detect(detector, concept)
    assert detection.present
    assert 0 < detection.score <= 1
    assert detection.mask.shape == (224, 224)
    assert detection.mask.any()
    assert len(detection.boxes) == len(detection.box_scores) >= 1


@pytest.mark.parametrize("concept", ["pizza", "bird", "red car", "blue dog", "snow", "brick", "purple"])
def test_an_absent_concept_scores_zero_with_an_empty_mask(detector: ScenesDetector, concept: str) -> None:
    detection = detect(detector, concept)
    assert detection.score == 0.0
    assert not detection.present
    assert not detection.mask.any()
    assert detection.boxes.shape == (0, 4)


def test_the_mask_and_the_box_lie_on_the_object(detector: ScenesDetector) -> None:
    detection = detect(detector, "dog")
    truth = render_with_masks(SCENE)[1][0]
    assert (detection.mask & truth).sum() / (detection.mask | truth).sum() > 0.5
    rows, columns = np.nonzero(truth.any(1))[0], np.nonzero(truth.any(0))[0]
    assert np.abs(detection.boxes[0] - (columns[0], rows[0], columns[-1], rows[-1])).max() < 20


@pytest.mark.parametrize(
    ("word", "near"),
    [("unicycle", "bicycle"), ("a dog leash", "leaf"), ("zzzzqq", ""), ("", ""), ("\N{DOG FACE}", "")],
)
def test_an_unknown_concept_is_a_typed_failure_that_names_the_nearest(
    detector: ScenesDetector, word: str, near: str
) -> None:
    result = detector.detect([DetectRequest(Image.from_pixels(render(SCENE)), word)])[0]
    assert isinstance(result, UnknownConceptError)
    assert near in result.fix


def test_a_batch_answers_in_order_and_looks_at_each_image_once() -> None:
    from actors.embedded.concept_net.concept_net import ConceptNet

    looked: list[int] = []

    class Counting(ConceptNet):
        def look(self, images):  # type: ignore[no-untyped-def]
            looked.append(len(images))
            return super().look(images)

    image, other = Image.from_pixels(render(SCENE)), Image.from_pixels(render(Scene("snow", texture=1)))
    requests = [DetectRequest(image, "dog"), DetectRequest(other, "snow"), DetectRequest(image, "leash")]
    dog, snow, leash = ScenesDetector(net=Counting.load()).detect([*requests])
    assert looked == [2]
    assert isinstance(dog, Detection)
    assert isinstance(snow, Detection)
    assert dog.present
    assert snow.present
    assert isinstance(leash, UnknownConceptError)


def test_words_with_two_meanings() -> None:
    assert understand("orange").classes == ("orange",)
    assert understand("an orange car").color == "orange"
    assert {"bricks", "brick wall"} <= set(understand("brick").classes)
    assert understand("car window").classes == ("window",)
    assert understand("red").classes == ()
    assert "hen" in understand("a bird").classes
