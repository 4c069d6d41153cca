"""What a network holds, as bytes: the same for the same content, in whatever process and on whatever device.

The state of most networks is tensors alone; that of quantized ones holds packed weights as well, and any may
hold what a module's `get_extra_state` returns. Of a network of TorchScript, packed weights, and all weights
once it is frozen, are in no state: they are attributes and constants of its graph.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Digest(Protocol):
    def update(self, data: Any, /) -> None: ...


def update(digest: Digest, name: str, value: Any) -> None:
    """Add what `value`, held as `name`, contains.

    Raises:
        Exception: Of any class, if it cannot be pickled.
    """
    import torch

    if isinstance(value, torch.Tensor):
        dense = value.dequantize() if value.is_quantized else value
        dense = dense if dense.layout == torch.strided else dense.to_dense()
        digest.update(f"{name}:{tuple(dense.shape)}:{dense.dtype}:".encode())
        flat = dense.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, (tuple, list)):
        digest.update(f"{name}:{type(value).__name__}:{len(value)}:".encode())
        for part in value:
            update(digest, name, part)
    else:
        digest.update(f"{name}:{type(value).__name__}:".encode())
        digest.update(_pickled(value))


def scripted_values(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the steps of those parts of a network that are TorchScript, each with the constant or attribute
    it reads.
    """
    import torch

    inside: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if name.startswith(inside) or not isinstance(part, torch.jit.ScriptModule):
            continue
        if hasattr(part, "forward"):
            inside += (f"{name}." if name else "",)
            graph = part.inlined_graph
            itself = next(graph.inputs()).debugName()
            for step in _steps(graph):
                words = [step.kind(), *(value.debugName() for value in step.inputs())]
                yield f"{name}:{' '.join(words)}", _read(step, {itself: part})


def _steps(block: Any) -> Iterator[Any]:
    for step in block.nodes():
        yield step
        for inner in step.blocks():
            yield from _steps(inner)


_OF_OBJECTS = ("prim::GetAttr", "prim::SetAttr", "prim::CallMethod")


def _read(step: Any, known: Mapping[str, Any]) -> Any:
    """Return what a step reads of the objects `known`; None if that is an object whose parts further steps
    read.
    """
    if step.kind() == "prim::Constant":
        return step.output().toIValue()
    if step.kind() == "prim::GetAttr" and any(
        use.user.kind() not in _OF_OBJECTS for use in step.output().uses()
    ):
        return _attribute(step.output(), known)
    return None


def _attribute(value: Any, known: Mapping[str, Any]) -> Any:
    step = value.node()
    if step.kind() != "prim::GetAttr":
        return known.get(value.debugName())
    owner = _attribute(step.input(), known)
    return None if owner is None else getattr(owner, step.s("name"))


def _pickled(value: Any) -> bytes:
    written = io.BytesIO()
    pickler = _pickler()(written, protocol=4)
    pickler.fast = True  # without memory: what is one object here may be two equal ones in another process
    pickler.dump(value)
    return written.getvalue()


def _pickler() -> type[pickle.Pickler]:
    import hashlib

    import torch

    class Pickler(pickle.Pickler):
        """Writes what is pickled by address, or in any order, by its content."""

        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                digest = hashlib.blake2b(digest_size=16)
                update(digest, "", value)
                return digest.digest()
            if isinstance(value, torch.ScriptObject):
                return value.__getstate__()
            if isinstance(value, (set, frozenset)):
                return sorted(map(_pickled, value))
            if isinstance(value, (torch.UntypedStorage, torch.TypedStorage)):
                raise pickle.PicklingError("a storage is pickled by its address: hold a tensor")
            return None

    return Pickler
