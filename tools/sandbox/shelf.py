"""The images that one sandbox has been given or has sent: what it may name, and where the pixels are."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from typing import IO

import numpy as np

from actors.errors import MaiaError, UsageError
from actors.images import Image
from tools.sandbox.base import ImageSource

_IN_MEMORY_BYTES = 32 << 20


class UnknownImageError(UsageError):
    """A program named an image that was never handed out to it."""


class ImageShelf:
    """Content ids of one sandbox -> images.

    Holding an id is the right to use the image, so an id that another sandbox knows is unknown here.
    The most recent images stay in memory, older ones lie in an unnamed file that the operating system
    removes with the process.
    """

    def __init__(self, limit_bytes: int, in_memory_bytes: int = _IN_MEMORY_BYTES) -> None:
        self._limit_bytes, self._in_memory_bytes = limit_bytes, in_memory_bytes
        self._sizes: dict[str, tuple[int, int]] = {}
        self._memory: OrderedDict[str, Image] = OrderedDict()
        self._held_bytes = 0
        self._total_bytes = 0
        self._file: IO[bytes] | None = None
        self._offsets: dict[str, int] = {}
        self._elsewhere: ImageSource = {}

    def add(self, image: Image) -> None:
        """Make `image` known.

        Raises:
            UsageError: If the shelf would hold more than its limit.
        """
        if image.id not in self._sizes:
            if self._total_bytes + image.pixels.nbytes > self._limit_bytes:
                raise UsageError(
                    f"this session has used images of {self._limit_bytes >> 20} MiB, which is the limit.",
                    "Make fewer or smaller images.",
                )
            self._total_bytes += image.pixels.nbytes
            self._sizes[image.id] = image.size
        if image.id not in self._memory:
            self._hold(image)

    def know(self, id: str, height: int, width: int) -> None:
        """Make an image known whose pixels are in the source given to `look_in`."""
        self._sizes.setdefault(id, (height, width))

    def look_in(self, images: ImageSource) -> None:
        """Find pixels that the shelf does not have in `images`."""
        self._elsewhere = images

    def __contains__(self, id: str) -> bool:
        return id in self._sizes

    def size_bytes(self, id: str) -> int:
        """Return the bytes of an image's pixels, 0 if it is not known."""
        height, width = self._sizes.get(id, (0, 0))
        return height * width * 3

    def get(self, id: str) -> Image:
        """Return a known image.

        Raises:
            UnknownImageError: If the id was never handed out here, or its pixels are gone.
        """
        if id not in self._sizes:
            raise UnknownImageError("there is no such image here")
        image = self._memory.get(id)
        if image is not None:
            self._memory.move_to_end(id)
            return image
        if id in self._offsets and self._file is not None:
            height, width = self._sizes[id]
            self._file.seek(self._offsets[id])
            pixels = np.frombuffer(self._file.read(height * width * 3), np.uint8).reshape(height, width, 3)
            image = Image(pixels, id)
        elif id in self._elsewhere:
            try:
                image = self._elsewhere[id]
            except MaiaError as error:  # damaged, in words that name files of the host
                raise UnknownImageError("the pixels of this image are gone") from error
        else:
            raise UnknownImageError("the pixels of this image are gone")
        self._hold(image)
        return image

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._memory.clear()
        self._sizes.clear()

    def _hold(self, image: Image) -> None:
        self._memory[image.id] = image
        self._held_bytes += image.pixels.nbytes
        while self._held_bytes > self._in_memory_bytes and len(self._memory) > 1:
            id, oldest = self._memory.popitem(last=False)
            self._held_bytes -= oldest.pixels.nbytes
            if id not in self._offsets and id not in self._elsewhere:
                self._spill(oldest)

    def _spill(self, image: Image) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="maia-images-")  # noqa: SIM115 - closed with the shelf
        self._offsets[image.id] = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(image.pixels).data)
