"""A quick world for runs that are to be disturbed: a tiny network, few scenes, a scripted model over real
HTTP.

The scripted label is a digest of everything that the agent was shown, so two runs have equal labels only if
every observation of every round was equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import maia
from tests.fake_endpoint import KEY, FakeEndpoint, Seen

ROOT = Path(__file__).resolve().parents[2]
N_UNITS = 40
ROUNDS = 4

NETWORK = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 48, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 7)
    )
    network.class_names = ["banana", "dog", "cat", "bicycle", "frobnicator", "kite", "tent"]
    return network
"""

_LOOK = """[HYPOTHESIS LIST]:
Hypothesis_1: colours
[CODE]:
```python
found = tools.dataset_exemplars(system)
tools.display(*[f"{activation:.2f}" for activation, image in found])
```"""
_TRY = """[CODE]:
```python
images = tools.text2image(["a banana on grass", "a dog on snow"])
activations, masked = system.call_neuron(images)
tools.log_experiment(activations, masked, ["banana", "dog"], "")
```"""


def script(seen: Seen) -> str:
    """Look, try twice, answer."""
    if seen.rounds == 0:
        return _LOOK
    if seen.rounds < ROUNDS - 1:
        return _TRY
    digest = hashlib.sha256("".join(seen.texts[2:]).encode()).hexdigest()[:12]
    if "[BIAS]" in seen.texts[1]:
        return f"[BIAS]: none found, shown {digest}"
    return f"[DESCRIPTION]: what was shown.\n[LABEL]: shown {digest}"


def write_world(folder: Path, endpoint: FakeEndpoint, *, ray: dict[str, Any], **sweep: Any) -> Path:
    """Write network and configuration; return the configuration's path."""
    (folder / "tiny.py").write_text(NETWORK)
    profile = {
        "dataset": "scenes:60:0",
        "ray": ray,
        "vision": {"batch": 16, "placement": {"threads": 1}},
        "confirmation": None,
        "sweep": sweep,
        "chat": {
            "interpreter": {
                "backend": "openai",
                "model": "fake-vlm",
                "base_url": endpoint.base_url,
                "api_key_env": "FAKE_KEY",
                "max_concurrent": 512,
                "backoff_s": 0.1,
                "attempt_timeout_s": 20,
                "price": {"prompt": 1.0, "completion": 4.0},
            }
        },
    }
    path = folder / "ray_config.yaml"
    path.write_text(json.dumps({"default_profile": "faults", "profiles": {"faults": profile}}))
    return path


class CommandLine:
    """The command line in this process, over the tests' Ray and the world that `write_world` wrote."""

    def __init__(self, config: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._config, self._capture = config, capture
        patch.setenv("FAKE_KEY", KEY)
        patch.setenv("MAIA_CACHE", str(config.parent / "cache"))

    def __call__(self, command: str, *arguments: str) -> tuple[int, Any]:
        """Run a command; return its exit code and its JSON, or what it said on stderr."""
        named = (f"python:{self._config.parent / 'tiny.py'}:build",) if command in ("sweep", "audit") else ()
        configured = ("--config", str(self._config)) if command in ("sweep", "audit", "branch") else ()
        code = maia(command, *named, *arguments, *configured, "--json")
        printed = self._capture.readouterr()
        return code, json.loads(printed.out) if printed.out else printed.err


class Driver:
    """A `maia sweep` in a process of its own."""

    def __init__(
        self, config: Path, out: Path, units: str, *options: str, env: dict[str, str] | None = None
    ) -> None:
        folder = config.parent
        self.out = out
        self.log = (folder / f"{out.name}.log").open("a")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.cli.main",
                "sweep",
                f"python:{folder / 'tiny.py'}:build",
                "0",
                "--units",
                units,
                "--out",
                str(out),
                "--config",
                str(config),
                *options,
            ],
            cwd=ROOT,
            env={**os.environ, "FAKE_KEY": KEY, "MAIA_CACHE": str(folder / "cache"), **(env or {})},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait(self, timeout_s: float = 300) -> int:
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End the driver alone, as the kernel would when memory runs out: nothing is reported or closed."""
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        return Path(self.log.name).read_text()


@contextmanager
def driver(
    config: Path, out: Path, units: str = f"0-{N_UNITS - 1}", *options: str, env: dict[str, str] | None = None
) -> Iterator[Driver]:
    """Run a driver; whatever happens, it and its own processes end with the block."""
    started = Driver(config, out, units, *options, env=env)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()
        started.log.close()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 240) -> Any:
    """Return the condition's first true value."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout_s} s for {what}")


def labels(out: Path) -> dict[str, str]:
    """Return each finished unit's label."""
    found = {}
    for path in (out / "units").glob("*/done.json"):
        record = json.loads(path.read_bytes())
        assert record["unit"] not in found
        found[record["unit"]] = record["label"]
    return found


def answers(out: Path) -> int:
    """Return how many calls have an answer on record."""
    return sum(1 for _ in (out / "units").glob("*/calls/*.answer"))
