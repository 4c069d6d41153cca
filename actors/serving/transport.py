"""Pickles requests and results so that images inside them travel as content ids.

A `Payload` holds any Python values; each `Image` in them is replaced by its id, and the pixels travel
separately, once, or not at all where the other side has them. Only between processes of one program: a
payload is a pickle, and unpickling runs code.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from actors.images import Image


@dataclass(frozen=True, slots=True)
class Payload:
    """Pickled values and the ids of the images they mention, in order of first mention."""

    data: bytes
    ids: tuple[str, ...]


def pack(values: Any) -> tuple[Payload, dict[str, Image]]:
    """Return `values` as a payload, and the images it mentions by id.

    Raises:
        Exception: What pickling raises for values that cannot be pickled.
    """
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(values)
    return Payload(buffer.getvalue(), tuple(pickler.images)), pickler.images


def unpack(payload: Payload, images: Mapping[str, Image]) -> Any:
    """Return the values of `payload`, its images taken from `images`.

    Raises:
        KeyError: If an image is missing; see `Payload.ids`.
    """
    if not payload.ids:
        return pickle.loads(payload.data)
    return _Unpickler(io.BytesIO(payload.data), images).load()


def images_from(pixels: Mapping[str, np.ndarray]) -> dict[str, Image]:
    """Return received pixels as images, copied out of the shared memory they arrived in.

    A view would pin the whole message in Ray's object store for as long as one of its images is kept.
    """
    images = {}
    for id, array in pixels.items():
        owned = np.array(array, order="C")
        owned.flags.writeable = False
        images[id] = Image(owned, id)
    return images


def _image_by_id(id: str) -> Image:
    raise pickle.UnpicklingError("a payload with images is opened by `unpack`")


class _Pickler(pickle.Pickler):
    """Collects images, and pickles plain frozen dataclasses by their field values.

    The second is for speed: requests are frozen dataclasses with slots, whose generated
    `__getstate__` and `__setstate__` take three times as long as reading the fields and calling the class.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.images: dict[str, Image] = {}

    def reducer_override(self, value: Any) -> Any:
        cls = type(value)
        if cls is Image:
            self.images[value.id] = value
            return _image_by_id, (value.id,)
        try:
            read = _FIELD_READERS[cls]
        except KeyError:
            read = _FIELD_READERS[cls] = _field_reader(cls)
        return NotImplemented if read is None else (cls, read(value))


_FIELD_READERS: dict[type, Callable[[Any], tuple[Any, ...]] | None] = {}


def _field_reader(cls: type) -> Callable[[Any], tuple[Any, ...]] | None:
    """Return what reads the constructor's arguments from an instance; None if `cls` pickles its own way."""
    if (
        not is_dataclass(cls)
        or not cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
        or hasattr(cls, "__post_init__")
        or cls in copyreg.dispatch_table
        or "__reduce__" in vars(cls)
    ):
        return None
    names = []
    for field in fields(cls):
        if not field.init or field.kw_only:
            return None
        names.append(field.name)
    if not names:
        return None
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda value: (only(value),)
    return attrgetter(*names)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, images: Mapping[str, Image]) -> None:
        super().__init__(file)
        self._images = images

    def find_class(self, module: str, name: str) -> Any:
        if name == "_image_by_id" and module == __name__:
            return self._images.__getitem__
        return super().find_class(module, name)
