"""Imports of torchvision and timm, made quick, and possible beside a torch that was built for the CPU."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from actors.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch

_kept: list[Any] = []
"""Operator libraries: their registrations live as long as they do."""


def import_torchvision() -> None:
    """Import torchvision so that timm and transformers can, also beside a torch built for the CPU.

    The wheel of torchvision is built for CUDA; beside a CPU torch its compiled operators do not load, and
    its Python part then fails while it registers fake versions of two of them. So their schemas are declared,
    and detectors get a non-maximum suppression of torch's own operators; torchvision has one of its own for
    regions (`roi_align`). Does nothing where the operators are there.

    Raises:
        MissingDependencyError: If torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    import importlib.util

    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("torchvision is not installed.", "pip install torchvision")
    compiled = _compiled_operators_load(next(iter(spec.submodule_search_locations)))
    if not compiled:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _suppress_overlaps, "CPU")
        _kept.append(library)
    with _without_compiler():
        import torchvision  # noqa: F401
    if not compiled:
        boxes, regions = map(import_module, ("torchvision.ops.boxes", "torchvision.ops.roi_align"))
        vars(boxes)["_assert_has_ops"] = lambda: None  # its only question before it calls the operator
        # Its way without the operator would be compiled, which needs a C++ compiler and half a minute.
        vars(regions)["_roi_align"] = regions._roi_align.__wrapped__


def _suppress_overlaps(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the places, best score first, of the boxes that overlap no better one by more than a share of
    their union: boxes (n, 4) as x1, y1, x2, y2, scores (n,), places int64.
    """
    import torch

    order = scores.argsort(descending=True, stable=True)
    kept = []
    while len(order):
        best, others = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[others, :2])
        high = torch.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        area, areas = ((boxes[at][..., 2:] - boxes[at][..., :2]).prod(-1) for at in (best, others))
        order = others[~(shared / (area + areas - shared) > iou_threshold)]  # of points it is NaN
    return torch.stack(kept) if kept else order


def import_timm() -> Any:
    """Import timm, after torchvision; return it."""
    import_torchvision()
    with _without_compiler():
        import timm

    return timm


_COMPILER = "torch._dynamo"


class _StandIn(ModuleType):
    """A module in place of the compiler's: for all but what it is given, the compiler itself is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (name, self.__name__) != ("__path__", _COMPILER):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name, module in list(sys.modules.items()):
        if isinstance(module, _StandIn):
            del sys.modules[name]


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch's compiler, which takes longer to import than torch itself, from being imported.

    One module of torchvision asks it what can be compiled, and one of timm marks a function that cannot;
    either matters only to programs that compile.
    """
    if _COMPILER in sys.modules:
        yield
        return
    package, utilities = _StandIn(_COMPILER), _StandIn(f"{_COMPILER}.utils")
    vars(package)["disable"] = _disabled_later
    vars(utilities)["is_compile_supported"] = _is_compile_supported
    sys.modules.update({_COMPILER: package, f"{_COMPILER}.utils": utilities})
    try:
        yield
    finally:
        _remove_stand_ins()


def _is_compile_supported(device_type: str) -> bool:
    return bool(import_module(f"{_COMPILER}.utils").is_compile_supported(device_type))


def _disabled_later(function: Callable[..., Any], recursive: bool = True, **about: Any) -> Callable[..., Any]:
    """Return a function that is `torch._dynamo.disable(function)` from its first call on."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(import_module(_COMPILER).disable(function, recursive, **about))
        return made[0](*args, **kwargs)

    made: list[Callable[..., Any]] = []
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call


def _compiled_operators_load(folder: str) -> bool:
    """Return whether torchvision's operators load into this process, as torchvision loads them."""
    import glob

    import torch

    for path in glob.glob(os.path.join(glob.escape(folder), "_C*")):  # noqa: PTH118, PTH207
        try:
            torch.ops.load_library(path)
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")
