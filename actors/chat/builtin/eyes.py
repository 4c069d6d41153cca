"""What the built-in models see in an image: things with colour and place, and the background.

The concept net is behind a `Protocol`, so that rules and wording are tested without weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from actors.chat.builtin.words import Term, Words
from actors.images import Image

if TYPE_CHECKING:
    from actors.scenes.concept_net import ConceptNet, Sighting

_LEAST_SCORE = 0.45
"""Confidence from which a thing counts as seen."""
_LEAST_BACKGROUND = 0.12
"""Share of the visible part from which a background is worth a word."""
_DARKENED = 70
"""Brightest value of a picture that was darkened to a quarter, with room for JPEG."""
_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class SeenThing:
    """One object: `x`, `y` are its centre and `share` its area, as fractions of the image."""

    concept: str
    colour: str
    x: float = 0.5
    y: float = 0.5
    share: float = 0.1
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is visible in one image, things by falling score. `colour` is that of most of the visible part."""

    things: tuple[SeenThing, ...] = ()
    background: str = ""
    colour: str = ""

    def terms(self, words: Words) -> frozenset[Term]:
        found = {Term("colour", thing.colour) for thing in self.things if thing.colour in words.colours}
        for thing in self.things:
            if thing.concept in words.concepts:
                found |= words.closure(Term("concept", thing.concept))
        if self.background in words.backgrounds:
            found |= words.closure(Term("background", self.background))
        return frozenset(found | {Term("tone", term.name) for term in found if term.kind == "colour"})


class Eyes(Protocol):
    """Sees what is in pictures. Blocking."""

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        """Return what each image shows, in order; darkened parts count only with `whole`."""


class NetEyes:
    """Eyes that are the concept net: an embedded stand-in. Loaded at the first look; recent looks are kept.

    Things of the concepts `lacking` are not recognised.
    """

    def __init__(self, net: ConceptNet | None = None, lacking: frozenset[str] = frozenset()) -> None:
        self._net, self._lacking = net, lacking
        self._kept: OrderedDict[tuple[str, bool], Seen] = OrderedDict()

    def look(self, images: Sequence[Image], whole: bool = False) -> list[Seen]:
        unknown = {image.id: image for image in images if (image.id, whole) not in self._kept}
        if unknown:
            shown = [_brightened(image) for image in unknown.values()] if whole else list(unknown.values())
            for image_id, image, sighting in zip(unknown, shown, self._loaded().look(shown), strict=True):
                # Darkened all over: nothing in it is highlighted.
                blank = int(image.pixels.max()) <= _DARKENED
                self._kept[image_id, whole] = Seen() if blank else _seen(sighting, self._lacking)
        found = [self._kept[image.id, whole] for image in images]
        for image in images:
            self._kept.move_to_end((image.id, whole))
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
        return found

    def _loaded(self) -> ConceptNet:
        if self._net is None:
            from actors.scenes.concept_net import shared_net

            self._net = shared_net()
        return self._net


def _brightened(image: Image) -> Image:
    """Return the whole picture of one that was darkened around a region."""
    from actors.scenes.masked import restore, visible_region

    region = visible_region(image)
    return image if region is None else Image.from_pixels(restore(image.pixels, region))


def _seen(sighting: Sighting, lacking: frozenset[str] = frozenset()) -> Seen:
    things = []
    for thing in sighting.things(_LEAST_SCORE):
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
        sighting.background if share >= _LEAST_BACKGROUND else "",
        sighting.color(visible),
    )
