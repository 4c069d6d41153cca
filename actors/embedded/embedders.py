"""The embedded embedders: classifiers whose words are the axes of a space. Stand-ins, and they say so.

An image's vector has one number for each thing that the classifier knows: how surely it is there. A word's
vector is the axis of what it stands for. A word that stands for nothing is a typed failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from actors.embedded.drawing.backgrounds import BACKGROUNDS
from actors.embedded.drawing.phrases import understand
from actors.embedded.drawing.vocabulary import concepts, vocabulary
from actors.embedded.photographs.classifier import Classifier, LiteClassifier
from actors.embedded.photographs.taxonomy import Taxonomy, imagenet
from actors.embedding.base import EmbedderFacts, unit_norm
from actors.errors import UsageError
from actors.images import Image
from actors.packaged import PackagedNetwork

if TYPE_CHECKING:
    from actors.embedded.concept_net.concept_net import ConceptNet, Sighting

_LEAST = 0.05
"""What is less sure than this counts as absent: many small doubts would shorten what is surely there."""


class UnknownWordError(UsageError):
    """A stand-in has no such word: nothing can be said about its presence."""


class _AxesEmbedder:
    """Words as axes: each stands for some of a classifier's classes."""

    facts: EmbedderFacts
    max_batch: int
    _axes: Mapping[frozenset[str], int]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """As in `Embedder`; raises UnknownWordError."""
        rows = np.zeros((len(texts), self.facts.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            meant = self._meant(text)
            if meant in self._axes:
                row[self._axes[meant]] = 1
            else:
                row[[self._axes[frozenset([name])] for name in meant]] = 1
        return unit_norm(rows, self.facts.name)

    def _meant(self, text: str) -> frozenset[str]:
        """Return the classes that a text stands for, of which each has an axis of its own."""
        raise NotImplementedError

    def _vectors(self, sure: np.ndarray) -> np.ndarray:
        """Return unit-norm vectors from how sure each axis is, (n, d) in [0, 1]."""
        clear = np.where(sure < _LEAST, 0, sure)
        clear[~clear.any(1)] = sure[~clear.any(1)]
        return unit_norm(clear, self.facts.name)


class ScenesEmbedder(_AxesEmbedder):
    """The concept net's concepts, their categories and its backgrounds, of drawn scenes."""

    def __init__(self, net: ConceptNet | None = None) -> None:
        from actors.embedded.concept_net.concept_net import BATCH, ConceptNet, class_names

        self._net = net or ConceptNet.load()
        self._names = tuple(class_names())
        self.max_batch = BATCH
        self._axes = {classes: place for place, classes in enumerate(_scene_axes())}
        self.facts = EmbedderFacts(
            f"scenes: {self._net.name}",
            len(self._axes),
            0.2,
            "It knows the things and places of drawn scenes, no colors, and sees nothing else.",
        )

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """As in `Embedder`."""
        return self._vectors(np.stack([self._sure(each) for each in self._net.look(images)]))

    def _sure(self, sighting: Sighting) -> np.ndarray:
        return np.array([*sighting.scores.values(), *sighting.scores_of(self._groups)])

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        """Return the places, among the net's classes, of those of each axis behind the single things'."""
        place = {name: at for at, name in enumerate(self._names)}
        return [
            np.array([place[name] for name in classes]) for classes in list(self._axes)[len(concepts()) :]
        ]

    def _meant(self, text: str) -> frozenset[str]:
        target = understand(text)
        if target.color is not None or not target.classes:
            raise UnknownWordError(f"the embedded embedder knows no colors, as in {text!r}.")
        return frozenset(target.classes)


def _scene_axes() -> list[frozenset[str]]:
    """Return what each axis stands for: the net's classes in their order, then kinds."""
    single = [frozenset([name]) for name in (*(concept.name for concept in concepts()), *BACKGROUNDS)]
    kinds = dict.fromkeys(kind for concept in concepts() for kind in concept.categories)
    members = (frozenset(each.name for each in vocabulary().members(kind)) for kind in kinds)
    return list(dict.fromkeys([*single, *members]))


class PhotographsEmbedder(_AxesEmbedder):
    """The classes of ImageNet and the kinds above them, of photographs."""

    max_batch = 24

    def __init__(
        self,
        packaged: PackagedNetwork,
        classifier: Classifier | None = None,
        taxonomy: Taxonomy | None = None,
    ) -> None:
        self._classifier = classifier or LiteClassifier(packaged)
        self._taxonomy = taxonomy or imagenet()
        sets = [frozenset([str(place)]) for place in range(1000)]
        sets += [frozenset(map(str, node.classes)) for node in self._taxonomy.spoken]
        self._axes = {classes: place for place, classes in enumerate(dict.fromkeys(sets))}
        self.facts = EmbedderFacts(
            f"photographs: {self._classifier.name}",
            len(self._axes),
            0.15,
            "It knows ImageNet's thousand classes and their kinds: no colors, textures or parts.",
        )

    @cached_property
    def _members(self) -> np.ndarray:
        """Return float32 (1000, d): which classes belong to an axis."""
        table = np.zeros((1000, len(self._axes)), np.float32)
        for classes, axis in self._axes.items():
            table[[int(each) for each in classes], axis] = 1
        return table

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """As in `Embedder`."""
        probabilities = self._classifier.probabilities([image.pixels for image in images])
        return self._vectors(np.sqrt(np.clip(probabilities @ self._members, 0, 1)))

    def _meant(self, text: str) -> frozenset[str]:
        meaning = self._taxonomy.meaning(text)
        if meaning is None:
            raise UnknownWordError(
                f"the embedded embedder of photographs knows no {text!r}.",
                "It knows the classes of ImageNet and their kinds.",
            )
        return frozenset(map(str, meaning.classes))
