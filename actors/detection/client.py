"""Finds concepts for many callers through one pool: a list in, a list out, failures in their places."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from actors.detection.base import Detection, DetectRequest, Images
from actors.errors import MaiaError, UsageError
from actors.grouping import task_group
from actors.images import Image
from actors.serving.backend import Priority
from actors.serving.pool import Pool

_STEP = 32
"""Images of one call of a survey: other callers get in between."""
_STEPS_IN_FLIGHT = 4


class PoolDetector:
    """A detector that lives in a pool. Each image and concept is a request of its own."""

    def __init__(self, pool: Pool[DetectRequest, Detection]) -> None:
        self._pool = pool

    async def name(self) -> str:
        """Return which detector it is, with its weights: part of every key of what it found."""
        return str((await self._pool.describe()).backend["name"])

    async def survey(
        self,
        images: Images,
        count: int,
        concepts: Sequence[str],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[list[str], np.ndarray]:
        """Return the ids of the first `count` images and the score of every concept, float32 (count,
        concepts).

        One pass over the images for all concepts; no pixels travel. Unreadable images have the id "" and NaN.

        Raises:
            MaiaError: If the detector cannot look for a concept.
        """
        window = asyncio.Semaphore(_STEPS_IN_FLIGHT)
        ids: list[str] = [""] * count
        scores = np.full((count, len(concepts)), np.nan, np.float32)
        done = 0

        async def step(start: int) -> None:
            nonlocal done
            stop = min(start + _STEP, count)
            async with window:
                ids[start:stop], scores[start:stop] = await self._pool.call(
                    "survey", images, start, stop, list(concepts)
                )
            done += stop - start
            progress(done, count)

        async with task_group() as group:
            for start in range(0, count, _STEP):
                group.create_task(step(start))
        return ids, scores

    async def detect(
        self,
        images: Sequence[Image],
        concepts: Sequence[str],
        *,
        agent: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> list[Detection | MaiaError]:
        """Return what was found of each concept in the image at its place, or a typed failure, in order.

        Raises:
            UsageError: If the lists differ in length.
        """
        if len(images) != len(concepts):
            raise UsageError(
                f"lists must have the same length, got {len(images)} images and {len(concepts)} concepts."
            )
        requests = [DetectRequest(*pair) for pair in zip(images, concepts, strict=True)]
        return await self._pool.outcomes(requests, agent=agent, priority=priority)
