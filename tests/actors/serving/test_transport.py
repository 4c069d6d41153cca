from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from actors.errors import RefusedError
from actors.generation.base import EditRequest, GenerateRequest
from actors.images import Image, Provenance
from actors.serving.transport import Payload, images_from, pack, unpack


@dataclass(frozen=True, slots=True)
class Plain:
    a: int
    b: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    a: int
    checks: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", self.checks + 1)


@dataclass(frozen=True)
class Derived:
    a: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "double", 2 * self.a)


@dataclass(frozen=True)
class KeywordOnly:
    a: int
    b: int = field(kw_only=True)


@dataclass
class Mutable:
    a: list[int]


@dataclass(frozen=True, slots=True)
class Own:
    a: int

    def __reduce__(self) -> Any:
        return Own, (self.a + 1,)


def picture(value: int) -> Image:
    return Image.from_pixels(np.full((3, 4, 3), value, np.uint8))


def test_images_travel_as_ids_and_each_once() -> None:
    dark, light = picture(0), picture(255)
    values = [(1, EditRequest(dark, "lighter", 1)), (2, dark), (3, {"x": light}), (4, picture(0))]
    payload, images = pack(values)
    assert payload.ids == (dark.id, light.id)
    assert images == {dark.id: dark, light.id: light}
    assert dark.pixels.tobytes() not in payload.data
    received = images_from({id: image.pixels for id, image in images.items()})
    assert unpack(payload, received) == values


def test_unpacking_without_its_images_names_the_missing_one() -> None:
    payload, images = pack([picture(1)])
    with pytest.raises(KeyError, match=next(iter(images))):
        unpack(payload, {})
    with pytest.raises(pickle.UnpicklingError, match="unpack"):
        pickle.loads(payload.data)


def test_received_pixels_are_read_only_and_own_their_memory() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    received = images_from({"id": pixels})["id"]
    pixels[:] = 7
    assert received.pixels.max() == 0
    assert received.pixels.flags.owndata
    assert not received.pixels.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        Plain(1, ("x",)),
        Checked(1),
        Derived(4),
        KeywordOnly(1, b=2),
        Mutable([1]),
        GenerateRequest("a dog", 3),
        Provenance("generated", edits=("a", "b"), recipe={"scene": [1, 2]}),
        {"nested": [Plain(1), (Plain(2),)]},
    ],
)
def test_values_come_back_equal(value: Any) -> None:
    payload, _ = pack(value)
    back = unpack(payload, {})
    assert back == value
    assert vars(back) == vars(value) if hasattr(value, "__dict__") else True


def test_a_class_that_pickles_its_own_way_does() -> None:
    assert unpack(pack(Own(1))[0], {}) == Own(2)


def test_plain_frozen_dataclasses_are_not_restored_through_their_slow_generated_state() -> None:
    payload, _ = pack([Plain(1), Plain(2)])
    assert b"dataclass" not in payload.data
    assert b"__getstate__" not in payload.data


def test_errors_keep_their_message_and_fix() -> None:
    back = unpack(pack(RefusedError("no.", "Ask again."))[0], {})
    assert isinstance(back, RefusedError)
    assert (back.message, back.fix) == ("no.", "Ask again.")


def test_a_value_that_cannot_be_pickled_raises() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pack(lambda: None)
    assert Payload(b"", ()).ids == ()
