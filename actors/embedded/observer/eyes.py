"""What the built-in models see in an image: things with color and place, and the background.

Drawn scenes are for the concept net, photographs for an ImageNet classifier; which an image is, is decided by
the concept net's doubt (`is_photograph`). Both are behind a `Protocol`, so that rules and wording are tested
without weights.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from actors.embedded.language.words import Term, Words
from actors.embedded.photographs.classifier import Classifier
from actors.embedded.photographs.look import PhotoSighting, look
from actors.images import Image
from actors.serving.lru import LruCache

if TYPE_CHECKING:
    from actors.embedded.concept_net.concept_net import ConceptNet, Sighting

_MIN_SCORE = 0.45
"""Confidence from which a thing counts as seen."""
_MIN_BACKGROUND = 0.12
"""Share of the visible part from which a background is worth a word."""
_DARKENED = 70
"""Brightest value of a picture that was darkened to a quarter, with room for JPEG."""
_REMEMBERED = 512
"""Images of which it is kept what was seen."""
_PHOTOGRAPHED_FROM = 0.85
"""Doubt of the concept net, less `_A_SATURATION_LESS` for each level of saturation, from which an image is a
photograph.
"""
_A_SATURATION_LESS = 0.005
"""Drawn scenes are colorful, so that a colorful image must be stranger to count as none
(docs/photographs.md).
"""


@dataclass(frozen=True, slots=True)
class SeenThing:
    """One object: `x`, `y` are its center and `share` its area, as fractions of the image."""

    concept: str
    color: str
    x: float = 0.5
    y: float = 0.5
    share: float = 0.1
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is visible in one image, things by falling score. `color` is that of most of the visible part.

    Of a photograph, `photograph` is what is seen in it, and nothing else is known.
    """

    things: tuple[SeenThing, ...] = ()
    background: str = ""
    color: str = ""
    photograph: PhotoSighting | None = None

    def terms(self, words: Words) -> frozenset[Term]:
        """Return what is seen in the words for drawn scenes."""
        shown = {Term("color", thing.color) for thing in self.things if thing.color in words.colors}
        for thing in self.things:
            if thing.concept in words.concepts:
                shown |= words.closure(Term("concept", thing.concept))
        if self.background in words.backgrounds:
            shown |= words.closure(Term("background", self.background))
        return frozenset(shown | {Term("tone", term.name) for term in shown if term.kind == "color"})


class Eyes(Protocol):
    """Sees what is in pictures. Blocking."""

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        """Return what each image shows, in order; darkened parts count only with `whole`."""


class NetEyes:
    """Eyes that are two networks, loaded when they are needed. Recent looks are kept.

    The concept net, an embedded stand-in, sees every image; those that are photographs go to the
    `classifier`. Without one all images are taken for drawn. Things of the concepts `lacking` are not
    recognized in drawn ones.
    """

    def __init__(
        self,
        net: ConceptNet | None = None,
        classifier: Classifier | None = None,
        lacking: frozenset[str] = frozenset(),
    ) -> None:
        self._net, self._classifier, self._lacking = net, classifier, lacking
        self._kept: LruCache[Seen] = LruCache(_REMEMBERED)
        self._loading = threading.Lock()

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        kept = {image.id: self._kept.get((image.id, whole)) for image in images}
        seen = {image_id: sight for image_id, sight in kept.items() if sight is not None}
        unknown = {image.id: image for image in images if image.id not in seen}
        for image_id, sight in zip(unknown, self._look(list(unknown.values()), whole), strict=True):
            seen[image_id] = sight
            self._kept.put((image_id, whole), sight, 1)
        return [seen[image.id] for image in images]

    def _look(self, images: Sequence[Image], whole: bool) -> list[Seen]:
        if not images:
            return []
        shown = [_brightened(image) for image in images] if whole else images
        sightings = self._loaded().look(shown)
        # Darkened all over: nothing in it is highlighted.
        blank = [int(image.pixels.max()) <= _DARKENED for image in images]
        seen = [
            Seen() if dark else _seen(sighting, self._lacking)
            for sighting, dark in zip(sightings, blank, strict=True)
        ]
        if self._classifier is None:
            return seen
        places = [at for at, each in enumerate(sightings) if not blank[at] and is_photograph(each)]
        photographed = look(self._classifier, [images[place] for place in places], whole)
        for place, photograph in zip(places, photographed, strict=True):
            seen[place] = Seen(photograph=photograph)
        return seen

    def prepare(self) -> None:
        """Load the concept net, which every look needs."""
        self._loaded()

    def _loaded(self) -> ConceptNet:
        with self._loading:
            if self._net is None:
                from actors.embedded.concept_net.concept_net import shared_net

                self._net = shared_net()
            return self._net


def is_photograph(sighting: Sighting) -> bool:
    """Return whether an image is a photograph rather than a drawn scene, by what the concept net made
    of it.
    """
    return sighting.doubt - _A_SATURATION_LESS * sighting.saturation >= _PHOTOGRAPHED_FROM


def _brightened(image: Image) -> Image:
    """Return the whole picture of one that was darkened around a region."""
    from actors.embedded.drawing.masked import restore, visible_region

    region = visible_region(image)
    return image if region is None else Image.from_pixels(restore(image.pixels, region))


def _seen(sighting: Sighting, lacking: frozenset[str] = frozenset()) -> Seen:
    things = []
    for thing in sighting.things(_MIN_SCORE):
        if thing.concept in lacking:
            continue
        height, width = thing.mask.shape
        x0, y0, x1, y1 = thing.box
        things.append(
            SeenThing(
                thing.concept,
                thing.color,
                (x0 + x1) / 2 / width,
                (y0 + y1) / 2 / height,
                float(thing.mask.mean()),
                thing.score,
            )
        )
    place = sighting.mask(sighting.background)
    visible = sighting.visible if sighting.visible is not None else np.ones_like(place)
    share = float(place.sum()) / max(1.0, float(visible.sum()))
    return Seen(
        tuple(things),
        sighting.background if share >= _MIN_BACKGROUND else "",
        sighting.color(visible),
    )
