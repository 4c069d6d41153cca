"""What a benchmark gives and how it is run, judged and written down.

A benchmark is a module with `ID`, `TITLE` and `run(context) -> Result`, named in `benchmarks.suite`. Each runs
in a process of its own, because allocator, threads and Ray are set once in a process.

Rules. Correctness first: `context.check` raises, and then there are no figures. Peers run in the same process
run, in turns (`interleave`), and a ratio is the median of the ratios of rounds. A figure that was disturbed
says so: a fixed piece of work is timed before and after, and the load of the machine is written beside.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MOVED = 0.2
"""The share by which the control may move before a run counts as disturbed."""


class GateError(Exception):
    """A correctness gate failed: whatever was measured means nothing."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure. `target` is "<= 1.15", ">= 3", "== 1" or empty; `bound` says what limits a missed one."""

    name: str
    value: float
    unit: str = ""
    target: str = ""
    bound: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if not self.target:
            return None
        relation, _, limit = self.target.partition(" ")
        bound = float(limit)
        return {"<=": self.value <= bound, ">=": self.value >= bound, "==": self.value == bound}[relation]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures behind the metrics: a heading a column, a row of values a case."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """A scaling curve: for each series, (x, y) points. `ideal` names the series that is not measured."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    ideal: str = ""
    log_x: bool = True
    log_y: bool = True


@dataclass(slots=True)
class Result:
    """What a benchmark found. `gates` are the correctness checks that it passed."""

    metrics: list[Metric]
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Context:
    """What a benchmark is given. `seed` for whatever it draws; `quick` asks for the smallest honest sizes."""

    device: str = "cpu"
    seed: int = 0
    quick: bool = False
    gates: list[str] = field(default_factory=list)

    def check(self, promise: str, holds: bool) -> None:
        """Pass a correctness gate, or end the benchmark."""
        if not holds:
            raise GateError(promise)
        self.gates.append(promise)


def interleave(peers: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, list[float]]:
    """Return each peer's measurements, one a round; every round begins with another peer."""
    names = list(peers)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            measured[name].append(peers[name]())
    return measured


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of pairs measured in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def percentile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that at least the share `q` of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def control() -> float:
    """Return the seconds of a fixed piece of interpreter work on one core, the best of three."""

    def spin() -> None:
        total = 0
        for i in range(400_000):
            total += i * i

    return min(timed(spin) for _ in range(3))


def machine(device: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    facts: dict[str, Any] = {
        "device": device,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": _versions("ray", "torch", "timm", "numpy", "diffusers"),
    }
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(torch.device(device))
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def record(module: Any, context: Context) -> dict[str, Any]:
    """Run one benchmark in this process; return its record, also when it failed."""
    entry: dict[str, Any] = {"id": module.ID, "title": module.TITLE, "machine": machine(context.device)}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    before, start = control(), time.perf_counter()
    try:
        result: Result = module.run(context)
    except GateError as error:
        entry["failure"] = f"gate: {error}"
    except Exception as error:
        import traceback

        traceback.print_exc()
        entry["failure"] = f"{type(error).__name__}: {error}"
    else:
        entry |= asdict(result)
        for metric, written in zip(result.metrics, entry["metrics"], strict=True):
            written["met"] = metric.met
        entry["gates"] = [*context.gates, *result.gates]
    after = control()
    entry |= {
        "seconds": round(time.perf_counter() - start, 1),
        "load_before": round(load, 2),
        "control_ms": [round(before * 1000, 1), round(after * 1000, 1)],
        "disturbed": max(before, after) / min(before, after) > 1 + MOVED,
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }
    return entry


def dumps(records: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(records, indent=1, sort_keys=True, default=str) + "\n"
