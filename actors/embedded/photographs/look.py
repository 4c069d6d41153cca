"""What a classifier sees in photographs: several views of each, and what their probabilities together say.

A view is the whole picture or a part of it; of an image that was darkened around a region, the picture around
that region. How sure a word is: the mean, over the three views in which it is surest, of the probability of
all classes that the word stands for. The limits below were found on photographs of known content
(docs/photographs.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.embedded.drawing.masked import restore, visible_region
from actors.embedded.photographs.classifier import Classifier
from actors.embedded.photographs.taxonomy import Taxonomy, TaxonomyNode, WordSense, imagenet
from actors.images import Image

YES = 0.25
"""From here on a single class is said of an image."""
NO = 0.1
"""Below this a class is denied; between the two limits it is undecided."""
_A_CLASS_MORE = 0.001
"""What each further class of a kind adds to both limits: a large kind gathers much from classes of which none
is likely.
"""
_MIN_COVERED = 0.02
"""Share of a kind's members that the classes must hold for it to be denied: they know 3 of WordNet's 8,528
persons.
"""
_PART = 0.6
"""Side of a part, as a share of the picture's."""
_BEST_VIEWS = 3
_MARGIN = 0.15
"""Of the region's larger side: what is left around a highlighted region, so that its surroundings help to
name it.
"""
_MIN_SIDE = 0.3
"""Of the picture's shorter side: smallest cut around a highlighted region."""


@dataclass(frozen=True, eq=False)
class PhotoSighting:
    """What is seen in one photograph: `views`, float32 (V, 1000), are the classes' probabilities in each
    view.
    """

    views: np.ndarray
    taxonomy: Taxonomy

    def sure(self, classes: frozenset[int]) -> float:
        """Return how surely any of these classes is in the image, in [0, 1]."""
        seen = np.sort(self.views[:, sorted(classes)].sum(1))
        return min(1.0, float(seen[-_BEST_VIEWS:].mean()))

    def says(self, classes: frozenset[int]) -> bool:
        """Return whether it is sure enough of these classes together to name them."""
        return self.sure(classes) >= YES + _A_CLASS_MORE * len(classes)

    def shows(self, meaning: WordSense) -> bool | None:
        """Return whether it shows what a word stands for; None where that is undecided."""
        if self.says(meaning.classes):
            return True
        surely_not = self.sure(meaning.classes) < NO + _A_CLASS_MORE * len(meaning.classes)
        return False if surely_not and meaning.covered >= _MIN_COVERED else None

    def seen(self, at_most: int = 3) -> list[tuple[TaxonomyNode, float]]:
        """Return the most particular things that can be said of the image, surest first, with how sure.

        Where no class is sure enough it is the smallest kind that is; nothing is said of what has been named
        already.
        """
        chosen: list[tuple[TaxonomyNode, float]] = []
        for node, sure in self.all_seen():
            if not any(node.classes & other.classes for other, _ in chosen):
                chosen.append((node, sure))
        return sorted(chosen, key=lambda each: -each[1])[:at_most]

    def all_seen(self) -> list[tuple[TaxonomyNode, float]]:
        """Return all that can be said of it with how sure that is: classes, surest first, then kinds, the
        smallest first.
        """
        shown = [(node, self.sure(node.classes)) for node in self.taxonomy.spoken if self.says(node.classes)]
        return sorted(shown, key=lambda each: (len(each[0].classes), -each[1]))


def look(
    classifier: Classifier, images: Sequence[Image], whole: bool = False, taxonomy: Taxonomy | None = None
) -> list[PhotoSighting]:
    """Return what is seen in each image, in order; of darkened ones only what is bright, unless `whole`."""
    taxonomy = taxonomy or imagenet()
    cuts = [views_of(image, whole) for image in images]
    rows = classifier.probabilities([cut for each in cuts for cut in each])
    ends = np.cumsum([len(each) for each in cuts])[:-1]
    return [PhotoSighting(part, taxonomy) for part in np.split(rows, ends)] if images else []


def views_of(image: Image, whole: bool = False) -> list[np.ndarray]:
    """Return the views of an image, uint8 (h, w, 3) each: the whole and five parts, or a highlighted region
    twice.
    """
    region = visible_region(image)
    if region is None:
        return _parts(image.pixels)
    picture = restore(image.pixels, region)
    return _parts(picture) if whole else [_cut(picture, region, _MARGIN), _cut(picture, region, 3 * _MARGIN)]


def _parts(pixels: np.ndarray) -> list[np.ndarray]:
    height, width = pixels.shape[:2]
    part = max(1, round(height * _PART)), max(1, round(width * _PART))
    down, across = height - part[0], width - part[1]
    corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    return [pixels, *(pixels[top : top + part[0], left : left + part[1]] for top, left in corners)]


def _cut(pixels: np.ndarray, region: np.ndarray, margin: float) -> np.ndarray:
    """Return the smallest part of the picture with a region and a margin, not thinner than `_MIN_SIDE`."""
    least = round(_MIN_SIDE * min(region.shape))
    bounds = [np.nonzero(region.any(axis))[0] for axis in (1, 0)]
    sides = [int(each[-1]) + 1 - int(each[0]) for each in bounds]
    around = round(margin * max(sides))
    spans = []
    for each, side, size in zip(bounds, sides, region.shape, strict=True):
        wanted = max(least, side + 2 * around)
        start = max(0, min(int(each[0]) - (wanted - side) // 2, size - wanted))
        spans.append(slice(start, start + wanted))
    return pixels[spans[0], spans[1]]
