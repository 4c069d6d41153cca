"""Made images whose attributes are known, an embedder that sees exactly these, and units made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.vision.readout.units import Readout
from experiments.labels.layer import EmbeddedImages, LabelSettings, LayerLabeler
from experiments.labels.record import UnitLabel
from experiments.labels.vocabulary import EmbeddedVocabulary


@dataclass(frozen=True)
class AttributeWorld:
    """`n` images; `shown` bool (n, attributes), each with the same chance, independently."""

    shown: np.ndarray
    known: int
    """Attributes, from the first, for which there are words."""

    @classmethod
    def made(cls, n: int, attributes: int, known: int, seed: int, chance: float = 0.1) -> AttributeWorld:
        return cls(np.random.default_rng(seed).random((n, attributes)) < chance, known)

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(f"w{number}" for number in range(self.known))

    def images(self, unnamed: int = 0, **settings: int) -> EmbeddedImages:
        """Return the images as an embedder sees them; the last `unnamed` known attributes have no word."""
        # One more axis is there for images without attributes.
        axes = np.c_[self.shown[:, : self.known], np.full(len(self.shown), 0.1)].astype(np.float32)
        vectors = axes / np.linalg.norm(axes, axis=1, keepdims=True)
        named = self.known - unnamed
        words = np.eye(named, self.known + 1, dtype=np.float32)
        vocabulary = EmbeddedVocabulary(self.words[:named], words, (), 0)
        return EmbeddedImages(vectors, vocabulary, 0.15, LabelSettings(**settings))

    def labels(self, values: np.ndarray, **settings: int) -> list[UnitLabel]:
        """Return the labels of units with activations (n, U)."""
        rows = np.arange(len(values))
        labeler = LayerLabeler(self.images(**settings), Readout("layer"), values.astype(np.float32), rows)
        return labeler.label()
