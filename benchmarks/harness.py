"""The harness of benchmarks: results, runs, targets and records.

A benchmark is a module with `ID`, `TITLE` and `run(context) -> Result`, named in `benchmarks.suite`. Each
runs in a process of its own, because allocator, threads and Ray are set once in a process.

Rules. Correctness first: `context.check` raises, and then there are no figures. Peers run in the same process
run, in turns (`interleave`), and a ratio is the median of the ratios of rounds. A figure that was disturbed
says so: before and after, a fixed piece of work is timed, and it is seen what others do while this process
sleeps. The system's load is recorded too and decides nothing: it still counts the benchmark that ran before
this one.
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
from pathlib import Path
from typing import Any

MOVED = 0.2
"""The share by which the control may move before a run counts as disturbed."""
OTHERS = 0.3
"""Cores that others may keep busy before a run counts as disturbed."""
LOOK_S = 1.0
"""Seconds for which the work of others is observed."""


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
    """The results of a benchmark. `gates` are the correctness checks that it passed."""

    metrics: list[Metric]
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Context:
    """The conditions of a benchmark. `seed` for all that it draws; `quick`: the smallest honest sizes."""

    device: str = "cpu"
    seed: int = 0
    quick: bool = False
    gates: list[str] = field(default_factory=list)

    def check(self, promise: str, holds: bool) -> None:
        """Pass a correctness gate, or end the benchmark."""
        if not holds:
            raise GateError(promise)
        self.gates.append(promise)


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in the order of a round: every round begins with another one."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def interleave(peers: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, list[float]]:
    """Return each peer's measurements, one a round; every round begins with another peer."""
    measured: dict[str, list[float]] = {name: [] for name in peers}
    for i in range(rounds):
        for name in rotated(list(peers), i):
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


def busy_cores(
    seconds: float = LOOK_S, sleep: Callable[[float], None] = time.sleep, stat: Path = Path("/proc/stat")
) -> float | None:
    """Return how many cores others keep busy while this process sleeps, None where that is unknown."""
    if (before := _busy_ticks(stat)) is None:
        return None
    sleep(seconds)
    after = _busy_ticks(stat)
    assert after is not None
    return round((after - before) / os.sysconf("SC_CLK_TCK") / seconds, 2)


def _busy_ticks(stat: Path) -> int | None:
    try:
        first = stat.read_text().partition("\n")[0].split()
    except OSError:
        return None
    # cpu user nice system idle iowait irq softirq steal; guests' time is part of the first two.
    return sum(map(int, first[1:4])) + sum(map(int, first[6:9]))


def was_disturbed(control_s: Sequence[float], others: Sequence[float | None]) -> bool:
    """Return whether a run's figures are in doubt.

    From the times of the fixed work, and the cores that others kept busy.
    """
    moved = max(control_s) / min(control_s) > 1 + MOVED
    return moved or any(busy is not None and busy > OTHERS for busy in others)


def machine(device: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    facts: dict[str, Any] = {
        "device": device,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": _versions("ray", "torch", "timm", "numpy", "diffusers"),
    }
    if device.startswith("cuda"):
        import torch

        facts["gpu"] = torch.cuda.get_device_name(torch.device(device))
        facts["cuda"] = torch.version.cuda
    return facts


def processor() -> str:
    """Return the processor's name."""
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


@dataclass(frozen=True)
class Watch:
    """Probes of whether the machine is quiet: fixed work, the work of others, and the load."""

    control: Callable[[], float] = control
    busy_cores: Callable[[], float | None] = busy_cores
    load: Callable[[], float] = lambda: os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def record(module: Any, context: Context, watch: Watch = Watch()) -> dict[str, Any]:
    """Run one benchmark in this process; return its record, also when it failed."""
    entry: dict[str, Any] = {"id": module.ID, "title": module.TITLE, "machine": machine(context.device)}
    load = watch.load()
    others = [watch.busy_cores()]
    before, start = watch.control(), time.perf_counter()
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
    after, seconds = watch.control(), time.perf_counter() - start
    others.append(watch.busy_cores())
    entry |= {
        "seconds": round(seconds, 1),
        "load_before": round(load, 2),
        "control_ms": [round(before * 1000, 1), round(after * 1000, 1)],
        "others_busy": others,
        "disturbed": was_disturbed([before, after], others),
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }
    return entry


def dumps(records: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(records, indent=1, sort_keys=True, default=str) + "\n"
