"""The process around a model: cores, memory, threads, allocator, device and dtype.

Nothing here happens at import, and nothing imports torch before it must: the environment of a worker and
the allocator have to be set before torch's first allocation.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UsageError

if TYPE_CHECKING:
    import torch

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8
_PICTURE_BYTES = 64 * 1024
"""Less than the pixels of any picture that is studied, 147 KiB at 224 x 224: what is mapped is given back."""


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
