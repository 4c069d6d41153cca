"""A Ray cluster on this machine that outlives the command that started it.

It is started in a session of its own and ended by that session, never by name: another Ray on the same
machine is not touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from actors.cluster import machine, private_folder
from actors.cluster.connection import inherited_environment, prepare_authentication
from actors.cluster.settings import RaySettings
from actors.errors import UsageError

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0


class HeadFacts(BaseModel, frozen=True):
    """The record of a running cluster, kept as JSON."""

    address: str
    """The head's host:port."""
    pid: int
    """The process that started it, which leads its session."""
    log: str
    dashboard: str | None = None
    """The dashboard's URL."""


def wait_for_start(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return what Ray printed until it ran."""
    end = time.monotonic() + _START_TIMEOUT_S
    while "--block" not in (output := log.read_text()) and "Ray runtime started" not in output:
        if process.poll() is not None or time.monotonic() > end:
            last = (output.strip().splitlines() or ["it printed nothing"])[-1]
            raise UsageError(f"Ray did not start: {last}", f"Read {log}.")
        time.sleep(0.2)
    return output


class LocalHead:
    """The cluster whose facts are kept in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
        wait_for_start: Callable[[subprocess.Popen[bytes], Path], str] = wait_for_start,
        dashboard_port: int = 8265,
    ) -> None:
        """`dashboard_port` is the first that is tried; tests pass in the others."""
        self._facts, self._log = folder / "cluster.json", folder / "cluster.log"
        self._start, self._wait_for_start, self._dashboard_port = start, wait_for_start, dashboard_port

    def up(self, settings: RaySettings, port: int) -> HeadFacts:
        """Start the cluster, with token authentication, and return its facts.

        Raises:
            UsageError: If it runs already, the port is taken, the folder cannot be written, or Ray does not
                start.
        """
        with self._locked():
            return self._up(settings, port)

    def _up(self, settings: RaySettings, port: int) -> HeadFacts:
        if (running := self.status()) is not None:
            raise UsageError(
                f"a cluster of this command runs already at {running.address}.", "maia cluster down"
            )
        if not _free(port):
            raise UsageError(f"port {port} is taken.", "Choose another with --port.")
        machine.ensure(machine.Environment(settings=settings))
        prepare_authentication()
        folder = private_folder.make()
        store, place = machine.store_place(settings, machine.SHARED_MEMORY, folder.path)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--port", str(port), "--disable-usage-stats"]
        command += ["--include-dashboard", str(settings.dashboard).lower(), "--dashboard-host", "127.0.0.1"]
        dashboard = None
        if settings.dashboard:
            # Another cluster of this machine may have the usual one.
            free_port = next(other for other in range(self._dashboard_port, 65536) if _free(other))
            dashboard = f"http://127.0.0.1:{free_port}"
            command += ["--dashboard-port", str(free_port)]
        command += ["--temp-dir", str(folder.ray), "--object-store-memory", str(store)]
        command += [] if place is None else ["--plasma-directory", str(place)]
        command += [] if settings.num_cpus is None else ["--num-cpus", str(settings.num_cpus)]
        command += [] if settings.num_gpus is None else ["--num-gpus", str(settings.num_gpus)]
        given = {name: os.environ[name] for name in machine.RAY_VARIABLES_KEPT & os.environ.keys()}
        given.pop("RAY_AUTH_TOKEN", None)
        with inherited_environment(settings, given), self._log.open("w") as log:
            process = self._start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(folder.lock,),  # it keeps the folder while it lives
            )
        folder.release()
        facts = HeadFacts(
            address=f"127.0.0.1:{port}", pid=process.pid, log=str(self._log), dashboard=dashboard
        )
        try:
            # Written already: should this process be killed while it waits, `down` finds what it has started.
            self._facts.write_text(facts.model_dump_json(exclude_none=True))
            address = f"{_own_address(self._wait_for_start(process, self._log))}:{port}"
            facts = facts.model_copy(update={"address": address})
            self._facts.write_text(facts.model_dump_json(exclude_none=True))
        except BaseException:  # Ctrl-C as well: it would run unnoticed
            self._end(process.pid)
            process.wait()
            self._facts.unlink(missing_ok=True)
            raise
        return facts

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
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

    def status(self) -> HeadFacts | None:
        """Return the facts of the cluster if it runs, else None."""
        try:
            facts = HeadFacts.model_validate_json(self._facts.read_bytes())
            command = Path(f"/proc/{facts.pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return facts if b"ray.scripts" in command else None

    def down(self) -> bool:
        """End the cluster with all its processes; False if it does not run."""
        with self._locked():
            facts = self.status()
            if facts is None:
                return False
            self._end(facts.pid)
            self._facts.unlink(missing_ok=True)
            return True

    def _end(self, pid: int) -> None:
        """Ask the starter to end its processes; then make sure of its whole session."""
        members = _session(pid)
        for signum, grace_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            for member in [pid] if signum == signal.SIGTERM else members:
                try:
                    os.kill(member, signum)
                except ProcessLookupError:
                    continue
            end = time.monotonic() + grace_s
            while time.monotonic() < end and (members := [member for member in members if _alive(member)]):
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
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            members.append(int(folder.name))
    return members


def _alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def _own_address(output: str) -> str:
    # With some of its extras installed, Ray writes color codes into files as well.
    for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines():
        if "Local node IP" in line:
            return line.rpartition(":")[2].strip()
    return "127.0.0.1"
