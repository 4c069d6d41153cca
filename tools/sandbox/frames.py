"""Reading what an untrusted process wrote.

Everything is bounded before it is allocated: the header says how long the two parts are, the structure
is at most 1 MiB of at most 12,000 items, and pixels are never parsed. msgpack's extension types, which
could stand for objects, are refused; there is no pickle anywhere.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from actors.images import Image
from tools.sandbox.base import ImageRef
from tools.sandbox.child.wire import (
    HEADER,
    IMAGE,
    MAX_BLOB_BYTES,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_STRUCTURE_BYTES,
)
from tools.sandbox.shelf import ImageShelf, UnknownImageError

_LEVELS = MAX_DEPTH + 8
"""Nesting of a structure: that of a value, and of what it is sent in."""
_SMALL_BYTES = 4096
_FRAME_S, _BYTE_S = 50e-6, 0.5e-9
_PAUSE_S = 0.005
"""Between two reads where the other side sends little at a time: each of them costs the event loop a turn."""


class ProtocolError(Exception):
    """The other side broke the rules of the conversation; it is ended, not answered."""


class ChannelClosedError(Exception):
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


def _headers() -> list[tuple[int, int, int] | None]:
    """Return for each first byte of a msgpack item: bytes of its payload, width of its length, items inside.

    Items inside are counted for one unit of the length; None is what is not allowed (bin, ext, an unused
    byte).
    """
    table: list[tuple[int, int, int] | None] = [(0, 0, 0)] * 256
    for count in range(16):
        table[0x80 + count] = (0, 0, 2 * count)
        table[0x90 + count] = (0, 0, count)
    for size in range(32):
        table[0xA0 + size] = (size, 0, 0)
    for byte in (0xC1, *range(0xC4, 0xCA), *range(0xD4, 0xD9)):
        table[byte] = None
    sizes = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
    table[0xCA:0xD4] = [(sizes[byte], 0, 0) for byte in range(0xCA, 0xD4)]
    table[0xD9:0xE0] = [(0, 1, 0), (0, 2, 0), (0, 4, 0), (0, 2, 1), (0, 4, 1), (0, 2, 2), (0, 4, 2)]
    return table


_HEADERS = _headers()
_RUN = 500
"""Items without items inside that are skipped at once: hostile programs send many thousands of them."""


def _plain_items() -> re.Pattern[bytes]:
    """Return the pattern of `_RUN` items in a row that hold no others, and whose first bytes say their
    lengths.
    """
    by_payload: dict[int, bytes] = {}
    for byte, header in enumerate(_HEADERS):
        if header is not None and header[1:] == (0, 0):
            by_payload[header[0]] = by_payload.get(header[0], b"") + b"\\x%02x" % byte
    kinds = b"|".join(b"[%s].{%d}" % (first, payload) for payload, first in by_payload.items())
    return re.compile(b"(?:%s){%d}+" % (kinds, _RUN), re.DOTALL)


_PLAIN_ITEMS = _plain_items()


def check_structure(data: bytes | bytearray) -> Iterator[None]:
    """Read the headers of a msgpack structure, so that nothing costly is built of it; yield every thousand
    items.

    Raises:
        ProtocolError: If it is cut off, nested too deeply, has too many items, or one that is not allowed.
    """
    position = n_items = untried = 0
    expected = 1
    outer: list[int] = []
    try:
        while expected or outer:
            if not expected:
                expected = outer.pop()
                continue
            if expected >= _RUN and position >= untried:
                if run := _PLAIN_ITEMS.match(data, position):
                    expected, n_items, position = expected - _RUN, n_items + _RUN, run.end()
                    yield
                    continue
                untried = position + _RUN  # bytes: a pattern that just failed is not tried at every item
            expected -= 1
            n_items += 1
            if n_items % 1000 == 0:
                yield
            header = _HEADERS[data[position]]
            if header is None:
                raise ProtocolError("an item of a type that is not allowed")
            payload, width, inside = header
            position += 1
            if width:
                length = int.from_bytes(data[position : position + width], "big")
                payload, inside = (width, inside * length) if inside else (width + length, 0)
            position += payload
            if inside:
                outer.append(expected)
                expected = inside
            if n_items + expected > MAX_ITEMS or len(outer) > _LEVELS:
                raise ProtocolError(f"a structure of more than {MAX_ITEMS} items or {_LEVELS} levels")
    except IndexError:
        raise ProtocolError("a structure that is cut off") from None


def parse_structure(data: bytes | bytearray) -> dict[str, Any]:
    """Return the message of a frame whose structure has been checked, a dict with an "op".

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
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
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
    if isinstance(value, ImageRef):
        shelf.know(value.id, *value.size)
        return {IMAGE: [value.id, *value.size]}
    if isinstance(value, (list, tuple)):
        return [encode_value(item, shelf) for item in value]
    if isinstance(value, dict):
        return {str(key): encode_value(item, shelf) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


class Channel(ABC):
    """Frames, counted. Deadlines are the caller's (`asyncio.timeout`).

    A side that always has something to say, or that sends byte by byte, leaves the event loop to others.
    """

    def __init__(self) -> None:
        self.moved_bytes = 0
        """Of both directions, pixels included."""
        self.structure_bytes = 0
        """Of both directions, without pixels."""
        self._work_s = 0.0

    async def receive(self) -> tuple[dict[str, Any], bytearray]:
        """Return the next message and its blob.

        Raises:
            ProtocolError: If it is not a frame.
            ChannelClosedError: If the other side is gone.
        """
        await asyncio.sleep(0)  # a read of what is there already does not yield
        structure_bytes, blob_bytes = parse_header(await self._read(HEADER.size))
        structure = await self._read(structure_bytes)
        blob = await self._read(blob_bytes)
        self.structure_bytes += structure_bytes
        self._work_s += _FRAME_S + blob_bytes * _BYTE_S
        began = time.thread_time()
        for _ in check_structure(structure):
            self._work_s += time.thread_time() - began
            await asyncio.sleep(0)  # others had the loop meanwhile: their time is not counted
            began = time.thread_time()
        message = parse_structure(structure)
        self._work_s += time.thread_time() - began
        return message, blob

    async def send(self, message: dict[str, Any], blob: memoryview | None = None) -> None:
        """Send one frame.

        Raises:
            ChannelClosedError: If the other side is gone.
        """
        structure = msgpack.packb(message, unicode_errors="replace")
        blob_bytes = 0 if blob is None else blob.nbytes
        try:
            await self._write(HEADER.pack(len(structure), blob_bytes) + structure)
            if blob is not None:
                await self._write(blob)
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosedError from None
        self.moved_bytes += len(structure) + blob_bytes
        self.structure_bytes += len(structure)
        self._work_s += _FRAME_S + blob_bytes * _BYTE_S

    def take_work_s(self) -> float:
        """Return the processor time that frames have cost since the last call: parsing as measured, copying
        by size.
        """
        spent, self._work_s = self._work_s, 0.0
        return spent

    @abstractmethod
    async def _read(self, size: int) -> bytearray:
        """Return the next bytes, and count them; raise ChannelClosedError if there are not so many."""

    @abstractmethod
    async def _write(self, data: bytes | memoryview) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class SocketChannel(Channel):
    """Frames over a non-blocking stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        connection.setblocking(False)
        self._socket = connection

    def idle(self) -> bool:
        """Return whether nothing waits to be read and the other side is there."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def ended(self) -> bool:
        """Return whether the other side is gone and left nothing to be read."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    async def _write(self, data: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view, loop = memoryview(buffer), asyncio.get_running_loop()
        while view:
            try:
                got = await loop.sock_recv_into(self._socket, view)
            except ConnectionResetError:
                raise ChannelClosedError from None
            if got == 0:
                raise ChannelClosedError
            view = view[got:]
            if view and got < _SMALL_BYTES:
                await asyncio.sleep(_PAUSE_S)
        self.moved_bytes += size
        return buffer
