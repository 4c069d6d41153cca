"""A Ray cluster on this machine that outlives the command that started it.

It is started in a session of its own and ended by that session, never by name: another Ray on the same
machine is not touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.cluster import machine
from actors.cluster import private_folder as own_folder
from actors.cluster.connection import inherited_environment, prepare_authentication
from actors.cluster.settings import RaySettings
from actors.errors import UsageError

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0
_DASHBOARD_PORT = 8265


class LocalHead:
    """The cluster whose facts are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._facts, self._log = folder / "cluster.json", folder / "cluster.log"

    def up(self, settings: RaySettings, port: int) -> dict[str, Any]:
        """Start the cluster, with token authentication, and return its facts.

        Raises:
            UsageError: If it runs already, the port is taken, the folder cannot be written, or Ray does not
                start.
        """
        with self._alone():
            return self._up(settings, port)

    def _up(self, settings: RaySettings, port: int) -> dict[str, Any]:
        if (facts := self.status()) is not None:
            raise UsageError(
                f"a cluster of this command runs already at {facts['address']}.", "maia cluster down"
            )
        if not _free(port):
            raise UsageError(f"port {port} is taken.", "Choose another with --port.")
        machine.ensure(machine.Surroundings(settings=settings))
        prepare_authentication()
        folder = own_folder.make()
        store, place = machine.store_place(settings, machine.SHARED_MEMORY, folder.path)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--port", str(port), "--disable-usage-stats"]
        command += ["--include-dashboard", str(settings.dashboard).lower(), "--dashboard-host", "127.0.0.1"]
        dashboard = ""
        if settings.dashboard:
            # Another cluster of this machine may have the usual one.
            at = next(each for each in range(_DASHBOARD_PORT, 65536) if _free(each))
            dashboard = f"http://127.0.0.1:{at}"
            command += ["--dashboard-port", str(at)]
        command += ["--temp-dir", str(folder.ray), "--object-store-memory", str(store)]
        command += [] if place is None else ["--plasma-directory", str(place)]
        command += [] if settings.num_cpus is None else ["--num-cpus", str(settings.num_cpus)]
        command += [] if settings.num_gpus is None else ["--num-gpus", str(settings.num_gpus)]
        given = {name: os.environ[name] for name in machine.RAY_VARIABLES_KEPT & os.environ.keys()}
        given.pop("RAY_AUTH_TOKEN", None)
        with inherited_environment(settings, given), self._log.open("w") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(folder.lock,),  # it keeps the folder while it lives
            )
        folder.release()
        facts = {"address": f"127.0.0.1:{port}", "pid": process.pid, "log": str(self._log)}
        facts |= {"dashboard": dashboard} if dashboard else {}
        try:
            # Noted already: should this process be killed while it waits, `down` finds what it has started.
            self._facts.write_text(json.dumps(facts))
            facts["address"] = f"{_own_address(self._started(process))}:{port}"
            self._facts.write_text(json.dumps(facts))
        except BaseException:  # Ctrl-C as well: nobody would know of it
            self._end(process.pid)
            process.wait()
            self._facts.unlink(missing_ok=True)
            raise
        return facts

    def _started(self, process: subprocess.Popen[bytes]) -> str:
        """Return what Ray said until it ran."""
        end = time.monotonic() + _START_TIMEOUT_S
        while "--block" not in (told := self._log.read_text()) and "Ray runtime started" not in told:
            if process.poll() is not None or time.monotonic() > end:
                last = (told.strip().splitlines() or ["it said nothing"])[-1]
                raise UsageError(f"Ray did not start: {last}", f"Read {self._log}.")
            time.sleep(0.2)
        return told

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time start or end the cluster."""
        try:
            self._facts.parent.mkdir(parents=True, exist_ok=True)
            lock = self._facts.with_suffix(".lock").open("w")
        except OSError as error:
            raise UsageError(
                f"the cache {self._facts.parent} cannot be written ({error.strerror}).",
                "Set cache_dir in the configuration, or MAIA_CACHE.",
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def status(self) -> dict[str, Any] | None:
        """Return the facts of the cluster if it runs, else None."""
        try:
            facts: dict[str, Any] = json.loads(self._facts.read_text())
            command = Path(f"/proc/{facts['pid']}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError):
            return None
        return facts if b"ray.scripts" in command else None

    def down(self) -> bool:
        """End the cluster with all its processes; False if it does not run."""
        with self._alone():
            facts = self.status()
            if facts is None:
                return False
            self._end(facts["pid"])
            self._facts.unlink(missing_ok=True)
            return True

    def _end(self, pid: int) -> None:
        """Ask the starter to end its processes; then make sure of its whole session."""
        members = _session(pid)
        for signum, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            for member in [pid] if signum == signal.SIGTERM else members:
                try:
                    os.kill(member, signum)
                except ProcessLookupError:
                    continue
            end = time.monotonic() + patience_s
            while time.monotonic() < end and (members := [one for one in members if _alive(one)]):
                time.sleep(0.1)
            if not members:
                return


def _free(port: int) -> bool:
    """Return whether a server could listen at a port of all this machine's addresses."""
    with socket.socket() as probe:
        # As a server does: a connection that was closed a moment ago is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _session(leader: int) -> list[int]:
    """Return the processes of a session, by Linux's record of them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(folder.name))
    return found


def _alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def _own_address(told: str) -> str:
    # With some of its extras installed, Ray writes in colours into files as well.
    for line in re.sub(r"\x1b\[[0-9;]*m", "", told).splitlines():
        if "Local node IP" in line:
            return line.rpartition(":")[2].strip()
    return "127.0.0.1"
