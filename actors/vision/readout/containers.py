"""Tensors in what a module returns: alone, or in tuples, lists, mappings and objects, also nested."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Path = tuple[int | str, ...]
"""The indices, keys or attributes that lead to a tensor, () if there is nothing around it."""

_INDEXED: tuple[Any, ...] = (Mapping, tuple, list)
_DEEPEST = 3
"""Containers in each other; deeper ones are a library's own bookkeeping."""


def tensors_in(value: Any) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield the tensors in a value with their paths, in order; outer ones before those within."""
    import torch

    if isinstance(value, torch.Tensor):
        yield (), value
    else:
        yield from sorted(_below(value, _DEEPEST), key=lambda found: len(found[0]))


def _below(value: Any, depth: int) -> Iterator[tuple[Path, torch.Tensor]]:
    import torch

    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, _INDEXED):
        items = enumerate(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (torch.nn.Module, type)):
        items = vars(value).items()
    for key, item in items:
        if isinstance(item, torch.Tensor):
            yield (key,), item
        elif depth > 1:
            yield from (((key, *path), tensor) for path, tensor in _below(item, depth - 1))


def part(value: Any, path: Path) -> Any:
    """Return what lies at a path in a value."""
    for key in path:
        value = value[key] if isinstance(value, _INDEXED) else getattr(value, str(key))
    return value


def with_part(value: Any, path: Path, new: Any) -> Any:
    """Return a value with another part at a path, in containers of its own."""
    if not path:
        return new
    key, *rest = path
    new = with_part(part(value, (key,)), tuple(rest), new)
    if isinstance(value, tuple):
        parts = [new if place == key else item for place, item in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    container = copy.copy(value)
    if isinstance(container, _INDEXED):
        container[key] = new
    else:
        object.__setattr__(container, str(key), new)  # a dataclass may be frozen
    return container
