"""The interface of image-text models: images and words become vectors of one space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.errors import BackendError
from actors.images import Image


class ReadableImages(Protocol):
    """Images by index, each a pure function of it. Small: it is sent to the process that reads them."""

    def load(self, index: int) -> Image: ...


@dataclass(frozen=True, slots=True)
class EmbedImage:
    """Embed one image."""

    image: Image


@dataclass(frozen=True, slots=True)
class EmbedText:
    """Embed one word or phrase."""

    text: str

    @property
    def id(self) -> str:
        """32 hex digits of its content."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class EmbedStep:
    """Embed images of a data set where they are read, so that no pixels travel."""

    images: ReadableImages
    dataset: str
    """The data set's fingerprint."""
    indices: tuple[int, ...]


EmbedRequest = EmbedImage | EmbedText | EmbedStep


@dataclass(frozen=True, slots=True)
class EmbeddedStep:
    """The images of an `EmbedStep` that could be read, in order, and why the others could not.

    `ids` are content ids; `vectors` float32 (n, d), unit-norm.
    """

    indices: tuple[int, ...]
    ids: tuple[str, ...]
    vectors: np.ndarray
    skipped: dict[int, str]


@dataclass(frozen=True, slots=True)
class EmbedderFacts:
    """What is to be known of an embedder.

    `name` changes with its weights and settings; `dimensions` of its vectors. `present_above`: the cosine
    from which an image counts as showing a word, None where cosines are not calibrated.
    """

    name: str
    dimensions: int
    present_above: float | None
    stand_in: str = ""
    """Of a stand-in, its limits in one sentence."""


class Embedder(Protocol):
    """Embeds images and words. Blocking; called from one worker thread."""

    facts: EmbedderFacts
    max_batch: int

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """Return float32 (n, d), unit-norm."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (n, d), unit-norm.

        Raises:
            UsageError: If it cannot embed one of them, such as a word that a stand-in does not know.
        """


def unit_norm(vectors: np.ndarray, name: str) -> np.ndarray:
    """Return vectors (n, d) divided by their lengths, float32.

    Raises:
        BackendError: If one is not finite, or has no length.
    """
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise BackendError(
            f"{name} gives embeddings that are zero or not finite.",
            "Some models overflow in float16: set `dtype` to bfloat16 or float32.",
        )
    return np.asarray(exact / lengths, np.float32)
