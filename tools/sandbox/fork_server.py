"""The host's end of the fork server: starts it, asks for children, learns how they ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio

from tools.sandbox.base import SandboxError, SandboxUnavailableError
from tools.sandbox.frames import ChannelClosedError, ProtocolError, SocketChannel
from tools.sandbox.settings import SandboxSettings

_CHILD = Path(__file__).parent / "child" / "__main__.py"
_LIBRARIES = ("numpy", "PIL", "msgpack")
_WALL_LIBRARIES = ("landlockpy", "pyseccomp")
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/usr/share/fonts",
    "/usr/share/zoneinfo",
    "/dev/urandom",
)
_LIBRARY = re.compile(r"lib[^/]*\.so(\.[0-9]+)*")
T = TypeVar("T")
_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 60.0
"""A killed process may wait for its turn on a loaded machine."""


@dataclass
class Child:
    """One confined process."""

    pid: int
    pidfd: int
    channel: SocketChannel
    output: int
    """The end of its output pipe that is read here, non-blocking."""

    @functools.cached_property
    def seen_pid(self) -> int | None:
        """Its process id here, where the fork server may count in a namespace of its own; None if it has none
        here.
        """
        try:
            about = Path(f"/proc/self/fdinfo/{self.pidfd}").read_text()
        except OSError:
            return None
        pid = re.search(r"^Pid:\s+([1-9]\d*)$", about, re.MULTILINE)
        return int(pid[1]) if pid else None

    def n_threads(self) -> int:
        """Return how many threads it has, 0 where its process is gone or cannot be seen from here."""
        try:
            status = Path(f"/proc/{self.seen_pid}/status").read_text()
        except OSError:
            return 0
        threads = re.search(r"^Threads:\s+(\d+)$", status, re.MULTILINE)
        return int(threads[1]) if threads else 0

    def processor_s(self) -> float:
        """Return the processor time it has used, 0 where its process is gone or cannot be seen from here."""
        if self.seen_pid is None:
            return 0.0
        try:
            return time.clock_gettime(~self.seen_pid << 3 | 2)
        except OSError:
            return 0.0

    def demote(self) -> None:
        """Let other processes of this machine go first, as far as this user may."""
        if self.seen_pid is None:
            return
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, self.seen_pid, 19)
        with contextlib.suppress(OSError):  # where processor time is shared out by sessions
            Path(f"/proc/{self.seen_pid}/autogroup").write_text("19")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a pidfd cannot hit a stranger that took over the pid."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        self.channel.close()
        os.close(self.output)
        os.close(self.pidfd)


class _GoneError(SandboxError):
    """The fork server does not answer, or not in time."""


class ForkServer:
    """One fork server process, restarted when it is found dead."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock, self._starting = asyncio.Lock(), asyncio.Lock()
        self._generation = 0
        self.missing: tuple[str, ...] = ()
        """The walls that this machine lacks, one sentence each."""
        self.unhidden: str | None = None
        """The reason why the server has no namespaces of its own, None if it has."""
        self.counted = False
        """Whether the kernel limits the threads of each child; if not, they must be watched."""

    async def start(self) -> None:
        """Start the process and wait until it has built its walls.

        Raises:
            SandboxError: If it does not come up.
        """
        await self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            self._process = await asyncio.to_thread(_execute, self._settings, theirs)
        except OSError as error:
            ours.close()
            raise SandboxError(f"the sandbox's fork server cannot be started: {error}.") from error
        finally:
            theirs.close()
        self._control = ours
        self._generation += 1
        try:
            async with self._lock:
                hello, _ = await self._answer(_START_TIMEOUT_S)
        except BaseException:
            await self.close()
            raise
        self.missing = tuple(hello["missing"])
        self.unhidden = hello["unhidden"]
        self.counted = hello["counted"]

    async def spawn(self, seed: int) -> Child:
        """Return a new confined child.

        Raises:
            SandboxError: If the fork server or the child fails.
        """
        generation = self._generation
        try:
            return await self._undisturbed(self._spawn(seed), Child.close)
        except _GoneError:
            async with self._starting:
                if self._generation == generation:  # its children died with it
                    await self.start()
            return await self._undisturbed(self._spawn(seed), Child.close)

    async def reap(self, child: Child) -> int | None:
        """Return a killed or ended child's exit code (negative: signal), None if it is not known."""
        try:
            answer, _ = await self._undisturbed(self._ask({"op": "reap", "pid": child.pid}))
        except SandboxError:
            return None
        code: int | None = answer["exit"]
        return code

    async def _undisturbed(
        self, work: Coroutine[Any, Any, T], discard: Callable[[T], None] = lambda result: None
    ) -> T:
        """Let `work` end even if the caller is cancelled, so that no answer is left unread."""
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(
                lambda done: (
                    discard(done.result()) if not done.cancelled() and done.exception() is None else None
                )
            )
            raise

    async def _spawn(self, seed: int) -> Child:
        with contextlib.ExitStack() as opened:
            try:
                ours, theirs = socket.socketpair()
                undo = opened.enter_context(contextlib.ExitStack())
                undo.callback(ours.close)
                opened.callback(theirs.close)
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, read_end)
                opened.callback(os.close, write_end)
            except OSError as error:
                raise SandboxError(
                    f"a sandbox cannot be opened: {error.strerror}.",
                    "Raise the limit of open files (ulimit -n).",
                ) from error
            os.set_blocking(read_end, False)
            message = {
                "op": "spawn",
                "seed": seed,
                "dialect": self._settings.dialect,
                "memory_bytes": self._settings.memory_bytes,
            }
            answer, descriptors = await self._ask(message, [theirs.fileno(), write_end])
            if "failed" in answer or not descriptors:
                raise SandboxError(
                    f"a sandbox cannot be opened: {answer.get('failed', 'no descriptor is free')}."
                )
            undo.pop_all()
        child = Child(answer["pid"], descriptors[0], SocketChannel(ours), read_end)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                ready, _ = await child.channel.receive()
            if ready["op"] != "ready":
                raise SandboxError(f"a sandbox could not be confined: {ready.get('error')}.")
        except (ProtocolError, ChannelClosedError, TimeoutError) as error:
            child.close()
            raise SandboxError(f"a sandbox did not come up ({type(error).__name__}).") from error
        except BaseException:
            child.close()
            raise
        return child

    async def _ask(
        self, message: dict[str, Any], descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        async with self._lock:
            if self._control is None:
                raise _GoneError("the sandbox's fork server is not running.")
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
            except OSError as error:
                raise _GoneError(f"the sandbox's fork server is gone ({error}).") from error
            return await self._answer(_ANSWER_TIMEOUT_S)

    async def close(self) -> None:
        """End the server; the kernel ends its children.

        Raises:
            SandboxError: If it does not end, as where it hangs in a call of the kernel.
        """
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what a wrapping command started
            assert process.stderr is not None
            process.stderr.close()
            try:
                await asyncio.to_thread(process.wait, _END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise SandboxError(
                    f"the sandbox's fork server (process {process.pid}) was killed and did not end within"
                    f" {_END_TIMEOUT_S:g} s."
                ) from None

    def _disconnect(self) -> None:
        """Close this end of the server's socket; the server ends then."""
        control, self._control = self._control, None
        if control is not None:
            anyio.notify_closing(control)
            control.close()

    async def _answer(self, timeout_s: float) -> tuple[dict[str, Any], list[int]]:
        control = self._control
        assert control is not None
        try:
            async with asyncio.timeout(timeout_s):
                await anyio.wait_readable(control)
            data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        except (OSError, TimeoutError, anyio.ClosedResourceError) as error:
            if self._control is control:  # a late answer would be taken for that of the next question
                self._disconnect()
            raise _GoneError(
                f"the sandbox's fork server does not answer ({type(error).__name__})."
            ) from error
        if not data:
            raise _GoneError(f"the sandbox's fork server ended{self._last_words()}.")
        return json.loads(data), list(descriptors)

    def _last_words(self) -> str:
        if self._process is None or self._process.stderr is None:
            return ""
        os.set_blocking(self._process.stderr.fileno(), False)
        text = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        return f": {text.splitlines()[-1]}" if text else ""


def _execute(settings: SandboxSettings, control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the interpreter anew, with nothing of this process but one socket."""
    path = list(
        dict.fromkeys(str(location.parent) for location in _locations((*_LIBRARIES, *_WALL_LIBRARIES)))
    )
    needed, readable = _readable()
    configuration = {
        "path": path,
        "readable": readable,
        "readable_needed": needed,
        "namespaces": settings.namespaces,
    }
    environment = {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",
        # Not -I, which would ignore it: sets of strings must have one order in every run.
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # Each malloc arena reserves 64 MiB of the address space that limits a program's memory.
        "MALLOC_ARENA_MAX": "2",
    }
    if folders := _library_folders():
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
    python, program = sys.executable, [str(_CHILD), json.dumps(configuration)]
    # Descriptor 3 by its number, because a wrapping command passes numbers on, not Python objects.
    keeper = os.dup(control.fileno())
    try:
        return subprocess.Popen(
            [*settings.wrap, python, "-c", _MOVE_TO_3, str(keeper), python, "-s", "-S", "-P", *program],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(keeper,),
            start_new_session=True,
        )
    finally:
        os.close(keeper)


_MOVE_TO_3 = "import os,sys;fd=int(sys.argv[1]);os.dup2(fd,3);os.execv(sys.argv[2],sys.argv[2:])"


def _locations(names: Sequence[str]) -> list[Path]:
    locations = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            locations.append(origin.parent if spec.submodule_search_locations else origin)
        elif name in _LIBRARIES:
            raise SandboxUnavailableError(f"programs need the package {name}.", f"pip install {name}")
    return locations


def _readable() -> tuple[list[str], list[str]]:
    """Return what a program must be able to read, and what it may read."""
    packages = _locations(_LIBRARIES)
    bundled = [
        package.with_name(package.name.lower().replace("pil", "pillow") + ".libs") for package in packages
    ]
    # Not sysconfig's paths: in a virtual environment one of them holds every installed package.
    stdlib = [str(Path(os.__file__).parent), sysconfig.get_config_var("DESTSHARED")]
    needed = [str(path) for path in packages] + [path for path in stdlib if path and Path(path).is_dir()]
    shared = [str(path) for path in (Path(sys.base_prefix) / "lib").glob("lib*.so*")]
    # Their libraries alone: what else lies in those folders is not for programs.
    linked = [str(path) for folder in _library_folders() for path in _libraries(folder)]
    return needed, [*needed, *map(str, bundled), *shared, *linked, *_SYSTEM]


def _library_folders() -> list[Path]:
    """Return the absolute folders of LD_LIBRARY_PATH: the server has another working folder."""
    named = map(Path, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    return [folder for folder in named if folder.is_absolute() and folder.is_dir()]


def _libraries(folder: Path) -> list[Path]:
    """Return the shared libraries of a folder; a link counts as what it leads to."""
    return [
        path for path in folder.glob("lib*.so*") if _LIBRARY.fullmatch(path.resolve().name) and path.is_file()
    ]
