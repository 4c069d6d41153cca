"""The cost of a sandbox: starting one, calling a tool, moving an image, keeping many, and losing the host.

    python -m benchmarks.bench_sandbox [--json PATH] [--alive 200]

Prints a Markdown table with the bound that each figure must keep, and exits with 1 if one does not.
The tool host answers at once, so a round trip is the sandbox's own share of a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.images import Image
from tools.sandbox import SandboxServer, SandboxSettings, SandboxUnavailableError, start
from tools.sandbox.kernel import KernelSandbox

SETTINGS = SandboxSettings(max_calls=100_000, max_images=100_000, max_bytes=8 << 30, kept_bytes=1 << 30)
SIDE = 224
"""224 x 224 RGB pixels are 150,528 bytes."""


@dataclass(frozen=True)
class Row:
    """One figure; `bound` is what it may be at most, None where there is no promise."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    note: str = ""

    @property
    def kept(self) -> bool:
        return self.bound is None or self.value <= self.bound


class InstantHost:
    """Answers every call with next to nothing."""

    def __init__(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        self.image = Image.from_pixels(pixels)

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        if method == "text2image":
            return {"images": [self.image], "notes": []}
        return {"experiment_log": [], "results_list": [], "activation_threshold": None}


TIMING = """
import time
def timed(function, times):
    spent = []
    for _ in range(times):
        began = time.perf_counter(); function(); spent.append(time.perf_counter() - began)
    return sorted(spent)[len(spent) // 2]
"""
CALLS = TIMING + "def run_experiment(system, tools): return timed(lambda: tools.experiment_log, 3000)"
IMAGES = (
    TIMING
    + """
import numpy as np
image = tools.text2image(["x"])[0]
arrays = [np.random.default_rng(n).integers(0, 256, (224, 224, 3), dtype=np.uint8) for n in range(200)]
def run_experiment(system, tools):
    queue = iter(arrays)
    values = tools._values
    return [timed(lambda: values._fetch(image.id), 300), timed(lambda: values.image(next(queue)), 200)]
"""
)


def cold_ms(code: str, times: int = 7) -> float:
    """Return the median time of a fresh interpreter that runs `code`."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-s", "-c", code], check=True)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(times)) * 1e3


def private_bytes(pid: int) -> int:
    """Return what would be freed if the process ended (USS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


async def value(sandbox: Any, program: str, host: InstantHost) -> Any:
    outcome = await sandbox.run(program, host)
    if outcome.status != "ok":
        raise RuntimeError(f"{outcome.status}: {outcome.error}")
    return outcome.value


async def opening(server: SandboxServer, times: int) -> list[float]:
    """Return the seconds from asking for a sandbox to its being ready, one after another."""
    spent = []
    for seed in range(times):
        began = time.perf_counter()
        sandbox = await server.open(seed=seed)
        spent.append(time.perf_counter() - began)
        await sandbox.close()
    return spent


async def kernel_rows(alive: int) -> list[Row]:
    began = time.perf_counter()
    server = await start(SETTINGS.model_copy(update={"executor": "cpython"}))
    boot_ms = (time.perf_counter() - began) * 1e3
    host = InstantHost()
    async with server:
        rows = [
            Row("cold start of an interpreter", cold_ms("pass"), "ms"),
            Row("cold start with numpy, PIL, msgpack", cold_ms("import numpy, PIL.Image, msgpack"), "ms"),
            Row("start of the fork server with its self-test", boot_ms, "ms", note=f"tier {server.tier}"),
        ]
        spent = sorted(await opening(server, 100))
        rows.append(Row("new sandbox from the fork server, median", spent[50] * 1e3, "ms", 10))
        rows.append(Row("new sandbox from the fork server, 95th percentile", spent[95] * 1e3, "ms"))
        sandbox = await server.open(seed=0)
        rows.append(Row("empty program", await empty_us(sandbox, host), "us"))
        rows.append(Row("round trip of a call, median", await value(sandbox, CALLS, host) * 1e6, "us", 100))
        to_child, to_host = await value(sandbox, IMAGES, host)
        rows.append(Row("150 KB image to the program, median", to_child * 1e3, "ms", 0.6))
        rows.append(Row("150 KB image from the program, median", to_host * 1e3, "ms", 0.6))
        await sandbox.close()
        rows += await crowd(server, host, alive)
    return rows


async def empty_us(sandbox: Any, host: InstantHost) -> float:
    spent = []
    for _ in range(300):
        began = time.perf_counter()
        await sandbox.run("x = 1", host)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent) * 1e6


async def crowd(server: SandboxServer, host: InstantHost, alive: int) -> list[Row]:
    """Keep many sandboxes at once: time to open, memory of each, and all of them working."""
    began = time.perf_counter()
    sandboxes = [await server.open(seed=seed) for seed in range(alive)]
    each_ms = (time.perf_counter() - began) / alive * 1e3
    await asyncio.gather(
        *(value(sandbox, "import numpy\nx = numpy.arange(9)", host) for sandbox in sandboxes)
    )
    kernel = [sandbox for sandbox in sandboxes if isinstance(sandbox, KernelSandbox) and sandbox.pid]
    private = [private_bytes(sandbox.pid or 0) for sandbox in kernel]
    began = time.perf_counter()
    sums = await asyncio.gather(
        *(value(sandbox, "def run_experiment(s, t): return int(x.sum())", host) for sandbox in sandboxes)
    )
    spent_ms = (time.perf_counter() - began) * 1e3
    if sums != [36] * alive:
        raise RuntimeError("a sandbox lost its variables")
    for sandbox in sandboxes:
        await sandbox.close()
    return [
        Row(f"new sandbox while {alive} stay open, mean", each_ms, "ms"),
        Row(
            f"private memory of an idle sandbox among {alive}, median",
            statistics.median(private) / 2**20,
            "MiB",
            6,
        ),
        Row(f"one program in each of {alive} sandboxes", spent_ms, "ms"),
    ]


async def monty_rows() -> list[Row]:
    host = InstantHost()
    async with await start(SETTINGS.model_copy(update={"executor": "monty"})) as server:
        spent = sorted(await opening(server, 30))
        sandbox = await server.open(seed=0)
        program = "def run_experiment(system, tools):\n  for _ in range(1000): tools.experiment_log"
        began = time.perf_counter()
        await value(sandbox, program, host)
        call_us = (time.perf_counter() - began) * 1e3
        await sandbox.close()
    return [
        Row("monty: new sandbox, median", spent[15] * 1e3, "ms"),
        Row("monty: round trip of a call, mean", call_us, "us"),
    ]


HOST = """
import asyncio
from benchmarks.bench_sandbox import SETTINGS, InstantHost
from tools.sandbox import start
async def main():
    server = await start(SETTINGS.model_copy(update={"executor": "cpython"}))
    boxes = [await server.open(seed=seed) for seed in range(%d)]
    busy = [asyncio.create_task(box.run("while True: pass", InstantHost())) for box in boxes[::10]]
    await asyncio.sleep(0.2)
    print(*(box.pid for box in boxes), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def seconds_until_all_are_gone(alive: int) -> float:
    """Kill a host with `alive` sandboxes, a tenth of them busy; return how long the last one lived."""
    host = subprocess.Popen([sys.executable, "-c", HOST % alive], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pids = [int(pid) for pid in host.stdout.readline().split()]
    parent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    began = time.perf_counter()
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    host.stdout.close()
    while any(map(_runs, [parent, *pids])):
        if time.perf_counter() - began > 30:
            raise RuntimeError("sandboxes outlived their host by 30 s")
        time.sleep(0.001)
    return time.perf_counter() - began


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | measured | at most | note |", "|---|---:|---:|---|"]
    for row in rows:
        bound = "" if row.bound is None else f"{row.bound:g} {row.unit}"
        mark = "" if row.kept else " (missed)"
        lines.append(f"| {row.name} | {row.value:.3g} {row.unit}{mark} | {bound} | {row.note} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--alive", type=int, default=200, help="sandboxes that are kept at once")
    options = parser.parse_args()
    rows = asyncio.run(kernel_rows(options.alive))
    gone = seconds_until_all_are_gone(options.alive)
    rows.append(Row(f"all of {options.alive} gone after kill -9 of the host", gone, "s", 1))
    try:
        rows += asyncio.run(monty_rows())
    except SandboxUnavailableError as error:
        print(f"monty is left out: {error.message}", file=sys.stderr)
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    print(f"{machine}, uid {os.geteuid()}\n\n{table(rows)}")
    if options.json is not None:
        figures = {
            "machine": machine,
            "uid": os.geteuid(),
            "rows": [asdict(row) | {"kept": row.kept} for row in rows],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all(row.kept for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
