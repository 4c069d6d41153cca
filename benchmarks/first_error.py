"""The time until a command reports an endpoint that cannot work: wrong key, address, chat or image model.

Each command is a new process, as a user starts it, and asks a scripted server on loopback. Seconds grow with
what else the machine does, so the target is on processor seconds: of `describe` and `sweep`, which end when
they have told, and which are hardly ever on two cores at once.
"""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Context, Metric, Result, Table
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint
from tests.fake_images import IMAGE_MODEL, FakeImages

ID = "B19"
TITLE = "first error: seconds until a command says that an endpoint cannot work"

KEY_ENV = "SCRIPTED_KEY"
COMMANDS = {
    "describe": "describe tf_efficientnet_lite0 blocks.6 91",
    "sweep": "sweep tf_efficientnet_lite0 blocks.6 --units all",
    "doctor --ask": "doctor --ask",
}
TOLD = {
    "key": "does not accept the key",
    "address": "unreachable",
    "chat model": "Nearest that it lists",
    "image model": "no-such-images",
}


def profile(url: str, wrong: str) -> dict[str, Any]:
    """Return a profile with one thing wrong of which an endpoint, or the way to it, is at fault."""
    if wrong == "address":
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    common = {"base_url": url, "api_key_env": KEY_ENV}
    chat = {"backend": "openai", "model": "fake-vln" if wrong == "chat model" else MODEL, **common}
    images = "no-such-images" if wrong == "image model" else IMAGE_MODEL
    maker = {"backend": "openai-images", "model": images, **common}
    return {"extends": "embedded", "chat": {"interpreter": chat}, "generation": maker}


def measure(command: str, message: str, folder: Path, environ: Mapping[str, str]) -> tuple[float, float, int]:
    """Return seconds until a command prints `message` (NaN: never), its processor seconds and exit code."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    program = str(Path(sys.executable).with_name("maia"))
    line = [program, *command.split(), "--config", "own.yaml", "--profile", "own"]
    seconds = math.nan
    with subprocess.Popen(
        line, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            if math.isnan(seconds) and message in printed:
                seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, process.returncode


def measured(server: FakeEndpoint, command: str, wrong: str, rounds: int) -> list[tuple[float, float, int]]:
    """Return what `measure` does, so many times, each with the cache that the ones before left."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # JSON is YAML.
        (folder / "own.yaml").write_text(json.dumps({"profiles": {"own": profile(server.base_url, wrong)}}))
        key = "sk-wrong-2c7f11d0aa" if wrong == "key" else KEY
        environ = {**os.environ, KEY_ENV: key, "MAIA_CACHE": str(folder / "cache"), "COLUMNS": "400"}
        return [measure(command, TOLD[wrong], folder, environ) for _ in range(rounds)]


def run(context: Context) -> Result:
    rounds = 1 if context.quick else 5
    rows: list[tuple[Any, ...]] = []
    with FakeEndpoint(lambda _: "red, blue", routes=FakeImages().routes) as server:
        for wrong in TOLD:
            for name, command in COMMANDS.items():
                found = measured(server, command, wrong, rounds)
                failed = all(code == 2 and not math.isnan(seconds) for seconds, _, code in found)
                context.check(f"{name}, wrong {wrong}: told, exit code 2", failed)
                rows.append((name, wrong, *(statistics.median(each[i] for each in found) for i in (0, 1))))
    before_work = [row for row in rows if row[0] != "doctor --ask"]
    return Result(
        [
            Metric("seconds until it is told, the slowest of all", max(row[2] for row in rows), "s"),
            Metric(
                "processor seconds, the most of describe and sweep",
                max(row[3] for row in before_work),
                "s",
                "<= 3",
            ),
        ],
        [
            Table(
                f"Medians of {rounds}; `doctor --ask` goes on to test the machine after it has told",
                ("command", "wrong", "seconds until told", "processor seconds of all"),
                tuple(rows),
            )
        ],
    )
