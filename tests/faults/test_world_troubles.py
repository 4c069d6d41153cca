"""A disk that fills, images that are broken, a clock that jumps: typed outcomes, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.fake_endpoint import FakeEndpoint, Reply, Seen
from tests.faults.world import ROUNDS, CommandLine, answers, driver, labels, script, write_world

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

UNITS = ("0", "--units", "0-5")
AGENTS = 3
DISK_MB = 80


class Disk:
    """A small disk of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self, leave_mb: int = 0) -> None:
        """Fill the disk but for `leave_mb`, to the last byte if that is 0."""
        with self._ballast.open("ab", buffering=0) as file:
            while True:
                free = os.statvfs(self.root).f_bavail * os.statvfs(self.root).f_frsize - leave_mb * 2**20
                if free <= 0:
                    return
                try:
                    file.write(bytes(min(free, 2**20)))
                except OSError:
                    return

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid():
        pytest.skip("only root can mount a disk")
    root = tmp_path / "disk"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(root)], check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let a disk be mounted")
    yield Disk(root)
    subprocess.run(["umount", "-l", str(root)], check=True)


class Endpoint(FakeEndpoint):
    """Lets something happen when the n-th call arrives."""

    def __init__(self) -> None:
        super().__init__(self._reply_and_watch, probed=True)
        self.at, self.happens = 0, lambda: None

    def _reply_and_watch(self, seen: Seen) -> str | Reply:
        if self.at and len(self.seen) >= self.at:
            self.at = 0
            self.happens()
        return script(seen)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as started:
        yield started
        assert started.complaints == []


@pytest.fixture(scope="module")
def config(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("troubles")
    return write_world(folder, endpoint, ray={"address": "local"}, agents=AGENTS)


@pytest.fixture
def maia(ray_cluster: None, config: Path, monkeypatch, capsys) -> CommandLine:
    return CommandLine(config, monkeypatch, capsys)


@pytest.mark.root
@pytest.mark.exhaustive
def test_a_disk_that_fills_stops_the_run_blames_no_unit_and_loses_nothing(
    maia: CommandLine, endpoint: Endpoint, disk: Disk, tmp_path: Path
) -> None:
    assert maia("sweep", *UNITS, "--out", str(tmp_path / "undisturbed"))[0] == 0
    undisturbed = labels(tmp_path / "undisturbed")
    for name, leave_mb, doubtful in (("full", 0, AGENTS), ("nearly-full", 16, 0)):
        out = disk.root / name
        before = len(endpoint.seen)
        endpoint.at, endpoint.happens = before + 9, lambda leave_mb=leave_mb: disk.fill(leave_mb)
        code, summary = maia("sweep", *UNITS, "--out", str(out))
        assert code == 1, summary
        assert summary["stopped"]["type"] == "StoreError"
        assert "Free some space" in summary["stopped"]["fix"]
        assert summary["failed"] == 0
        assert summary["done"] < 6
        disk.free()
        code, summary = maia("sweep", *UNITS, "--out", str(out))
        assert (code, summary["done"], summary["stopped"]) == (0, 6, None)
        assert labels(out) == undisturbed
        assert answers(out) == 6 * ROUNDS
        repeated = len(endpoint.seen) - before - answers(out)
        assert 0 <= repeated <= doubtful, f"{name}: {repeated} calls were asked twice"


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out_and_named(maia: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (40 + number, 50, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
    whole = (folder / "03.jpg").read_bytes()
    (folder / "03.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "11.jpg").write_text("this is no image")
    (folder / "17.jpg").write_bytes(b"")
    out = tmp_path / "run"
    asked = ("sweep", "0", "--units", "3-4", "--data", str(folder), "--out", str(out))
    assert maia(*asked)[0] == 2  # 21 images are few
    code, summary = maia(*asked, "--few-images")
    assert (code, summary["done"], summary["failed"]) == (0, 2, 0)
    assert {name[-6:] for name in summary["skipped_images"]} == {"03.jpg", "11.jpg", "17.jpg"}


JUMPING_CLOCK = """
import sys
if any("experiments" in word or "default_worker" in word for word in (*sys.orig_argv, *sys.argv)):
    import time

    true_time, steady = time.time, time.monotonic
    time.time = lambda: true_time() + (86400.0, -86400.0, 0.0, 3e8)[int(steady()) % 4]
"""


@pytest.mark.exhaustive
def test_a_clock_that_jumps_by_days_changes_nothing(config: Path, tmp_path: Path) -> None:
    with driver(config, tmp_path / "steady", "0-5") as run:
        assert run.wait() == 0, run.output()
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(JUMPING_CLOCK)
    with driver(config, tmp_path / "jumping", "0-5", env={"PYTHONPATH": str(hook)}) as run:
        assert run.wait() == 0, run.output()
    assert labels(tmp_path / "jumping") == labels(tmp_path / "steady")
    assert len(labels(tmp_path / "jumping")) == 6
