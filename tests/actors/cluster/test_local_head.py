"""`maia cluster up`: one cluster a folder, also with concurrent commands, and no process that is not on
record.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from actors.cluster.local_head import LocalHead
from actors.cluster.settings import RaySettings
from actors.errors import UsageError

SETTINGS = RaySettings(num_cpus=1, object_store_mb=80)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def starters(port: int) -> list[psutil.Process]:
    """Return the processes that hold a cluster of this port."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "ray.scripts.scripts" in words and str(port) in words:
            found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # as it is meant to be
def test_one_of_two_concurrent_starts_fails_and_one_cluster_runs(tmp_path: Path) -> None:
    ports = free_port(), free_port()

    def up(port: int) -> str:
        try:
            return str(LocalHead(tmp_path).up(SETTINGS, port).address)
        except UsageError as error:
            return error.message

    try:
        with ThreadPoolExecutor() as pool:
            results = list(pool.map(up, ports))
        running = LocalHead(tmp_path).status()
        assert running is not None
        assert sorted(results) == sorted(
            [running.address, f"a cluster of this command runs already at {running.address}."]
        )
        assert sum(len(starters(port)) for port in ports) == 1
    finally:
        assert LocalHead(tmp_path).down()
    assert not LocalHead(tmp_path).down()
    assert not any(starters(port) for port in ports)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_anything_listens_on_is_taken(address: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((address, 0))
        other.listen()
        with pytest.raises(UsageError, match=r"port \d+ is taken"):
            LocalHead(tmp_path).up(SETTINGS, other.getsockname()[1])


def test_a_dashboard_gives_way_to_another(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    class Process:
        pid = 2**22 + 1

        def __init__(self, command: list[str], **_: object) -> None:
            asked.append(command)

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        head = LocalHead(
            tmp_path,
            start=Process,  # type: ignore[arg-type]
            wait_for_start=lambda *_: "Local node IP: 192.0.2.7",
            dashboard_port=taken,
        )
        facts = head.up(RaySettings(dashboard=True), free_port())
    port = asked[0][asked[0].index("--dashboard-port") + 1]
    assert int(port) > taken
    assert facts.dashboard == f"http://127.0.0.1:{port}"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/cache cannot be written"):
        LocalHead(tmp_path / "file" / "cache").up(SETTINGS, free_port())


@pytest.mark.ray
def test_a_start_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    port = free_port()
    with pytest.raises(KeyboardInterrupt):
        LocalHead(tmp_path, wait_for_start=interrupted).up(SETTINGS, port)
    assert not starters(port)
    assert LocalHead(tmp_path).status() is None


KILLED = """
import os, signal, sys
from pathlib import Path
from actors.cluster.settings import RaySettings
from actors.cluster.local_head import LocalHead

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

LocalHead(Path(sys.argv[1]), wait_for_start=killed).up(RaySettings(num_cpus=1), int(sys.argv[2]))
"""


@pytest.mark.ray
def test_a_start_that_is_killed_can_be_ended_by_the_next_command(tmp_path: Path) -> None:
    port = free_port()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(port)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert starters(port)
    with pytest.raises(UsageError, match="runs already"):
        LocalHead(tmp_path).up(SETTINGS, port)
    assert LocalHead(tmp_path).down()
    assert not starters(port)
    assert LocalHead(tmp_path).status() is None
