"""Real servers for tests: each is installed into an environment of its own, started on loopback, and ended
with its children.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL_S = 400
START_S = 120


@dataclass(frozen=True)
class Environment:
    """A virtual environment with pinned packages; with `beside`, it also sees this project's packages."""

    name: str
    packages: tuple[str, ...]
    beside: bool = False
    without_dependencies: tuple[str, ...] = ()

    def python(self) -> Path:
        """Return its interpreter, installed if it is not there yet; skip the test where it cannot be.

        The folder is `MAIA_SERVERS`, else below the user's cache.
        """
        base = Path(os.environ.get("MAIA_SERVERS") or Path.home() / ".cache" / "maia-servers")
        digest = hashlib.sha256(repr((self, sys.version, sys.prefix)).encode()).hexdigest()[:12]
        folder = base / f"{self.name}-{digest}"
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                self._install(folder, python)
            except subprocess.SubprocessError as error:
                said = getattr(error, "stderr", None) or str(error)
                pytest.skip(f"{self.name} cannot be installed here: {said[-300:]}")
            (folder / "complete").touch()
        return python

    def _install(self, folder: Path, python: Path) -> None:
        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)

        run(sys.executable, "-m", "venv", folder)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary")
        if self.beside:
            paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
            packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
            (packages / "beside.pth").write_text("\n".join(paths))
            run(*pip, "-c", ROOT / "constraints.txt", *self.packages)
        else:
            run(*pip, *self.packages)
        if self.without_dependencies:
            run(*pip, "--no-deps", *self.without_dependencies)


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    base_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_asked(self) -> None:
        """Return once a client is connected whose request has been read; there is no event that tells."""
        while not self._is_asked():
            time.sleep(0.005)

    def _is_asked(self) -> bool:
        port = f":{urllib.parse.urlsplit(self.base_url).port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return any(row[1].endswith(port) and row[3] == "01" and row[4].endswith(":00000000") for row in rows)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str | Path],
    port: int,
    folder: Path,
    *,
    ready: str = "/health",
    api: str = "/v1",
    until: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a server's command until the block ends, and then end all of its processes.

    It is ready when `ready` gets an answer, with the status `until` if one is given. The test is skipped,
    with the end of the server's log, where it does not start.
    """
    log = folder / f"server-{port}.log"
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(environ or {})}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=variables, cwd=folder, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}{api}", process, log)
    try:
        if not _answers(f"http://127.0.0.1:{port}{ready}", process, until):
            end = log.read_text(errors="replace")[-1500:]
            pytest.skip(f"the server did not start within {START_S} s: {end}")
        yield server
    finally:
        _end(server)


def _answers(url: str, process: subprocess.Popen[bytes], status: int | None) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            direct.open(url, timeout=5).close()
            return True
        except urllib.error.HTTPError as error:
            error.close()
            if status in (None, error.code):
                return True
        except OSError:
            pass
        time.sleep(0.1)  # there is no event to wait for: another program is starting
    return False


def _end(server: Server) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(20)
    server.kill()
