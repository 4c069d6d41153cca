"""The `cpython` executor: real Python behind the kernel's walls."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from tools.sandbox.base import Check, SandboxError, Status, Tier
from tools.sandbox.calls import CallDesk, EndedError
from tools.sandbox.child.wire import MAX_THREADS
from tools.sandbox.fork_server import Child, ForkServer
from tools.sandbox.frames import ChannelClosedError
from tools.sandbox.session import FLOOD, Output, Server, Session, flooded
from tools.sandbox.settings import SandboxSettings


class KernelSandbox(Session):
    """A confined child process, frozen while no program runs in it."""

    def __init__(self, server: ForkServer, settings: SandboxSettings, tier: Tier, seed: int) -> None:
        super().__init__(settings, tier, seed)
        self._server = server
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the child, as the fork server sees it."""
        return None if self._child is None else self._child.pid

    async def _open(self) -> None:
        self._child = await self._server.spawn(self._seed)
        self._child.signal(signal.SIGSTOP)

    async def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
            await self._server.reap(child)

    def _state(self) -> str:
        # A frozen child does not end by itself: it went with the fork server, and its programs are not to
        # blame. One that ended with its last program does so again when the record is replayed, and is found
        # out there.
        if self._child is None or self._child.channel.ended():
            return "none"
        return "ready" if self._child.channel.idle() else "broken"

    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        child = self._child
        assert child is not None
        reader = _PipeReader(child, output, FLOOD * self._settings.output_bytes)
        watch = _Watch(child, count_threads=not self._server.counted)
        child.signal(signal.SIGCONT)
        reader.start()
        try:
            report = await self._converse(child.channel, program, desk, output)
            watch.look()
            if watch.exceeded:
                raise ChannelClosedError
            return report
        except ChannelClosedError:
            if reader.flooded:
                raise flooded(self._settings) from None
            if watch.exceeded:
                raise EndedError(
                    "limit", f"The program was ended: it had more than {MAX_THREADS} threads. Use fewer."
                ) from None
            child.signal(signal.SIGKILL)  # it may have closed its socket and live on
            code = await self._server.reap(child)
            if code is None:
                # Not the program's doing, and its calls were half made: no result.
                raise SandboxError(
                    "the sandbox's fork server ended while a program ran.",
                    "Repeat the command to go on from the round before.",
                ) from None
            raise EndedError("died", _died(code)) from None
        finally:
            watch.stop()
            child.signal(signal.SIGSTOP)
            reader.stop()


class _PipeReader:
    """Empties a child's output pipe while its program runs, and ends a child that floods it.

    A program that prints little at a time is read 200 times a second at most; one that fills the pipe, as
    fast as it does.
    """

    _PIPE_BYTES = 1 << 16
    _PAUSE_S = 0.005

    def __init__(self, child: Child, output: Output, limit_bytes: int) -> None:
        self._child, self._output, self.limit_bytes = child, output, limit_bytes
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self.flooded = False

    def start(self) -> None:
        self._loop.add_reader(self._child.output, self._read)

    def stop(self) -> None:
        """Take what is left; a frozen or dead child adds no more."""
        self._wait()
        while self._take():
            pass

    def _read(self) -> None:
        if self._take() < self._PIPE_BYTES // 2:  # a full pipe may hold less than it could
            self._wait()
            self._pause = self._loop.call_later(self._PAUSE_S, self.start)

    def _wait(self) -> None:
        self._loop.remove_reader(self._child.output)
        if self._pause is not None:
            self._pause.cancel()

    def _take(self) -> int:
        """Return how many bytes there were, 0 if the output is at its end or the child has been ended."""
        if self.flooded:
            return 0
        try:
            data = os.read(self._child.output, self._PIPE_BYTES)
        except BlockingIOError:
            return 0
        self._output.add(data)
        if self._output.total_bytes > self.limit_bytes:
            self.flooded = True
            self._child.signal(signal.SIGKILL)
        return len(data)


class _Watch:
    """Looks at a child while its program runs.

    One that keeps the processor busy has to let others go first from then on; a program's usual work is done
    in less. One that has too many threads is ended, where the kernel does not refuse them.
    """

    _EVERY_S = 0.1
    _BUSY_S = 0.5

    def __init__(self, child: Child, *, count_threads: bool) -> None:
        self._child, self._count_threads = child, count_threads
        self._loop = asyncio.get_running_loop()
        self._began_s = child.processor_s()
        self._busy = self.exceeded = False
        self._next = self._loop.call_later(self._EVERY_S, self._again)

    def stop(self) -> None:
        self._next.cancel()

    def look(self) -> None:
        if not self._busy and self._child.processor_s() - self._began_s > self._BUSY_S:
            self._busy = True
            self._child.demote()
        if self._count_threads and self._child.n_threads() > MAX_THREADS:
            self.exceeded = True
            self._child.signal(signal.SIGKILL)

    def _again(self) -> None:
        self.look()
        self._next = self._loop.call_later(self._EVERY_S, self._again)


def _died(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = {
            "SIGSEGV": " (a crash in native code, or recursion without end)",
            "SIGKILL": " (the machine may be short of memory)",
            "SIGSYS": " (a forbidden system call)",
        }.get(name, "")
        return f"The program's process died by {name}{hint}."
    return f"The program's process ended itself (exit code {code}). Do not call os._exit."


class KernelServer(Server[KernelSandbox]):
    """Makes `KernelSandbox`es from one fork server."""

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        self._fork_server = ForkServer(settings)
        self.tier = "weak"

    @property
    def missing(self) -> tuple[str, ...]:
        """The walls that this machine lacks, one sentence each."""
        return self._fork_server.missing

    async def start(self) -> None:
        """Start the fork server.

        Raises:
            SandboxError: If it does not come up.
        """
        await self._fork_server.start()
        if self.missing:
            self.tier = "weak"
        else:
            self.tier = "kernel" if self._fork_server.unhidden else "kernel+ns"

    def _make(self, seed: int) -> KernelSandbox:
        return KernelSandbox(self._fork_server, self._settings, self.tier, seed)

    async def self_test(self) -> list[Check]:
        from tools.sandbox.self_test import run_checks

        return await run_checks(self, self._settings)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self._fork_server.close()
