"""SAM 3 with random weights, loaded through the real `from_pretrained`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actors.detection.base import Detection, DetectRequest
from actors.detection.sam3 import Sam3Detector
from actors.detection.settings import Sam3Detection
from actors.errors import BackendError, UsageError
from tests.actors.detection.test_grounding import found, picture

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def load(detector_folder: Callable[[str], str]) -> Callable[..., Sam3Detector]:
    def build(**settings: Any) -> Sam3Detector:
        wanted = {"threshold": 0.1, "device": "cpu", **settings}
        return Sam3Detector(Sam3Detection(model=detector_folder("sam3"), **wanted))

    return build


@pytest.fixture(scope="module")
def requests() -> list[DetectRequest]:
    one, other, wide = picture(60, 50, 0), picture(60, 50, 1), picture(40, 80, 2)
    return [DetectRequest(i, c) for i, c in ((one, "dog"), (one, "red cat"), (wide, "dog"), (other, "leash"))]


def test_a_detection_is_the_same_alone_and_in_a_batch(load: Any, requests: list[DetectRequest]) -> None:
    model = load()
    for request, each in zip(requests, found(model.detect(requests)), strict=True):
        (alone,) = found(model.detect([request]))
        assert each.present
        assert each.score == pytest.approx(alone.score, abs=1e-5)
        assert each.mask.shape == request.image.size
        assert (each.mask == alone.mask).mean() >= 0.999
        np.testing.assert_allclose(each.boxes, alone.boxes, atol=1e-3)


def test_sharing_an_images_encoding_changes_nothing(load: Any, requests: list[DetectRequest]) -> None:
    import torch

    model = load(dilation_px=0)
    request = requests[1]
    reads = model._reads(images=request.image.to_pil(), text=request.concept, return_tensors="pt")
    reads.pop("original_sizes")
    with torch.no_grad():
        outputs = model._model(**reads)
    (theirs,) = model._reads.post_process_instance_segmentation(
        outputs, threshold=0.1, mask_threshold=0.5, target_sizes=[request.image.size]
    )
    ours = found(model.detect(requests))[1]
    assert ours.score == pytest.approx(float(theirs["scores"].max()), abs=1e-5)
    assert (ours.mask == theirs["masks"].bool().any(0).numpy()).mean() >= 0.999
    np.testing.assert_allclose(np.sort(ours.box_scores), np.sort(theirs["scores"].numpy()), atol=1e-5)


def test_the_images_encoding_is_shared_by_its_concepts(
    load: Any, requests: list[DetectRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()
    encoded: list[int] = []
    encode = model._model.get_vision_features
    monkeypatch.setattr(
        model._model, "get_vision_features", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    model.detect(requests)
    assert encoded == [3]


def test_nothing_above_the_threshold_is_nothing(load: Any, requests: list[DetectRequest]) -> None:
    (nothing,) = found(load(threshold=0.999).detect(requests[:1]))
    assert not nothing.present
    assert not nothing.mask.any()


@pytest.mark.parametrize("name", ["pred_logits", "pred_boxes"])
def test_scores_that_are_not_finite_are_a_failure_and_not_an_absence(
    load: Any, requests: list[DetectRequest], name: str
) -> None:
    def overflow(_module: Any, _inputs: Any, outputs: Any) -> Any:
        outputs[name].fill_(float("nan"))
        return outputs

    seeker = load()
    hook = seeker._model.register_forward_hook(overflow)
    try:
        with pytest.raises(BackendError, match="not finite"):
            seeker.detect(requests[:1])
    finally:
        hook.remove()


def test_a_concept_without_words_fails_alone(load: Any) -> None:
    image = picture(60, 50, 0)
    empty, dog = load().detect([DetectRequest(image, " "), DetectRequest(image, "dog")])
    assert isinstance(empty, UsageError)
    assert isinstance(dog, Detection)


def test_a_model_of_another_kind_is_named(detector_folder: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="not a SAM 3 model"):
        Sam3Detector(Sam3Detection(model=detector_folder("sam")))
