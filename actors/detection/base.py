"""The interface of open-set concept detectors: is this concept in this image, and where?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from actors.errors import BackendError, MaiaError
from actors.images import Image


@dataclass(frozen=True, slots=True)
class DetectRequest:
    """Look for one concept, named in words, in one image."""

    image: Image
    concept: str


@dataclass(frozen=True, slots=True)
class Detection:
    """One concept in one image of height H and width W.

    `score` is in [0, 1], 0.0 when nothing was found; `mask` is bool (H, W), the union of all objects;
    `boxes` is float32 (n, 4), pixel x0, y0, x1, y1, best first, with `box_scores` float32 (n,).
    """

    score: float
    mask: np.ndarray
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    box_scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def present(self) -> bool:
        return self.score > 0.0


def not_finite_error(name: str) -> BackendError:
    """Return the failure for scores that are not finite: above no threshold, they would be an absence."""
    return BackendError(
        f"{name} produced values that are not finite numbers.",
        "Some models overflow in float16: set `dtype` to bfloat16 or float32.",
    )


class Images(Protocol):
    """Images by index, each a pure function of it. Small: it is sent to the process that reads them."""

    def load(self, index: int) -> Image: ...


class Detector(Protocol):
    """Finds concepts. Blocking; called from one worker thread."""

    name: str
    max_batch: int

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return one detection or one typed failure (say, a concept it does not know) a request."""
