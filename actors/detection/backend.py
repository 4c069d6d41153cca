"""A concept detector behind the seam of `actors.backend`: the same concept in the same image is sought once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from actors.blocking import DeviceThread, UnsharedBackend
from actors.detection.base import Detection, Detector, DetectRequest
from actors.errors import MaiaError
from actors.recall import Recall


class DetectionBackend(UnsharedBackend[DetectRequest, Detection]):
    """One detector and what it found lately. Its calls run in one worker thread."""

    def __init__(self, detector: Detector, *, remembered_bytes: int = 0) -> None:
        self._detector = detector
        self.name, self.max_batch = detector.name, detector.max_batch
        self._thread = DeviceThread("detector")
        self._remembered: Recall[Detection] = Recall(remembered_bytes)

    def key(self, request: DetectRequest) -> Hashable:
        return request.image.id, " ".join(request.concept.lower().split())

    def bucket(self, request: DetectRequest) -> Hashable:
        return request.image.size

    def lookup(self, request: DetectRequest) -> Detection | None:
        return self._remembered.get(self.key(request))

    async def run(self, batch: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return one detection or typed failure a request, in order."""
        found = await self._thread.run(self._detector.detect, batch)
        for request, each in zip(batch, found, strict=True):
            if isinstance(each, Detection):
                n_bytes = each.mask.nbytes + each.boxes.nbytes + each.box_scores.nbytes
                self._remembered.put(self.key(request), each, n_bytes)
        return found

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "max_batch": self.max_batch}

    async def close(self) -> None:
        free = getattr(self._detector, "close", None)
        if free:
            await self._thread.run(free)
        self._thread.close()
