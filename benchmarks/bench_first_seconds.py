"""The first seconds of commands: what a person waits for before anything of their own is done.

    python -m benchmarks.bench_first_seconds RUN [--repeats 5] [--beside PYTHON] [--without-ray]

RUN is the folder of the demo's finished study; its cache is used, so everything is warm. Commands take turns,
and the medians are printed as Markdown: seconds on the clock, processor seconds of the command and what it
waited for, and their ratio to `python -c "import torch"` of the same sitting. `--beside` names the Python of
another checkout, whose commands take turns with these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNIT = ("tf_efficientnet_lite0", "blocks.6", "91", "--profile", "embedded")
FIRST_ROUND = "round 1,"


@dataclass(frozen=True)
class Command:
    """Words after `maia`, or after the interpreter. It is over when it ends, or says `until`."""

    name: str
    words: tuple[str, ...]
    python: bool = False
    until: str = ""


@dataclass(frozen=True)
class Taken:
    """What a command took, in seconds."""

    wall_s: float
    processor_s: float


def commands(run: str, out: str, with_ray: bool) -> list[Command]:
    """Return the commands: `run` is a finished study, and at `out` one is begun."""
    listed = [
        Command("import torch", ("-c", "import torch"), python=True),
        Command("maia --help", ("--help",)),
        Command("maia status", ("status", run)),
        Command("maia describe, finished", ("describe", *UNIT, "--out", run)),
        Command("maia layers, listed before", ("layers", UNIT[0], "--profile", "embedded")),
    ]
    if not with_ray:
        return listed
    return [
        *listed,
        Command("Ray's start", ("-c", RAY), python=True),
        Command("maia describe, first round", ("describe", *UNIT, "--out", out), until=FIRST_ROUND),
    ]


RAY = """
import asyncio
from actors.serving.cluster import Cluster
async def main():
    async with Cluster.start():
        print("up", flush=True)
asyncio.run(main())
"""


def take(python: Path, command: Command) -> Taken:
    """Run a command in the checkout of `python`; one with `until` is interrupted where it says that.

    Raises:
        RuntimeError: If it fails.
    """
    begun, before = time.monotonic(), os.times()
    words = [str(python), *([] if command.python else ["-m", "maia_main"]), *command.words]
    process = subprocess.Popen(
        words, cwd=python.parents[2], text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if command.until and command.until in line:
            wall = time.monotonic() - begun
            process.send_signal(signal.SIGINT)
            break
    process.stderr.read()
    code = process.wait()
    if code != (130 if command.until else 0):
        raise RuntimeError(f"{command.name} ended with {code}: {seen}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(wall if command.until else time.monotonic() - begun, spent)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--without-ray", action="store_true")
    given = parser.parse_args(arguments)
    pythons = [Path(sys.executable), *([given.beside] if given.beside else [])]
    run = str(Path(given.run).resolve())
    taken: dict[tuple[str, Path], list[Taken]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats):
            for command in commands(run, f"{folder}/run", not given.without_ray):
                for python in pythons:
                    shutil.rmtree(f"{folder}/run", ignore_errors=True)
                    taken.setdefault((command.name, python), []).append(take(python, command))
    median = {
        key: Taken(
            *(statistics.median(getattr(each, name) for each in all_of) for name in ("wall_s", "processor_s"))
        )
        for key, all_of in taken.items()
    }
    print("| command | checkout | seconds | processor seconds | x `import torch` |\n|---|---|---|---|---|")
    for (name, python), took in median.items():
        ratio = took.processor_s / median["import torch", python].processor_s
        where = "this" if python == pythons[0] else "beside"
        print(f"| {name} | {where} | {took.wall_s:.2f} | {took.processor_s:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
