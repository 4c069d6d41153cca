"""The embedded detector: the concept net behind the protocol of open-set detectors. A stand-in, and it says
so.

It knows the concepts, categories, backgrounds and colors of the embedded world, by all their names; any
other word is a typed failure, never an absence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actors.detection.base import Detection, DetectRequest
from actors.detection.settings import ScenesDetection
from actors.embedded.drawing.phrases import UnknownConceptError, understand
from actors.errors import MaiaError

if TYPE_CHECKING:
    from actors.embedded.concept_net.concept_net import ConceptNet, Sighting
    from actors.images import Image

THRESHOLD = 0.5
"""Score from which a concept counts as present."""
_MIN_AREA = 0.001
"""Smallest part of the image that gets a box of its own."""
_ENOUGH_COLOR = 0.1
"""Share of the image that must have a color for it to score 1."""


class ScenesDetector:
    """A `Detector` for the embedded world. Requests that share an image share its pass through the net."""

    max_batch = 256
    """The net's own batches are smaller: most requests share an image."""

    def __init__(self, settings: ScenesDetection | None = None, net: ConceptNet | None = None) -> None:
        if net is None:
            from actors.embedded.concept_net.concept_net import ConceptNet

            net = ConceptNet.load()
        self._net = net
        self.name = f"scenes: {net.name}"

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        """Return what was found of each concept, or an `UnknownConceptError` for a word it does not know."""
        images: dict[str, Image] = {request.image.id: request.image for request in requests}
        seen = dict(zip(images, self._net.look(list(images.values())), strict=True))
        return [self._answer(request, seen[request.image.id]) for request in requests]

    def _answer(self, request: DetectRequest, sighting: Sighting) -> Detection | MaiaError:
        try:
            wanted = understand(request.concept)
        except UnknownConceptError as error:
            return error
        if not wanted.classes:
            assert wanted.color is not None
            mask = sighting.color_mask(wanted.color)
            area = mask if sighting.visible is None else sighting.visible
            share = float(mask.sum() / (mask.size if sighting.visible is None else max(1, area.sum())))
            return _detection(min(1.0, share / _ENOUGH_COLOR), mask)
        if wanted.color is None:
            score = sighting.score_of(wanted.classes)
            if score < THRESHOLD:  # most are: a mask costs much more than a score
                return Detection(0.0, np.zeros(request.image.size, bool))
            return _detection(score, sighting.mask_of(wanted.classes))
        mask, score = np.zeros(request.image.size, bool), 0.0
        for thing in sighting.things(THRESHOLD):
            if thing.concept in wanted.classes and thing.color == wanted.color:
                mask, score = mask | thing.mask, max(score, thing.score)
        for name in wanted.classes:
            if name not in sighting.backgrounds:
                continue
            ground = sighting.mask(name)
            if ground.any() and sighting.color(ground) == wanted.color:
                mask, score = mask | ground, max(score, sighting.score_of([name]))
        return _detection(score, mask)


def _detection(score: float, mask: np.ndarray) -> Detection:
    from scipy import ndimage

    if score < THRESHOLD or not mask.any():
        return Detection(0.0, np.zeros(mask.shape, bool))
    pieces, _ = ndimage.label(mask)
    boxes = []
    for i, (rows, columns) in enumerate(ndimage.find_objects(pieces), 1):
        area = int((pieces[rows, columns] == i).sum())
        if area >= _MIN_AREA * mask.size:
            boxes.append((area, (columns.start, rows.start, columns.stop, rows.stop)))
    boxes.sort(key=lambda item: -item[0])
    return Detection(
        score,
        mask,
        np.array([box for _, box in boxes], np.float32).reshape(-1, 4),
        np.full(len(boxes), score, np.float32),
    )
