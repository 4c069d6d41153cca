"""Conversion between values of a program and values that cross to the host."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import itertools
import math
from typing import Any

import numpy as np
import PIL.Image

from .image_handle import ImageHandle
from .link import HostLink, ToolError
from .wire import IMAGE, MAX_DEPTH, MAX_LIST, MAX_PIXELS, MAX_SIDE, MAX_TEXT

_MIN_BASE64_IMAGE = 60
"""Characters of the shortest base64 text that is taken for an image: a prompt is shorter or has spaces."""


class Values:
    """Turns images into content ids and back, over one link. Programs hold images as PIL images."""

    def __init__(self, link: HostLink) -> None:
        self._link = link

    def call(self, method: str, **arguments: Any) -> Any:
        """Return what the host answers to a call, as it crosses.

        Raises:
            ToolError: If it could not be answered.
        """
        return self._link.ask({"op": "call", "method": method, "arguments": arguments})["value"]

    # From the host.

    def decode(self, value: Any) -> Any:
        """Return `value` with every image as programs hold it."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if isinstance(value, dict):
            if IMAGE in value:
                return self._received(*value[IMAGE])
            return {key: self.decode(item) for key, item in value.items()}
        return value

    def _received(self, id: str, height: int, width: int) -> Any:
        return ImageHandle(id, height, width, self._fetch)

    def _fetch(self, id: str) -> bytearray:
        answer = self._link.ask({"op": "call", "method": "pixels", "arguments": {"id": id}})
        pixels: bytearray = answer["blob"]
        return pixels

    # To the host.

    def image(self, value: Any) -> dict[str, str]:
        """Return the reference that stands for an image, sending its pixels if the host lacks them.

        Raises:
            ToolError: If `value` is none of the forms an image may have.
        """
        if type(value) is ImageHandle and (id := value.id) is not None:
            return {IMAGE: id}
        pixels = np.ascontiguousarray(pixels_of(value))
        height, width = pixels.shape[:2]
        answer = self._link.ask({"op": "put", "height": height, "width": width}, pixels.reshape(-1).data)
        return {IMAGE: answer["value"]}

    def images(self, value: Any) -> list[dict[str, str]]:
        """Return references for a list of images; a single image counts as a list of one."""
        return [self.image(item) for item in as_list(value, "images")]

    def is_image(self, value: Any) -> bool:
        """Return whether `value` is an image as programs hold them."""
        return is_picture(value)

    def any(self, value: Any) -> Any:
        """Return any value of a program in a form that crosses; what has none becomes text.

        What exceeds the items that cross is counted or cut, however small its shared parts are.
        """
        return self._any(value, 0, [MAX_LIST])

    def _any(self, value: Any, depth: int, left: list[int]) -> Any:
        left[0] -= 1
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool):
            return value
        if self.is_image(value):
            return self.image(value)
        if type(value) in (str, bytes):
            return text_of(value)
        if isinstance(value, int):
            return int(value) if -(2**63) <= value < 2**64 else text_of(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else repr(float(value))
        if depth >= MAX_DEPTH:  # the text of shared lists may be longer than any memory
            shared = isinstance(value, (dict, list, tuple, set, frozenset, np.ndarray))
            return f"<{type(value).__name__}>" if shared else text_of(value)
        if isinstance(value, np.ndarray) and value.size <= MAX_LIST:
            value = value.tolist()
            return self._any(value, depth + 1, left)
        if isinstance(value, dict):
            entries: dict[str, Any] = {}
            for key, item in value.items():
                if left[0] <= 2:
                    entries["..."] = f"({len(value) - len(entries)} more)"
                    break
                left[0] -= 1
                entries[text_of(key).replace("\0", "")] = self._any(item, depth + 1, left)
            return entries
        if isinstance(value, (list, tuple, set, frozenset)):
            items: list[Any] = []
            for item in value:
                if left[0] <= 1:
                    items.append(f"... ({len(value) - len(items)} more)")
                    break
                items.append(self._any(item, depth + 1, left))
            return items
        return text_of(value)


class TextValues(Values):
    """Programs hold images as base64 text of a PNG, as in the MAIA paper."""

    def __init__(self, link: HostLink) -> None:
        super().__init__(link)
        self._ids: dict[bytes, str] = {}

    def _received(self, id: str, height: int, width: int) -> str:
        buffer = io.BytesIO()
        pixels = PIL.Image.frombytes("RGB", (width, height), bytes(self._fetch(id)))
        pixels.save(buffer, "PNG", compress_level=1)
        text = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._ids[_digest(text)] = id
        return text

    def image(self, value: Any) -> dict[str, str]:
        if self._is_known(value):
            return {IMAGE: self._ids[_digest(value)]}
        return super().image(value)

    def is_image(self, value: Any) -> bool:
        return is_picture(value) or self._is_known(value)

    def _is_known(self, value: Any) -> bool:
        return looks_like_base64_image(value) and _digest(value) in self._ids


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def text_of(value: Any) -> str:
    """Return text without lone surrogates, cut to the length that crosses."""
    text = (
        value
        if type(value) is str
        else value.decode("utf-8", "replace")
        if type(value) is bytes
        else _repr(value)
    )
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}... ({len(text) - MAX_TEXT} more characters)"
    return text.encode("utf-8", "replace").decode("utf-8")


def _repr(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # an int of more digits than Python prints
        return f"a value of type {type(value).__name__} that cannot be printed"


def as_list(value: Any, what: str) -> list[Any]:
    """Return a list; a single picture or string becomes a list of one."""
    if is_picture(value) or type(value) is str:
        return [value]
    if isinstance(value, np.ndarray) and value.ndim == 4:
        return list(value)
    if hasattr(value, "__iter__") and not isinstance(value, (dict, bytes)):
        items = list(itertools.islice(value, MAX_LIST + 1))
        if len(items) > MAX_LIST:
            raise ToolError(f"{what} must have at most {MAX_LIST} items")
        return items
    raise ToolError(f"{what} must be a list, got {type(value).__name__}")


def is_picture(value: Any) -> bool:
    """Return whether `value` is an image by its type: a PIL image, or pixels as a uint8 array."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and (value.ndim == 3 or (value.ndim == 2 and value.size >= 64))
    return issubclass(type(value), PIL.Image.Image)


def looks_like_base64_image(value: Any) -> bool:
    """Return whether a string is an image in base64, bare or as a data URL."""
    if type(value) is not str:
        return False
    if value.startswith("data:image/"):
        return True
    return len(value) >= _MIN_BASE64_IMAGE and value[:5] in ("iVBOR", "/9j/4", "UklGR", "R0lGO")


def pixels_of(value: Any) -> np.ndarray:
    """Return uint8 (H, W, 3) pixels of a PIL image, an array, encoded bytes or a base64 string.

    Raises:
        ToolError: If it is none of these, or too large.
    """
    if isinstance(value, np.ndarray):
        return _checked(_pixels_of_array(value))
    if type(value) is str:
        value = _bytes_of_text(value)
    if isinstance(value, (bytes, bytearray)):
        try:
            value = PIL.Image.open(io.BytesIO(value))
            _check_size(*value.size)
            value.load()
        except ToolError:
            raise
        except Exception as error:
            raise ToolError(f"not a readable image: {type(error).__name__}: {error}") from None
    if not issubclass(type(value), PIL.Image.Image):
        raise ToolError(
            f"expected an image (from tools, a PIL image or a uint8 array), got {type(value).__name__}"
        )
    _check_size(*value.size)
    if "A" in value.getbands() or "transparency" in value.info:
        page = PIL.Image.new("RGBA", value.size, "white")
        value = PIL.Image.alpha_composite(page, value.convert("RGBA"))
    return np.asarray(value.convert("RGB"))


def _bytes_of_text(text: str) -> bytes:
    if not looks_like_base64_image(text):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise ToolError(f"expected an image, got the text {shown!r}; tools.text2image makes images from text")
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError) as error:
        raise ToolError(f"not a readable base64 image: {error}") from None


def _pixels_of_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3:
        raise ToolError(f"an image array must be (height, width, 3), got shape {array.shape}")
    if array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] not in (3, 4):
        raise ToolError(f"an image array must be (height, width, 3), got shape {array.shape}")
    array = array[:, :, :3]
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise ToolError(f"an image array must hold finite numbers, got {array.dtype}")
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        array = array * 255
    return np.clip(np.rint(array), 0, 255).astype(np.uint8)


def _checked(pixels: np.ndarray) -> np.ndarray:
    _check_size(pixels.shape[1], pixels.shape[0])
    return pixels


def _check_size(width: int, height: int) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ToolError(
            f"an image must have 1 to {MAX_PIXELS} pixels and sides of at most {MAX_SIDE},"
            f" got {width}x{height}; resize it first"
        )
