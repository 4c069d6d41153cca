"""A concept detector as a `Backend`: the same concept in the same image is sought once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from actors.detection.base import Detection, Detector, DetectRequest, Images
from actors.errors import BackendError, MaiaError, UsageError
from actors.serving.backend import Backend, BackendFacts
from actors.serving.blocking import DeviceThread, run_in_halves
from actors.serving.lru import LruCache


class DetectionBackend(Backend[DetectRequest, Detection]):
    """One detector and what it found lately. Its calls run in one worker thread."""

    controls = frozenset({"survey"})

    def __init__(self, detector: Detector, *, remembered_bytes: int = 0) -> None:
        self._detector = detector
        self.name, self.max_batch = detector.name, detector.max_batch
        self._thread = DeviceThread("detector")
        self._remembered: LruCache[Detection] = LruCache(remembered_bytes)

    def key(self, request: DetectRequest) -> Hashable:
        return request.image.id, " ".join(request.concept.lower().split())

    def bucket(self, request: DetectRequest) -> Hashable:
        return request.image.size

    def lookup(self, request: DetectRequest) -> Detection | None:
        return self._remembered.get(self.key(request))

    async def run(self, batch: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return one detection or typed failure per request, in order."""
        results = await self._thread.run(self._detect, batch)
        for request, result in zip(batch, results, strict=True):
            if isinstance(result, Detection):
                n_bytes = result.mask.nbytes + result.boxes.nbytes + result.box_scores.nbytes
                self._remembered.put(self.key(request), result, n_bytes)
        return results

    def _detect(self, batch: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        return run_in_halves(batch, self._detector.detect, self._failure)

    def _failure(self, request: DetectRequest, error: Exception) -> BackendError:
        return BackendError(
            f"{self.name} fails on {request.concept!r} in image {request.image.id[:8]}: "
            f"{type(error).__name__}: {str(error)[:300]}"
        )

    async def survey(
        self, images: Images, start: int, stop: int, concepts: Sequence[str]
    ) -> tuple[list[str], np.ndarray]:
        """Return the ids of images `start` to `stop` and their scores, float32 (stop - start, concepts).

        An image that cannot be read has the id "" and scores of NaN: missing, not absent.

        Raises:
            MaiaError: If the detector cannot look for a concept.
        """
        return await self._thread.run(self._survey, images, start, stop, tuple(concepts))

    def _survey(
        self, images: Images, start: int, stop: int, concepts: tuple[str, ...]
    ) -> tuple[list[str], np.ndarray]:
        ids = [""] * (stop - start)
        scores = np.full((stop - start, len(concepts)), np.nan, np.float32)
        for row in range(stop - start):
            try:
                image = images.load(start + row)
            except UsageError:
                continue
            ids[row] = image.id
            for first in range(0, len(concepts), self.max_batch):
                chunk = concepts[first : first + self.max_batch]
                for column, result in enumerate(
                    self._detect([DetectRequest(image, concept) for concept in chunk]), first
                ):
                    if isinstance(result, MaiaError):
                        raise result
                    scores[row, column] = result.score
        return ids, scores

    def describe(self) -> BackendFacts:
        return {"name": self.name, "max_batch": self.max_batch}

    async def close(self) -> None:
        self._thread.close()
