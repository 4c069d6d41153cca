"""Embeds for many callers through one pool, and keeps the embeddings of a data set on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.embedding.base import (
    EmbeddedStep,
    EmbedderFacts,
    EmbedImage,
    EmbedStep,
    EmbedText,
    ReadableImages,
)
from actors.errors import MaiaError, UsageError
from actors.files import replacing
from actors.grouping import task_group
from actors.images import Image
from actors.serving.backend import Priority
from actors.serving.pool import Pool

_log = logging.getLogger(__name__)
_STEP = 32
"""Images of one step."""
_STEPS_PER_REPLICA = 3
_SHARD = 256
"""Images of one file on disk."""


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Embeddings of a data set's images: `vectors` float32 (n, d), unit-norm, of the images `indices`, int64
    (n,) ascending, with content `ids`; `skipped` images by index, with the reason.
    """

    indices: np.ndarray
    ids: tuple[str, ...]
    vectors: np.ndarray
    skipped: dict[int, str]

    def of(self, image_id: str) -> np.ndarray | None:
        """Return the embedding of the image with this content id, float32 (d,), None if there is none."""
        return self.vectors[self.ids.index(image_id)] if image_id in self.ids else None

    def save(self, path: Path) -> None:
        facts = {"ids": self.ids, "skipped": {str(index): why for index, why in self.skipped.items()}}
        with replacing(path) as file:
            np.savez(
                file,
                facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                indices=self.indices,
                vectors=self.vectors,
            )

    @classmethod
    def load(cls, path: Path) -> EmbeddingTable | None:
        """Return a table as it was saved, None if there is none that can be read."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                facts = json.loads(stored["facts"].tobytes())
                skipped = {int(index): why for index, why in facts["skipped"].items()}
                return cls(stored["indices"], tuple(facts["ids"]), stored["vectors"], skipped)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            # A damaged cache costs a pass, not the run.
            _log.warning("the embeddings in %s are damaged and are computed again: %s", path, error)
            return None

    @classmethod
    def joined(cls, parts: Sequence[EmbeddingTable]) -> EmbeddingTable:
        return cls(
            np.concatenate([part.indices for part in parts]),
            tuple(each for part in parts for each in part.ids),
            np.concatenate([part.vectors for part in parts]),
            {index: why for part in parts for index, why in part.skipped.items()},
        )


class PoolEmbedder:
    """An embedder that lives in a pool."""

    def __init__(self, pool: Pool[Any, Any], facts: EmbedderFacts) -> None:
        """Use `connect`."""
        self._pool, self.facts = pool, facts

    @classmethod
    async def connect(cls, pool: Pool[Any, Any]) -> PoolEmbedder:
        """Return the embedder behind `pool`, once it is loaded.

        Raises:
            UsageError: If it cannot be loaded.
        """
        return cls(pool, await pool.call("facts"))

    async def images(
        self, images: Sequence[Image], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> np.ndarray:
        """Return float32 (n, d), unit-norm; raises the first failure."""
        requests = [EmbedImage(image) for image in images]
        return self._stacked(await self._pool.map(requests, agent=agent, priority=priority))

    async def texts(
        self, texts: Sequence[str], *, agent: str = "", priority: Priority = Priority.INTERACTIVE
    ) -> list[np.ndarray | MaiaError]:
        """Return each text's embedding, float32 (d,) unit-norm, or a typed failure, in order."""
        requests = [EmbedText(text) for text in texts]
        return await self._pool.outcomes(requests, agent=agent, priority=priority)

    def _stacked(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(rows) if rows else np.empty((0, self.facts.dimensions), np.float32)

    async def survey(
        self,
        images: ReadableImages,
        fingerprint: str,
        indices: np.ndarray,
        cache: Path,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> EmbeddingTable:
        """Return the embeddings of the images `indices`, int64 (n,), of the data set with this fingerprint.

        They are kept below `cache`, and an interrupted survey is resumed there.

        Raises:
            UsageError: If none of the images can be read.
        """
        folder = cache / _digest(self.facts.name) / _digest(fingerprint)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        parts = []
        for start in range(0, len(indices), _SHARD):
            wanted = indices[start : start + _SHARD]
            path = folder / f"{_digest(wanted.tobytes())}.npz"
            part = await asyncio.to_thread(EmbeddingTable.load, path)
            if part is None:
                part = await self._shard(images, fingerprint, wanted)
                await asyncio.to_thread(part.save, path)
            parts.append(part)
            progress(start + len(wanted), len(indices))
        table = EmbeddingTable.joined(parts)
        if not len(table.ids):
            first = next(iter(table.skipped.values()), "there is none")
            raise UsageError(f"no image could be embedded. The first: {first}.", "Check the images.")
        return table

    async def _shard(self, images: ReadableImages, fingerprint: str, wanted: np.ndarray) -> EmbeddingTable:
        window = asyncio.Semaphore(_STEPS_PER_REPLICA * max(1, self._pool.statistics().replicas))
        steps: dict[int, EmbeddedStep] = {}

        async def step(start: int) -> None:
            chosen = tuple(wanted[start : start + _STEP].tolist())
            async with window:
                request = EmbedStep(images, fingerprint, chosen)
                steps[start] = await self._pool.submit(request, agent="survey", priority=Priority.SWEEP)

        async with task_group() as group:
            for start in range(0, len(wanted), _STEP):
                group.create_task(step(start))
        ordered = [steps[start] for start in sorted(steps)]
        return EmbeddingTable(
            np.array([index for each in ordered for index in each.indices], np.int64),
            tuple(id for each in ordered for id in each.ids),
            np.concatenate([each.vectors for each in ordered]),
            {index: why for each in ordered for index, why in each.skipped.items()},
        )


def _digest(name: str | bytes) -> str:
    data = name if isinstance(name, bytes) else name.encode()
    return hashlib.blake2b(data, digest_size=8).hexdigest()
