"""What a run says of its units as vectors of an image-text model, so that an image can be looked for in it.

The texts of a run are embedded once and kept in the run. Cosines of images with words and of words with words
lie in ranges of their own: what counts as alike is told from the cosines of all texts of the run.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from actors.embedded.photographs.classifier import independent_classifier
from actors.embedding.base import Embedder
from actors.embedding.factory import available, build_embedder
from actors.embedding.settings import BuiltinEmbedding, EmbeddingSettings
from actors.errors import MaiaError, UsageError
from actors.images import Image
from agents.records.run_files import MAX_BYTES, parse_arrays
from agents.records.store import Store

KEY = "search/embeddings.npz"
OUTSTANDING = 1.0
"""Standard deviations above the mean of all texts from which a cosine counts, of a model that has no
threshold of its own.
"""
_BATCH = 64
_MOST_UNPACKED = 2 * MAX_BYTES
"""Bytes of vectors in half precision, which hardly pack."""


def open_embedder(settings: EmbeddingSettings, model: str, drawn: bool) -> Embedder:
    """Return the embedder of a profile, loaded in this process; a stand-in never is the network `model`.

    `drawn`: whether the run's images are drawn scenes, which a stand-in sees with other eyes.

    Raises:
        UsageError: If it cannot be used here.
    """
    state, reason = available(settings)
    if state == "missing":
        raise UsageError(f"the profile's embedding cannot be used here: {reason}", "Search by words instead.")
    if isinstance(settings, BuiltinEmbedding) and settings.sees == "auto":
        settings = settings.model_copy(update={"sees": "scenes" if drawn else "photographs"})
    return build_embedder(settings, independent_classifier(model))


def image_similarities(embedder: Embedder, image: Image, texts: Sequence[str], store: Store) -> np.ndarray:
    """Return the cosine of an image with each text, float32 (T,); 0 where it is not above those of others,
    or the embedder does not know the text.
    """
    vectors, known = text_vectors(embedder, texts, store)
    cosines: np.ndarray = vectors @ embedder.images([image])[0]
    if not known.any():
        return np.zeros(len(texts), np.float32)
    least = embedder.facts.present_above
    if least is None:
        least = float(cosines[known].mean() + OUTSTANDING * cosines[known].std())
    return np.where(known & (cosines >= least), cosines, 0).astype(np.float32)


def text_vectors(embedder: Embedder, texts: Sequence[str], store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of texts, float32 (T, d), and which are known, bool (T,); unknown ones are zero.

    They are kept in the run for the next search.
    """
    digest = hashlib.blake2b(json.dumps([embedder.facts.name, *texts]).encode(), digest_size=16).hexdigest()
    if (kept := _kept(store, digest, (len(texts), embedder.facts.dimensions))) is not None:
        return kept
    vectors = np.zeros((len(texts), embedder.facts.dimensions), np.float32)
    known = np.zeros(len(texts), bool)
    for start in range(0, len(texts), _BATCH):
        part = slice(start, start + _BATCH)
        vectors[part], known[part] = _embedded(embedder, texts[part])
    target = io.BytesIO()
    # Half precision keeps cosines to three digits.
    said = np.frombuffer(digest.encode(), np.uint8)
    np.savez_compressed(target, digest=said, vectors=vectors.astype(np.float16), known=known)
    # A run that cannot be written to is searched all the same.
    with suppress(OSError, MaiaError):
        store.replace(KEY, target.getvalue())
    return vectors, known


def _embedded(embedder: Embedder, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings (n, d) and which texts are known: one that is not costs no other its embedding."""
    try:
        return embedder.texts(texts), np.ones(len(texts), bool)
    except UsageError:
        if len(texts) == 1:
            return np.zeros((1, embedder.facts.dimensions), np.float32), np.zeros(1, bool)
    half = len(texts) // 2
    parts = [_embedded(embedder, part) for part in (texts[:half], texts[half:])]
    return np.concatenate([vectors for vectors, _ in parts]), np.concatenate([known for _, known in parts])


def _kept(store: Store, digest: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        stored = parse_arrays(store.get(KEY) or b"", store.root / KEY, _MOST_UNPACKED)
        vectors, known = stored["vectors"].astype(np.float32), stored["known"].astype(bool)
        whole = stored["digest"].tobytes() == digest.encode() and vectors.shape == shape
    except (MaiaError, OSError, ValueError, KeyError, TypeError):
        return None
    return (vectors, known) if whole and known.shape == shape[:1] else None
