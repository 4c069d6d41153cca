"""The process around a model: device, dtype, threads, allocator, seeds, and torchvision beside a CPU torch.

Nothing here happens at import, and nothing imports torch before it must: the environment of a worker and
the allocator have to be set before torch's first allocation.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from actors.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import torch

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8
_PICTURE_BYTES = 64 * 1024

_kept: list[Any] = []
"""Operator libraries: their registrations live as long as they do."""


def available_cores() -> int:
    """Return how many cores this process may keep busy: its affinity, and the quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [
        _ratio(*quota.split()) for quota in control_group_limits("cpu.max") if not quota.startswith("max")
    ]
    v1 = zip(
        control_group_limits("cpu/cpu.cfs_quota_us"),
        control_group_limits("cpu/cpu.cfs_period_us"),
        strict=False,
    )
    quotas += [_ratio(quota, period) for quota, period in v1 if int(quota) > 0]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def available_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its control groups' limit."""
    limits = control_group_limits("memory.max") + control_group_limits("memory/memory.limit_in_bytes")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def control_group_limits(
    name: str, root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> list[str]:
    """Return what `name` says in this process's control groups, its own first, then those above it.

    `name` is a file of version 2 ("cpu.max") or a controller and a file of version 1
    ("cpu/cpu.cfs_quota_us"). In a container a group's path may be the host's, of which only the top is to be
    seen. [] where there are no such groups.
    """
    controller, _, file = name.rpartition("/")
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    texts = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for folder in dict.fromkeys((group, *group.parents)):
            with contextlib.suppress(OSError):
                texts.append((root / controller / folder / file).read_text().strip())
    return texts


def _ratio(quota: str, period: str) -> float:
    return int(quota) / int(period)


def worker_env(threads: int | None = None) -> dict[str, str]:
    """Return the environment variables of a model's process; they count only before torch is imported.

    Passive waiting costs some percent on an idle machine, but threads that spin between parallel regions
    make inference many times slower as soon as anything else needs the cores.
    """
    n = str(threads or available_cores())
    return {
        "OMP_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "OPENBLAS_NUM_THREADS": n,
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def work_in(folder: Path) -> None:
    """Make `folder` the current one where it is there: relative paths then mean in a process what they meant
    to the user.

    Ray starts a process where its node was started, which need not be where a command was typed.
    """
    with contextlib.suppress(OSError):
        os.chdir(folder)


def cpu_preamble(threads: int | None = None) -> None:
    """Set up the allocator for inference on the CPU, and the threads of a torch that is imported already.

    Call it before torch's first allocation. By default glibc returns each large tensor's memory to the
    kernel and faults it in again, page by page, for the next one: up to half of the inference time at large
    batches. Keeping freed memory costs about 30 % more resident memory. The single arena is needed because
    forward passes run in a worker thread, and the other settings do not reach the arenas of threads. On
    other C libraries the allocator is left alone.
    """
    _set_allocator({_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 256 * 2**20})
    if "torch" in sys.modules:
        set_threads(threads)


def return_pictures() -> None:
    """Set up the allocator of a process of many threads that hold pictures for a while, such as a host's.

    By default glibc gives each thread an arena, and keeps there what was freed: pictures of studies that
    ended long ago. On other C libraries the allocator is left alone.
    """
    _set_allocator({_M_ARENA_MAX: 2, _M_MMAP_THRESHOLD: _PICTURE_BYTES})


def _set_allocator(parameters: Mapping[int, int]) -> None:
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for name, value in parameters.items():
            libc.mallopt(name, value)


def set_threads(threads: int | None = None) -> None:
    """Set the threads of torch's operators: `threads`, or as many as there are cores."""
    import torch

    torch.set_num_threads(threads or available_cores())


def import_vision_libraries() -> None:
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
    import_vision_libraries()
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


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: "auto", "cpu", "cuda", "cuda:N" or "mps".

    "auto" is the first CUDA GPU, else Apple's GPU, else the CPU.

    Raises:
        UsageError: If the name is unknown or the machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(
            f"unknown device {name!r}.",
            'Use "auto", "cpu", "cuda", "cuda:N" (a GPU\'s number from 0) or "mps".',
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' needs an Apple GPU, and there is none.", 'Use "auto" or "cpu".')
    if device.type == "cuda":
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not n_gpus:
            build = (
                "this torch is built without CUDA" if torch.version.cuda is None else "no CUDA GPU is visible"
            )
            raise UsageError(
                f"device {name!r}: {build}.", 'Use "auto" or "cpu", or install a CUDA build of torch.'
            )
        if (device.index or 0) >= n_gpus:
            raise UsageError(
                f"device {name!r}: there are {n_gpus} GPUs.", f"Their numbers are 0 to {n_gpus - 1}."
            )
        return torch.device("cuda", device.index or 0)
    return device


def devices_work() -> bool:
    """Return whether the GPUs that this process holds memory on still compute, True where it holds none.

    After some faults (an assertion in a kernel, an illegal access, a GPU that fell off the bus) they compute
    nothing more for this process, and each later call fails with an error of its own.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return True
    try:
        for index in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(index):
                torch.zeros(1, device=f"cuda:{index}").add(1).cpu()
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def empty_cache() -> None:
    """Give the memory that torch keeps for itself on a GPU back to it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


DTYPE_NAMES = ("float32", "bfloat16", "float16")


def pick_dtype(name: str) -> torch.dtype:
    """Return the torch dtype called `name`; it is part of every cache key.

    Raises:
        UsageError: If the name is not one of DTYPE_NAMES.
    """
    import torch

    if name not in DTYPE_NAMES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, got {name!r}.")
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype
