"""One frame of the conversation between host and child, and the values in it.

A frame is two little-endian u32 lengths, a msgpack structure, and a blob of raw pixels. Pixels never
pass through the unpacker: the structure stays small enough that no nesting can cost the reader much.
An image inside a structure is `{IMAGE: content id}` on its way to the host and
`{IMAGE: [content id, height, width]}` on its way to the child.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

HEADER = struct.Struct("<II")
IMAGE = "\0image"
MAX_STRUCTURE_BYTES = 1 << 20
MAX_SIDE = 4096
MAX_PIXELS = 1 << 22
"""Pixels of one image that a program makes: 2048 x 2048, 12 MiB as raw RGB."""
MAX_BLOB_BYTES = 3 * MAX_PIXELS
MAX_TEXT = 100_000
"""Characters of one string that crosses."""
MAX_LIST = 10_000
"""Items of one value that crosses, those of nested and of shared lists counted each time they occur."""
MAX_ITEMS = MAX_LIST + 2000
"""Items of one structure: a value and what it is sent in."""
MAX_THREADS = 64
"""Threads of one sandbox."""
MAX_DEPTH = 24
"""Levels of nested lists and dicts that cross."""
ENTRY_POINTS = ("run_experiment", "execute_command")


def pack(message: dict[str, Any], blob_bytes: int = 0) -> bytes:
    """Return header and structure; the sender writes `blob_bytes` of pixels after it."""
    structure = msgpack.packb(message, unicode_errors="replace")
    return HEADER.pack(len(structure), blob_bytes) + structure
