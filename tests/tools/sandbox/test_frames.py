"""Whatever bytes a child writes, the reader answers with a message or with ProtocolError."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.sandbox.hosts import picture
from tools.sandbox.child.wire import HEADER, IMAGE, pack
from tools.sandbox.frames import (
    ChannelClosedError,
    ProtocolError,
    SocketChannel,
    check_structure,
    decode_value,
    encode_value,
    parse_header,
    parse_pixels,
    parse_structure,
)
from tools.sandbox.methods import METHODS, BadCallError, checked
from tools.sandbox.shelf import ImageShelf, UnknownImageError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(IMAGE), inner),
    max_leaves=12,
)
FRAMES = st.fixed_dictionaries(
    {"op": st.sampled_from(["call", "put", "done", "x"])}, optional={"method": VALUES, "value": VALUES}
)


def read(data: bytes) -> Any:
    """Return what the host reads when a child has written `data` and closed."""

    async def converse() -> Any:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            theirs.setblocking(False)
            theirs.send(data)
            theirs.shutdown(socket.SHUT_WR)
            return await SocketChannel(ours).receive()

    return asyncio.run(converse())


def checked_structure(data: bytes) -> dict[str, Any]:
    for _ in check_structure(data):
        pass
    return parse_structure(data)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ProtocolError, ChannelClosedError)):
        read(data)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    FRAMES, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4), st.integers(0, 40)
)
def test_a_mutated_frame_is_read_or_refused(
    message: dict[str, Any], changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(pack(message))
    for position, byte in changes:
        data[position % len(data)] = byte
    try:
        received, _ = read(bytes(data[: len(data) - cut]))
    except (ProtocolError, ChannelClosedError):
        return
    assert type(received["op"]) is str


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=400))
def test_random_structures_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert type(checked_structure(data)["op"]) is str


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_headers_alone_tell_what_may_be_built(value: Any) -> None:
    """What has no bytes in it passes, and what passes can be packed again."""
    data = msgpack.packb({"op": "done", "value": value})
    if b"\xc4" not in data and b"\xc5" not in data:
        assert msgpack.packb(checked_structure(data)) == data


@pytest.mark.parametrize("levels", [10, 33, 511, 512, 600, 1024, 1025, 500_000])
def test_nesting_is_refused_long_before_a_parser_or_a_packer_fails(levels: int) -> None:
    """The limits of msgpack differ from version to version, and that of packing from that of unpacking."""
    data = b"\x81\xa2op" + b"\x91" * levels + b"\xa1x"
    with pytest.raises(ProtocolError):
        checked_structure(data)


@pytest.mark.parametrize(
    ("n_items", "refused"), [(10_000, False), (11_990, False), (12_001, True), (100_000, True)]
)
def test_items_are_counted_before_they_are_built(n_items: int, refused: bool) -> None:
    data = msgpack.packb({"op": "done", "value": [0] * n_items})
    with pytest.raises(ProtocolError, match="items") if refused else contextlib.nullcontext():
        checked_structure(data)


@settings(deadline=None, max_examples=100)
@given(VALUES)
def test_any_value_decodes_to_plain_values_or_is_refused(value: Any) -> None:
    shelf = ImageShelf(1 << 20)
    known = picture("known")
    shelf.add(known)

    def plain(item: Any) -> bool:
        if isinstance(item, list):
            return all(map(plain, item))
        if isinstance(item, dict):
            return IMAGE not in item and all(map(plain, item.values()))
        return item is None or type(item) in (bool, int, float, str)

    with contextlib.suppress(ProtocolError):
        assert plain(decode_value(value, shelf))


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([*METHODS, "pixels", "__class__"]) | st.text(),
    VALUES
    | st.dictionaries(
        st.sampled_from(
            ["images", "prompts", "n", "titles", "items", "activations", "texts", "instructions"]
        ),
        VALUES,
    ),
)
def test_any_arguments_are_checked_or_refused(method: Any, arguments: Any) -> None:
    try:
        values = checked(method, arguments, ImageShelf(1 << 20))
    except (BadCallError, UnknownImageError):
        return
    assert method in METHODS
    assert set(values) == set(METHODS[method].arguments)


@pytest.mark.parametrize("lengths", [(2**20 + 1, 0), (0, 12 * 2**20 + 1), (2**32 - 1, 2**32 - 1)])
def test_a_frame_that_says_it_is_too_long_is_refused_before_anything_is_allocated(
    lengths: tuple[int, int],
) -> None:
    with pytest.raises(ProtocolError):
        parse_header(HEADER.pack(*lengths))


@given(
    st.integers() | st.booleans() | st.floats() | st.none() | st.text(),
    st.integers() | st.booleans(),
    st.binary(max_size=99),
)
def test_pixels_fit_their_sides_or_are_refused(height: Any, width: Any, blob: bytes) -> None:
    try:
        image = parse_pixels(height, width, bytearray(blob))
    except ProtocolError:
        return
    assert image.pixels.shape == (height, width, 3)


def test_pixels_are_taken_as_they_are() -> None:
    image = picture("x", 5, 7)
    again = parse_pixels(5, 7, bytearray(image.pixels.tobytes()))
    assert again == image
    assert np.array_equal(again.pixels, image.pixels)
    assert not again.pixels.flags.writeable


def test_answers_carry_images_as_ids_that_are_known_from_then_on() -> None:
    shelf, image = ImageShelf(1 << 20), picture("x")
    encoded = encode_value({"images": [image], "n": np.float32(1.5), "t": (1, "a")}, shelf)
    assert encoded == {"images": [{IMAGE: [image.id, 24, 32]}], "n": 1.5, "t": [1, "a"]}
    assert msgpack.unpackb(msgpack.packb(encoded)) == encoded
    assert shelf.get(image.id) is image


def test_an_image_that_was_not_handed_out_is_unknown() -> None:
    with pytest.raises(UnknownImageError):
        ImageShelf(1 << 20).get(picture("x").id)


@pytest.mark.parametrize("item", [[], {}, "", 7, -1, None, 1.5, 2**40, "x" * 31])
def test_a_long_run_of_items_is_read_as_each_of_them_would_be(item: Any) -> None:
    def frame(*last: Any) -> bytes:
        return bytes(msgpack.packb({"op": "call", "arguments": [*[item] * 1700, *last]}))

    assert len(list(check_structure(frame()))) >= 3, "it gives way in between"
    for refused in (frame(b"bytes"), frame()[:900], frame(*[0] * 12_000)):
        with pytest.raises(ProtocolError):
            checked_structure(refused)
