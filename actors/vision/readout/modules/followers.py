"""Which modules a layer's output goes through value by value: a normalization, an activation.

Such a module is seen to be given the very tensor that another returned. What code does to tensors without a
module, such as `x.relu()`, is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = ("timm.layers.activations", "transformers.activations", "torchvision.ops.misc")
SAME_AS_INPUT = ("Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth")
"""Classes of modules that return their input."""
_NOT_BY_VALUE = ("Softmax", "LogSoftmax", "Softmax2d", "Softmin", "GLU", "MultiheadAttention")


def is_by_value(module: torch.nn.Module) -> bool:
    """Return whether a module in evaluation makes each value of its output of one value of its input."""
    import torch

    nn = torch.nn
    if type(module).__name__ in _NOT_BY_VALUE:
        return False
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)):
        return module.running_mean is not None and not module.training
    kind = type(module).__module__
    return kind == "torch.nn.modules.activation" or kind.startswith(_ACTIVATIONS)


class Followers:
    """Notes, during a pass, what modules return and are given. It keeps the tensors, for their ids."""

    def __init__(self) -> None:
        self._tensors: dict[int, Any] = {}
        self._returned_by: dict[int, list[str]] = {}
        self._readers: dict[str, dict[str, torch.nn.Module]] = {}

    def given(self, name: str, module: torch.nn.Module, inputs: Sequence[Any]) -> None:
        """Note that a module is called with these inputs."""
        by_value = is_by_value(module)
        if not by_value and (next(module.children(), None) or type(module).__name__ in SAME_AS_INPUT):
            return  # its parts, or what is given its output, are seen for themselves
        for value in inputs:
            for source in self._returned_by.get(id(value), ()):
                self._readers.setdefault(source, {})[name] = module

    def returned(self, name: str, module: torch.nn.Module, output: Any) -> None:
        """Note that a module returned an output, which may be that of its last part, or its own input."""
        key = id(output)
        self._tensors[key] = output
        if getattr(module, "inplace", False):
            self._returned_by[key] = []
        self._returned_by.setdefault(key, []).append(name)

    def chain(self, name: str) -> tuple[torch.nn.Module, ...]:
        """Return the modules that a layer's output goes through value by value before anything else reads
        it.
        """
        found: list[torch.nn.Module] = []
        while len(readers := self._readers.get(name, {})) == 1:
            ((name, module),) = readers.items()
            if not is_by_value(module) or module in found:
                break
            found.append(module)
        return tuple(found)
