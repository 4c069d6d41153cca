"""An embedder as a `Backend`: each image and each text is embedded once, and kept by its content."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actors.embedding.base import (
    EmbeddedStep,
    Embedder,
    EmbedderFacts,
    EmbedImage,
    EmbedRequest,
    EmbedStep,
    EmbedText,
    ReadableImages,
)
from actors.errors import BackendError, MaiaError
from actors.images import Image
from actors.serving.backend import Backend, BackendFacts
from actors.serving.bank import StimulusBank
from actors.serving.blocking import DeviceThread, run_in_halves

_LOADERS = 2


class EmbeddingBackend(Backend[EmbedRequest, "np.ndarray | EmbeddedStep"]):
    """One embedder and the embeddings it has made. Its calls run in one worker thread."""

    slots = 2
    """The images of one step are read while those of another are embedded."""
    controls = frozenset({"facts"})

    def __init__(self, embedder: Embedder, *, memory_bytes: int = 0, folder: Path | None = None) -> None:
        """`folder`: where embeddings are kept between runs, shared with other processes."""
        self._embedder = embedder
        self.name, self.max_batch = embedder.facts.name, embedder.max_batch
        digest = hashlib.blake2b(self.name.encode(), digest_size=16).hexdigest()
        self._bank = StimulusBank(digest, memory_bytes, folder)
        self._thread = DeviceThread("embedder")
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="embedder-load")

    def facts(self) -> EmbedderFacts:
        return self._embedder.facts

    def key(self, request: EmbedRequest) -> Hashable:
        if isinstance(request, EmbedStep):
            return request.dataset, request.indices
        return _place(request)

    def bucket(self, request: EmbedRequest) -> Hashable:
        # A step is a whole batch already.
        return self.key(request) if isinstance(request, EmbedStep) else type(request).__name__

    def lookup(self, request: EmbedRequest) -> np.ndarray | None:
        return None if isinstance(request, EmbedStep) else self._bank.get(*_place(request))

    async def run(self, batch: Sequence[EmbedRequest]) -> list[np.ndarray | EmbeddedStep | MaiaError]:
        """Return one embedding, float32 (d,), or typed failure per request, in order."""
        results: list[np.ndarray | EmbeddedStep | MaiaError] = []
        steps = [request for request in batch if isinstance(request, EmbedStep)]
        for step in steps:
            results.append(await self._step(step))
        single = [request for request in batch if not isinstance(request, EmbedStep)]
        if single:
            results += await self._thread.run(self._embed, single)
        return results

    async def _step(self, step: EmbedStep) -> EmbeddedStep:
        loop = asyncio.get_running_loop()
        loading = [loop.run_in_executor(self._loaders, _load, step.images, index) for index in step.indices]
        images, skipped = {}, {}
        for index, loaded in zip(step.indices, await asyncio.gather(*loading), strict=True):
            if isinstance(loaded, str):
                skipped[index] = loaded
            else:
                images[index] = loaded
        requests = [EmbedImage(image) for image in images.values()]
        embedded = await self._thread.run(self._embed, requests) if requests else []
        rows: dict[int, np.ndarray] = {}
        for index, outcome in zip(images, embedded, strict=True):
            if isinstance(outcome, MaiaError):
                skipped[index] = outcome.message
            else:
                rows[index] = outcome
        vectors = np.stack(list(rows.values())) if rows else np.empty((0, self.facts().dimensions), "f4")
        return EmbeddedStep(tuple(rows), tuple(images[index].id for index in rows), vectors, skipped)

    def _embed(self, requests: Sequence[EmbedImage | EmbedText]) -> list[np.ndarray | MaiaError]:
        """Return the embeddings of requests, known or new. In the worker thread."""
        outcomes: dict[tuple[str, str], np.ndarray | MaiaError] = {}
        new: dict[tuple[str, str], EmbedImage | EmbedText] = {}
        for request in requests:
            place = _place(request)
            known = self._bank.get(*place)
            if known is None:
                new[place] = request
            else:
                outcomes[place] = known
        wanted = list(new.values())
        for start in range(0, len(wanted), self.max_batch):
            batch = wanted[start : start + self.max_batch]
            for request, outcome in zip(batch, run_in_halves(batch, self._new, self._failure), strict=True):
                outcomes[_place(request)] = outcome
        if self._bank.wants_flush:
            self._bank.flush()
        return [outcomes[_place(request)] for request in requests]

    def _new(self, batch: Sequence[EmbedImage | EmbedText]) -> list[np.ndarray | MaiaError]:
        """Embed requests of one kind, and keep what comes out."""
        images = [request.image for request in batch if isinstance(request, EmbedImage)]
        texts = [request.text for request in batch if isinstance(request, EmbedText)]
        rows = self._embedder.images(images) if images else self._embedder.texts(texts)
        places = [_place(request) for request in batch]
        return list(self._bank.put(places[0][0], [content for _, content in places], rows))

    def _failure(self, request: EmbedImage | EmbedText, error: Exception) -> BackendError:
        what = f"image {request.image.id[:8]}" if isinstance(request, EmbedImage) else repr(request.text)
        return BackendError(f"{self.name} fails on {what}: {type(error).__name__}: {str(error)[:300]}")

    def describe(self) -> BackendFacts:
        facts = self.facts()
        return {"name": self.name, "dimensions": facts.dimensions, "stand_in": facts.stand_in}

    async def close(self) -> None:
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._thread.close()
        await asyncio.to_thread(self._bank.flush)


def _place(request: EmbedImage | EmbedText) -> tuple[str, str]:
    """Return where an embedding is kept: its kind and content id."""
    return ("image", request.image.id) if isinstance(request, EmbedImage) else ("text", request.id)


def _load(images: ReadableImages, index: int) -> Image | str:
    """Return an image, or why it cannot be read."""
    try:
        return images.load(index)
    except Exception as error:  # decoders and people's own data sets raise anything
        return f"{type(error).__name__}: {error}"[:300]
