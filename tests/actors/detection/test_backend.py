"""The same concept in the same image is sought once; lists of many callers are batched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from actors.detection.backend import DetectionBackend
from actors.detection.base import Detection, DetectRequest
from actors.detection.client import PoolDetector
from actors.detection.factory import available, build_backend
from actors.detection.settings import DetectionSettings
from actors.errors import BackendError, MaiaError, UsageError
from actors.images import Image
from actors.serving.pool import LocalPool


class Seeker:
    """A `Detector` that finds each concept in the whole image, more surely the longer its name."""

    name = "seeker"
    max_batch = 4

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        assert 1 <= len(requests) <= self.max_batch
        assert len({request.image.size for request in requests}) == 1, (
            "images of different sizes in one batch"
        )
        self.batches.append([request.concept for request in requests])
        self.threads.add(threading.current_thread().name)
        return [
            UsageError(f"unknown {r.concept}")
            if r.concept == "quokka"
            else Detection(len(r.concept) / 100, np.ones(r.image.size, bool))
            for r in requests
        ]


def plain(height: int, width: int, value: int = 9) -> Image:
    return Image.from_pixels(np.full((height, width, 3), value, np.uint8))


async def test_callers_share_batches_and_the_same_question_is_asked_once() -> None:
    seeker, one, other = Seeker(), plain(4, 4), plain(4, 6)
    async with LocalPool(DetectionBackend(seeker, remembered_bytes=10**5)) as pool:
        detector = PoolDetector(pool)
        answers = await asyncio.gather(
            *(detector.detect([one, one, other], ["dog", f"cat {i}", "dog"], agent=f"a{i}") for i in range(3))
        )
        again = await detector.detect([one], ["  Dog "])
    assert sorted(concept for batch in seeker.batches for concept in batch) == [
        "cat 0",
        "cat 1",
        "cat 2",
        "dog",
        "dog",
    ]
    assert len(seeker.batches) == 2
    assert [each.score for each in answers[0]] == [0.03, 0.05, 0.03]  # type: ignore[union-attr]
    assert again[0].score == 0.03  # type: ignore[union-attr]
    assert threading.current_thread().name not in seeker.threads


async def test_failures_stay_in_their_places() -> None:
    async with LocalPool(DetectionBackend(Seeker())) as pool:
        dog, quokka = await PoolDetector(pool).detect([plain(4, 4)] * 2, ["dog", "quokka"])
        with pytest.raises(UsageError, match="1 images and 2 concepts"):
            await PoolDetector(pool).detect([plain(4, 4)], ["a", "b"])
    assert isinstance(dog, Detection)
    assert isinstance(quokka, UsageError)


@pytest.mark.parametrize("error", [ValueError("no"), BackendError("no"), MemoryError("no")])
async def test_a_failing_request_does_not_fail_others(error: Exception) -> None:
    class Fussy(Seeker):
        def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
            if any(request.concept == "emu" for request in requests):
                raise error
            return super().detect(requests)

    async with LocalPool(DetectionBackend(Fussy())) as pool:
        found = await PoolDetector(pool).detect([plain(4, 4)] * 4, ["dog", "cat", "emu", "owl"])
    assert [isinstance(each, Detection) for each in found] == [True, True, False, True]
    assert isinstance(found[2], BackendError)
    assert "no" in str(found[2])


async def test_memory_is_bounded() -> None:
    backend = DetectionBackend(Seeker(), remembered_bytes=40)
    first, second, third = (DetectRequest(plain(4, 4), concept) for concept in ("a", "b", "c"))
    await backend.run([first, second, third])
    assert [backend.lookup(request) is None for request in (first, second, third)] == [True, False, False]
    await backend.close()


def settings(**values: object) -> DetectionSettings:
    read: DetectionSettings = TypeAdapter(DetectionSettings).validate_python(values)
    return read


@pytest.mark.usefixtures("one_torch_thread")
async def test_configured_detectors_are_built(detector_folder: Callable[[str], str]) -> None:
    grounding = settings(
        backend="grounding-dino-sam",
        detector=detector_folder("grounding_dino"),
        segmenter=detector_folder("sam"),
    )
    for wanted in (grounding, settings(backend="sam3", model=detector_folder("sam3"))):
        async with LocalPool(build_backend(wanted)) as pool:
            found = await pool.submit(DetectRequest(plain(60, 50), "dog"))
        assert found.mask.shape == (60, 50)


def test_bad_settings_are_refused() -> None:
    for wrong in (
        {"backend": "sam4"},
        {"backend": "sam3", "threshold": 1.5},
        {"backend": "sam3", "mod": "x"},
    ):
        with pytest.raises(ValidationError):
            settings(**wrong)


def test_availability_needs_no_loading_and_no_network() -> None:
    able, sentence = available(settings(backend="grounding-dino-sam"))
    assert able == "not asked"
    assert "hub was not asked" in sentence
    able, sentence = available(settings(backend="sam3", model="/no/such/folder"))
    assert able == "missing"
    assert "/no/such/folder" in sentence
