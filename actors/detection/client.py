"""Finds concepts for many callers through one pool: a list in, a list out, failures in their places."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from actors.backend import Priority
from actors.detection.base import Detection, DetectRequest
from actors.errors import MaiaError, UsageError
from actors.images import Image


class DetectionPool(Protocol):
    """The part of a replica pool that finding concepts needs."""

    async def submit(self, request: Any, *, agent: str, priority: Priority) -> Any:
        """Return the backend's result for the request, or raise its failure."""


class PoolDetector:
    """A detector that lives in a pool. Each image and concept is a request of its own."""

    def __init__(self, pool: DetectionPool) -> None:
        self._pool = pool

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
        return list(await asyncio.gather(*(self._one(request, agent, priority) for request in requests)))

    async def _one(self, request: DetectRequest, agent: str, priority: Priority) -> Detection | MaiaError:
        try:
            found: Detection = await self._pool.submit(request, agent=agent, priority=priority)
        except MaiaError as error:
            return error
        return found
