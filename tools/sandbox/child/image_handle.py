"""An image of the host inside the program: a PIL image whose pixels are fetched on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import PIL.Image

Fetch = Callable[[str], bytearray]
"""Returns the raw RGB pixels of an image by its content id."""


class ImageHandle(PIL.Image.Image):
    """An RGB image that the host knows by its content id."""

    format = "PNG"

    def __init__(self, id: str, height: int, width: int, fetch: Fetch) -> None:
        super().__init__()
        self._id, self._fetch = id, fetch
        self._mode, self._size = "RGB", (width, height)
        self._fetched = b""

    @property
    def id(self) -> str | None:
        """The content id, or None once the program has changed the pixels."""
        return self._id if self._im is None or self._digest() == self._fetched else None

    def _digest(self) -> bytes:
        about = f"{self.mode} {self.size} ".encode()
        return hashlib.blake2b(about + self.tobytes(), digest_size=16).digest()

    @property
    def im(self) -> Any:
        if self._im is None:
            self._im = PIL.Image.frombytes("RGB", self._size, bytes(self._fetch(self._id))).im
            self._fetched = self._digest()
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    def load(self) -> Any:
        self.im  # noqa: B018 - fetches the pixels
        return super().load()

    def __repr__(self) -> str:
        return f"<image {self._size[0]}x{self._size[1]}>"

    def __hash__(self) -> int:
        return hash(self._id)

    def __reduce__(self) -> Any:
        return PIL.Image.frombytes, (self.mode, self.size, self.tobytes())
