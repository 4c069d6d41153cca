"""The calls that a program may make, and what each argument must be.

This is the only table: a name that is not in it does not exist. Arguments come from an untrusted
process, so every one is checked here before a `ToolHost` sees it, and nothing unknown is passed on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.errors import UsageError
from actors.images import Image
from tools.contrast import WHICH
from tools.sandbox.child.effects import KINDS, MOST_ASKED
from tools.sandbox.child.wire import IMAGE, MAX_TEXT
from tools.sandbox.shelf import ImageShelf

MAX_ITEMS = 1000
MOST_EXEMPLARS = 15
"""Exemplars that a program may ask for at once: as many as every sweep keeps, so that no call begins another
sweep.
"""
MOST_INTERVENED = 64
"""Images of one intervention: its answer names outputs of each."""
MAX_CALL_BYTES = 384 << 20
"""Pixels of the images of one call: 128 images of 1024 x 1024."""

ArgumentCheck = Callable[[Any, str, ImageShelf], Any]
"""(value, name of the argument, images known to the sandbox) -> checked value, or UsageError."""


class BadCallError(UsageError):
    """A program called a tool with arguments that it does not take."""


def _text(value: Any, name: str, shelf: ImageShelf) -> str:
    if type(value) is not str or len(value) > MAX_TEXT + 100:
        raise BadCallError(f"{name} must be a string of at most {MAX_TEXT} characters")
    return value


def _number(value: Any, name: str, shelf: ImageShelf) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadCallError(f"{name} must be a finite number, got {_shown(value)}")
    return float(value)


def _number_or_text_or_none(value: Any, name: str, shelf: ImageShelf) -> Any:
    """A number, a text, two to four numbers, or nothing: what they mean depends on the other arguments."""
    if value is None or type(value) is str:
        return None if value is None else _text(value, name, shelf)
    return _listed(_number, 2, 4)(value, name, shelf) if type(value) is list else _number(value, name, shelf)


def _image(value: Any, name: str, shelf: ImageShelf) -> Image:
    if type(value) is not dict or set(value) != {IMAGE} or type(value[IMAGE]) is not str:
        raise BadCallError(f"{name} must be an image, got {_shown(value)}")
    return shelf.get(value[IMAGE])


def _text_or_image(value: Any, name: str, shelf: ImageShelf) -> str | Image:
    return _text(value, name, shelf) if type(value) is str else _image(value, name, shelf)


def _listed(item: ArgumentCheck, at_least: int = 0, at_most: int = MAX_ITEMS) -> ArgumentCheck:
    def check(value: Any, name: str, shelf: ImageShelf) -> list[Any]:
        if type(value) is not list:
            raise BadCallError(f"{name} must be a list, got {_shown(value)}")
        if not at_least <= len(value) <= at_most:
            raise BadCallError(f"{name} must have {at_least} to {at_most} items, got {len(value)}")
        return [item(element, f"{name}[{index}]", shelf) for index, element in enumerate(value)]

    return check


def _one_of(words: Sequence[str]) -> ArgumentCheck:
    def check(value: Any, name: str, shelf: ImageShelf) -> str:
        if type(value) is not str or value not in words:
            raise BadCallError(f"{name} must be one of {', '.join(words)}, got {_shown(value)}")
        return value

    return check


def _integer(low: int, high: int) -> ArgumentCheck:
    def check(value: Any, name: str, shelf: ImageShelf) -> int:
        if type(value) is not int or not low <= value <= high:
            raise BadCallError(f"{name} must be a whole number from {low} to {high}, got {_shown(value)}")
        return value

    return check


def _check_pixels(arguments: Any, shelf: ImageShelf) -> None:
    """Refuse more pixels than one call should hold in memory, before any is read."""
    lists = [value for value in arguments.values() if type(value) is list] if type(arguments) is dict else []
    named = [item.get(IMAGE) for items in lists for item in items if type(item) is dict]
    total = sum(shelf.size_bytes(id) for id in named if type(id) is str)
    if total > MAX_CALL_BYTES:
        raise BadCallError(
            f"the images of one call may have {MAX_CALL_BYTES // 3 >> 20} million pixels together, got "
            f"{total // 3 >> 20}; use fewer or smaller ones at a time"
        )


def _text_or_texts(value: Any, name: str, shelf: ImageShelf) -> Any:
    return _text(value, name, shelf) if type(value) is str else _listed(_text)(value, name, shelf)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
    return text if len(text) <= 60 else text[:60] + "..."


@dataclass(frozen=True)
class Method:
    """Arguments by name; those in `same_length` must be lists of one length."""

    arguments: Mapping[str, ArgumentCheck]
    same_length: tuple[str, ...] = ()


_IMAGES = _listed(_image, 1, 256)

METHODS: Mapping[str, Method] = {
    "measure": Method({"images": _IMAGES}),
    "exemplars": Method({}),
    "exemplars_by": Method({"which": _one_of(WHICH), "k": _integer(1, MOST_EXEMPLARS)}),
    "text2image": Method({"prompts": _listed(_text, 1, 256), "n": _integer(1, 64)}),
    "edit": Method({"images": _IMAGES, "instructions": _listed(_text, 1, 256)}, ("images", "instructions")),
    "describe": Method({"images": _IMAGES, "titles": _listed(_text, 1, 256)}, ("images", "titles")),
    "summarize": Method({"images": _IMAGES}),
    "intervene": Method(
        {
            "images": _listed(_image, 1, MOST_INTERVENED),
            "kind": _one_of(KINDS),
            "value": _number_or_text_or_none,
            "where": _number_or_text_or_none,
            "outputs": _listed(_text, 0, MOST_ASKED),
        }
    ),
    "log": Method(
        {
            "activations": _listed(_number),
            "images": _listed(_image),
            "titles": _listed(_text),
            "texts": _text_or_texts,
        },
        ("activations", "images", "titles"),
    ),
    "display": Method({"items": _listed(_text_or_image, 1)}),
    "state": Method({}),
}


def checked(method: Any, arguments: Any, shelf: ImageShelf) -> dict[str, Any]:
    """Return the arguments of a call, images resolved.

    Raises:
        BadCallError: If there is no such method, or an argument is missing, unknown or of another form.
        UnknownImageError: If an image was never handed out to this sandbox.
    """
    if type(method) is not str or method not in METHODS:
        raise BadCallError(f"there is no tool {_shown(method)}")
    wanted = METHODS[method]
    _check_pixels(arguments, shelf)
    if type(arguments) is not dict or set(arguments) != set(wanted.arguments):
        raise BadCallError(f"{method} takes the arguments {', '.join(wanted.arguments) or '(none)'}")
    values = {name: check(arguments[name], name, shelf) for name, check in wanted.arguments.items()}
    lengths = {name: len(values[name]) for name in wanted.same_length}
    if len(set(lengths.values())) > 1:
        raise BadCallError(
            "these must have the same length: " + ", ".join(f"{n} ({k})" for n, k in lengths.items())
        )
    return values
