"""Reading what an untrusted process wrote.

Everything is bounded before it is allocated: the header says how long the two parts are, the structure
is at most 1 MiB, and pixels are never parsed. msgpack's extension types, which could stand for objects,
are refused; there is no pickle anywhere.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import msgpack
import numpy as np

from actors.images import Image
from tools.sandbox.child.wire import (
    HEADER,
    IMAGE,
    MAX_BLOB_BYTES,
    MAX_DEPTH,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STRUCTURE_BYTES,
)
from tools.sandbox.shelf import ImageShelf, UnknownImageError

_MAX_ITEMS = 100_000


class ProtocolError(Exception):
    """The other side broke the rules of the conversation; it is ended, not answered."""


class ClosedError(Exception):
    """The other side is gone."""


def parse_header(data: bytes | bytearray) -> tuple[int, int]:
    """Return the lengths of structure and blob.

    Raises:
        ProtocolError: If either is more than a frame may have.
    """
    structure_bytes, blob_bytes = HEADER.unpack(data)
    if structure_bytes > MAX_STRUCTURE_BYTES or blob_bytes > MAX_BLOB_BYTES:
        raise ProtocolError(f"a frame of {structure_bytes} + {blob_bytes} bytes")
    return structure_bytes, blob_bytes


def parse_structure(data: bytes | bytearray) -> dict[str, Any]:
    """Return the message of a frame, a dict with an "op".

    Raises:
        ProtocolError: If the bytes are anything else.
    """
    try:
        message = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_STRUCTURE_BYTES,
            max_bin_len=0,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises a dozen types on bad data
        raise ProtocolError(f"an unreadable frame ({type(error).__name__})") from None
    if type(message) is not dict or type(message.get("op")) is not str:
        raise ProtocolError("a frame without an op")
    return message


def parse_pixels(height: Any, width: Any, blob: bytearray) -> Image:
    """Return the image whose raw RGB bytes are `blob`.

    Raises:
        ProtocolError: If the numbers are no sides of an image, or do not fit the bytes.
    """
    if (
        type(height) is not int
        or type(width) is not int
        or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE)
    ):
        raise ProtocolError("an image with impossible sides")
    if height * width > MAX_PIXELS or height * width * 3 != len(blob):
        raise ProtocolError("an image whose sides do not fit its bytes")
    pixels = np.frombuffer(bytes(blob), np.uint8).reshape(height, width, 3)
    return Image.from_pixels(pixels)


def decode_value(value: Any, shelf: ImageShelf, depth: int = 0) -> Any:
    """Return a value that a program returned, with images resolved.

    Raises:
        ProtocolError: If it is nested too deeply or names an unknown image.
    """
    if depth > MAX_DEPTH + 2:
        raise ProtocolError("a value that is nested too deeply")
    if type(value) is list:
        return [decode_value(item, shelf, depth + 1) for item in value]
    if type(value) is dict:
        if IMAGE in value:
            try:
                if len(value) != 1 or type(value[IMAGE]) is not str:
                    raise ProtocolError("a malformed image")
                return shelf.get(value[IMAGE])
            except UnknownImageError as error:
                raise ProtocolError("an unknown image") from error
        return {key: decode_value(item, shelf, depth + 1) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ProtocolError(f"a value of type {type(value).__name__}")


def encode_value(value: Any, shelf: ImageShelf) -> Any:
    """Return an answer in the form in which it crosses; its images become known to the sandbox."""
    if isinstance(value, Image):
        shelf.add(value)
        return {IMAGE: [value.id, *value.size]}
    if isinstance(value, (list, tuple)):
        return [encode_value(item, shelf) for item in value]
    if isinstance(value, dict):
        return {str(key): encode_value(item, shelf) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


class Channel:
    """Frames over a non-blocking stream socket. Deadlines are the caller's (`asyncio.timeout`)."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self.moved_bytes = 0

    async def receive(self) -> tuple[dict[str, Any], bytearray]:
        """Return the next message and its blob.

        Raises:
            ProtocolError: If it is not a frame.
            ClosedError: If the other side is gone.
        """
        structure_bytes, blob_bytes = parse_header(await self._read(HEADER.size))
        message = parse_structure(await self._read(structure_bytes))
        return message, await self._read(blob_bytes)

    async def send(self, message: dict[str, Any], blob: memoryview | None = None) -> None:
        """Send one frame.

        Raises:
            ClosedError: If the other side is gone.
        """
        structure = msgpack.packb(message, unicode_errors="replace")
        blob_bytes = 0 if blob is None else blob.nbytes
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._socket, HEADER.pack(len(structure), blob_bytes) + structure)
            if blob is not None:
                await loop.sock_sendall(self._socket, blob)
        except (BrokenPipeError, ConnectionResetError):
            raise ClosedError from None
        self.moved_bytes += len(structure) + blob_bytes

    def idle(self) -> bool:
        """Say whether nothing waits to be read and the other side is there."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def ended(self) -> bool:
        """Say whether the other side is gone and left nothing to be read."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    async def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view, loop = memoryview(buffer), asyncio.get_running_loop()
        while view:
            try:
                got = await loop.sock_recv_into(self._socket, view)
            except ConnectionResetError:
                raise ClosedError from None
            if got == 0:
                raise ClosedError
            view = view[got:]
        self.moved_bytes += size
        return buffer
