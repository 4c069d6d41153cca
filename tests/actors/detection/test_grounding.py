"""Grounding DINO and SAM with random weights, loaded through the real `from_pretrained`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors import hub
from actors.detection.base import Detection, DetectRequest
from actors.detection.grounding import GroundingDetector, caption
from actors.detection.settings import GroundingDetection
from actors.errors import BackendError, MissingDependencyError, UsageError
from actors.images import Image
from tests.actors.weights import oversized
from tests.fake_hub import COMMIT, FakeHub, point_at

pytestmark = pytest.mark.usefixtures("one_torch_thread")

WORDS = ("dog", "a red cat", "leash", "dog", "cat")


def picture(height: int, width: int, seed: int) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.from_pixels(noise)


@pytest.fixture(scope="module")
def detector(detector_folder: Callable[[str], str]) -> Callable[..., GroundingDetector]:
    loaded: dict[str, GroundingDetector] = {}

    def load(**settings: Any) -> GroundingDetector:
        key = repr(settings)
        if key not in loaded:
            loaded[key] = GroundingDetector(
                GroundingDetection(
                    detector=detector_folder("grounding_dino"),
                    segmenter=detector_folder("sam"),
                    device="cpu",
                    **settings,
                )
            )
        return loaded[key]

    return load


def found(detections: list[Any]) -> list[Detection]:
    assert all(isinstance(each, Detection) for each in detections), detections
    return detections


@pytest.fixture(scope="module")
def requests() -> list[DetectRequest]:
    pictures = [
        picture(60, 50, 0),
        picture(60, 50, 0),
        picture(60, 50, 1),
        picture(40, 80, 2),
        picture(60, 50, 3),
    ]
    return [DetectRequest(image, word) for image, word in zip(pictures, WORDS, strict=True)]


@pytest.mark.parametrize("mode", ["paper", "authors-code"])
def test_a_detection_is_the_same_alone_and_in_a_batch(
    detector: Any, requests: list[DetectRequest], mode: str
) -> None:
    model = detector(mode=mode)
    together = found(model.detect(requests))
    for request, each in zip(requests, together, strict=True):
        (alone,) = found(model.detect([request]))
        assert each.score == pytest.approx(alone.score, abs=1e-5)
        assert each.mask.shape == request.image.size
        assert (each.mask == alone.mask).mean() >= 0.999
        np.testing.assert_allclose(each.boxes, alone.boxes, atol=1e-3)
    assert len({round(each.score, 6) for each in together}) >= 4


def test_boxes_and_scores_are_those_of_the_librarys_own_post_processing(
    detector: Any, detector_folder: Callable[[str], str], requests: list[DetectRequest]
) -> None:
    import torch
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = detector_folder("grounding_dino")
    network = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    reads = AutoProcessor.from_pretrained(folder)
    # Without the check of words: that one is ours.
    ours = found(detector(text_threshold=0.0).detect(requests))
    n_boxes = 0
    for request, each in zip(requests, ours, strict=True):
        inputs = reads(images=request.image.to_pil(), text=f"{request.concept}.", return_tensors="pt")
        with torch.no_grad():
            outputs = network(**inputs)
        (theirs,) = reads.post_process_grounded_object_detection(
            outputs, inputs.input_ids, threshold=0.3, text_threshold=0.0, target_sizes=[request.image.size]
        )
        order = theirs["scores"].argsort(descending=True)
        np.testing.assert_allclose(each.box_scores, theirs["scores"][order], atol=1e-5)
        np.testing.assert_allclose(each.boxes, theirs["boxes"][order], atol=1e-3)
        n_boxes += len(each.boxes)
    assert n_boxes >= 5


def test_masks_are_the_union_of_sams_masks_for_the_boxes(
    detector: Any, detector_folder: Callable[[str], str], requests: list[DetectRequest]
) -> None:
    import torch
    from transformers import SamModel, SamProcessor

    folder = detector_folder("sam")
    network, reads = SamModel.from_pretrained(folder).eval(), SamProcessor.from_pretrained(folder)
    checked = 0
    for request, each in zip(requests, found(detector(dilation_px=0).detect(requests)), strict=True):
        if not len(each.boxes):
            assert not each.mask.any()
            continue
        inputs = reads(images=request.image.to_pil(), input_boxes=[each.boxes.tolist()], return_tensors="pt")
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        inputs["input_boxes"] = inputs["input_boxes"].float()
        with torch.no_grad():
            drawn = network(**inputs, multimask_output=False).pred_masks
        (masks,) = reads.image_processor.post_process_masks(drawn, *sizes)
        assert (each.mask == masks[:, 0].any(0).numpy()).mean() >= 0.999
        checked += 1
    assert checked >= 3


def test_the_paper_takes_the_best_boxs_confidence(detector: Any, requests: list[DetectRequest]) -> None:
    several = [each for each in found(detector().detect(requests)) if len(each.boxes) > 1]
    assert several
    for each in several:
        assert each.score == pytest.approx(each.box_scores.max())
        assert (np.diff(each.box_scores) <= 0).all()
        assert (each.box_scores > 0.3).all()


def test_the_authors_code_takes_the_mean_of_scores_cut_to_two_decimals(
    detector: Any, requests: list[DetectRequest]
) -> None:
    several = [e for e in found(detector(mode="authors-code").detect(requests)) if len(e.boxes) > 1]
    assert several
    for each in several:
        # As text is cut, not rounded.
        cut = [float(str(float(score))[:4]) for score in each.box_scores]
        assert each.score == pytest.approx(sum(cut) / len(cut))
        assert (each.box_scores > 0.25).all()


def test_a_box_that_is_like_no_word_is_dropped_in_the_papers_mode_only(
    detector: Any, requests: list[DetectRequest]
) -> None:
    strict = {"box_threshold": 0.3, "text_threshold": 0.9999999}
    assert all(not each.present for each in found(detector(**strict).detect(requests)))
    kept = found(detector(mode="authors-code", **strict).detect(requests))
    assert any(each.present for each in kept)


@pytest.mark.slow
def test_nothing_found_is_zero_and_an_empty_mask(detector: Any) -> None:
    (nothing,) = found(detector(box_threshold=0.9999).detect([DetectRequest(picture(60, 50, 0), "dog")]))
    assert (nothing.score, nothing.present, nothing.mask.any()) == (0.0, False, False)
    assert nothing.boxes.shape == (0, 4)


@pytest.mark.parametrize("name", ["logits", "pred_boxes"])
def test_scores_that_are_not_finite_are_a_failure_and_not_an_absence(
    detector: Any, requests: list[DetectRequest], name: str
) -> None:
    def overflow(_module: Any, _inputs: Any, outputs: Any) -> Any:
        outputs[name].fill_(float("nan"))
        return outputs

    seeker = detector()
    hook = seeker._detector.register_forward_hook(overflow)
    try:
        with pytest.raises(BackendError, match="not finite"):
            seeker.detect(requests[:1])
    finally:
        hook.remove()


def test_each_image_is_segmented_once_however_many_concepts_are_sought(
    detector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = detector(box_threshold=0.0)
    encoded: list[int] = []
    encode = model._segmenter.get_image_embeddings
    monkeypatch.setattr(
        model._segmenter, "get_image_embeddings", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    )
    one, other = picture(60, 50, 0), picture(60, 50, 1)
    model.detect([DetectRequest(one, "dog"), DetectRequest(one, "cat"), DetectRequest(other, "dog")])
    assert encoded == [2]


def test_a_concept_without_words_fails_alone(detector: Any) -> None:
    image = picture(60, 50, 0)
    empty, dog = detector().detect([DetectRequest(image, " . "), DetectRequest(image, "dog")])
    assert isinstance(empty, UsageError)
    assert isinstance(dog, Detection)


def test_a_concept_is_one_phrase_in_lower_case() -> None:
    assert caption("  Dog ") == "dog."
    assert caption("St. Bernard.") == "st bernard."


def test_the_name_holds_models_mode_and_thresholds(detector: Any) -> None:
    assert "paper box>0.3 text>0.25" in detector().name
    assert "authors-code box>0.25 text>0.3" in detector(mode="authors-code").name
    assert detector().name != detector(dilation_px=3).name


def test_a_model_of_another_kind_is_named(detector_folder: Callable[[str], str]) -> None:
    sam = detector_folder("sam")
    with pytest.raises(UsageError, match="sam"):
        GroundingDetector(GroundingDetection(detector=sam, segmenter=sam))


def test_a_missing_folder_is_named(detector_folder: Callable[[str], str]) -> None:
    with pytest.raises(hub.ModelNotFoundError, match="/no/such"):
        GroundingDetector(GroundingDetection(detector="/no/such", segmenter=detector_folder("sam")))


def test_models_are_fetched_by_their_hub_ids_and_found_offline_afterwards(
    detector_folder: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = GroundingDetection(detector="owner/dino", segmenter="owner/sam", device="cpu")
    models = {
        "owner/dino": Path(detector_folder("grounding_dino")),
        "owner/sam": Path(detector_folder("sam")),
    }
    with FakeHub(models) as server:
        point_at(server.url, tmp_path / "cache", monkeypatch)
        name = GroundingDetector(wanted).name
        with pytest.raises(hub.ModelNotFoundError, match="owner/sem"):
            GroundingDetector(wanted.model_copy(update={"segmenter": "owner/sem"}))
    assert f"owner/dino@{COMMIT[:16]} owner/sam@{COMMIT[:16]}" in name
    assert GroundingDetector(wanted).name == name
    with pytest.raises(hub.HubUnreachableError, match="owner/other"):
        GroundingDetector(wanted.model_copy(update={"detector": "owner/other"}))


def test_too_little_memory_is_reported_before_loading(
    detector_folder: Callable[[str], str], tmp_path: Path
) -> None:
    huge = oversized(Path(detector_folder("grounding_dino")), tmp_path / "huge")
    with pytest.raises(hub.TooLittleMemoryError):
        GroundingDetector(GroundingDetection(detector=str(huge), segmenter=detector_folder("sam")))


def test_a_missing_extra_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "maia\[models\]"'):
        GroundingDetector(GroundingDetection())
