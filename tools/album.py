"""The images that an agent's programs may name, with how each came about; the oldest are kept on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from actors.images import Image, Provenance
from tools.sandbox.base import ImageSource

_HELD_BYTES = 64 << 20


class ImageKeeper(ImageSource, Protocol):
    """Storage of images on disk."""

    def put(self, images: Iterable[Image]) -> None: ...


class Album:
    """The images one agent has met, with how each came about.

    Pixels are held in memory only until `keeper` has them: a program may measure many gigabytes of them.
    """

    def __init__(
        self, keeper: ImageKeeper | None = None, provenance: Mapping[str, Provenance] | None = None
    ) -> None:
        self.provenance = dict(provenance or {})
        self.held: dict[str, Image] = {}
        """Images that may not be on disk yet."""
        self._keeper = keeper
        self._held_bytes = 0
        self._written: dict[str, str] = {}

    def record(self) -> dict[str, str]:
        """Return every image's provenance as JSON; each is encoded once, however many rounds record it."""
        for key, value in self.provenance.items():
            if key not in self._written:
                self._written[key] = value.to_json()
        return dict(self._written)

    def add(self, image: Image, provenance: Provenance) -> None:
        self.provenance.setdefault(image.id, provenance)
        self.hold(image)

    def hold(self, image: Image) -> None:
        if image.id not in self.held:
            self.held[image.id] = image
            self._held_bytes += image.pixels.nbytes

    def release(self) -> None:
        """Let go of pixels that are on disk now."""
        if self._keeper is not None:
            self.held.clear()
            self._held_bytes = 0

    async def spill(self) -> None:
        """Write images to disk if they take too much memory."""
        if self._keeper is not None and self._held_bytes > _HELD_BYTES:
            await asyncio.to_thread(self._keeper.put, list(self.held.values()))
            self.release()

    def first(self, image_id: str) -> str:
        """Return the source of the image that an image was edited from; "" where that is unknown."""
        seen: set[str] = set()
        while image_id not in seen and (origin := self.provenance.get(image_id)) is not None:
            if origin.source not in ("edited", "masked"):
                return origin.source
            seen.add(image_id)
            image_id = origin.parent
        return ""

    def find(self, image_id: str) -> Image | None:
        """Return the image of that id, None where it is not known."""
        if image_id in self.held:
            return self.held[image_id]
        if self._keeper is not None and image_id in self._keeper:
            return self._keeper[image_id]
        return None

    def under_mask(self, image: Image) -> Image:
        """Return the image under a mask: an edit of a darkened image would test the darkening."""
        provenance = self.provenance.get(image.id)
        if provenance is None or provenance.source != "masked":
            return image
        return self.find(provenance.parent) or image
