"""The `cpython` executor: real Python behind the kernel's walls."""

from __future__ import annotations

import asyncio
import os
import signal
from types import TracebackType
from typing import Any

from tools.sandbox.base import Check, SandboxError, Status, Tier
from tools.sandbox.calls import CallDesk, EndedError, GoneError, UnrestError
from tools.sandbox.fork_server import Child, ForkServer
from tools.sandbox.frames import ClosedError, ProtocolError, decode_value
from tools.sandbox.session import Output, Session
from tools.sandbox.settings import SandboxSettings

_MAX_ERROR = 16_000
_FLOOD = 32
"""Multiples of the kept output after which a program that goes on printing is ended."""
_PATIENCE_S = 5.0
"""Seconds in which an idle process must take up a program."""
_ENDINGS = ("ok", "error", "memory", "forbidden")


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
        # A frozen child does not end by itself: it went with the fork server, and its programs are not to blame.
        # One that ended with its last program does so again when the record is replayed, and is found out there.
        if self._child is None or self._child.channel.ended():
            return "none"
        return "ready" if self._child.channel.idle() else "broken"

    def _interrupt(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        child = self._child
        assert child is not None
        self._number += 1
        child.channel.moved_bytes = 0
        reader = _PipeReader(child, output, _FLOOD * self._settings.output_bytes)
        child.signal(signal.SIGCONT)
        reader.start()
        try:
            return await self._converse(child, program, desk)
        except TimeoutError:
            limit = self._settings.program_timeout_s
            raise EndedError(
                "timeout",
                f"The program was ended after {limit:g} s of its own work (waiting for tools does not count)."
                " Look for a loop that does not end, or do less at a time.",
            ) from None
        except ProtocolError as error:
            raise EndedError(
                "protocol", f"The program was ended: it wrote to the sandbox's own connection ({error})."
            ) from None
        except ClosedError:
            if reader.flooded:
                raise EndedError(
                    "limit",
                    f"The program was ended: it printed more than {reader.limit_bytes >> 20} MB. Print less.",
                ) from None
            child.signal(signal.SIGKILL)  # it may have closed its socket and live on
            code = await self._server.reap(child)
            if code is None:
                # Not the program's doing, and its calls were half made: nobody's result.
                raise SandboxError(
                    "the sandbox's fork server ended while a program ran.",
                    "Repeat the command to go on from the round before.",
                ) from None
            raise EndedError("died", _died(code)) from None
        finally:
            child.signal(signal.SIGSTOP)
            reader.stop()

    async def _converse(self, child: Child, program: str, desk: CallDesk) -> tuple[Status, Any, str]:
        channel, limit = child.channel, self._settings.max_bytes
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await channel.send({"op": "run", "program": program, "number": self._number})
                started, _ = await channel.receive()
        except (TimeoutError, ProtocolError) as error:
            raise UnrestError from error
        except ClosedError as error:
            raise GoneError from error
        if started != {"op": "started", "number": self._number}:
            raise UnrestError
        while True:
            async with desk.own.running():
                message, blob = await channel.receive()
            if channel.moved_bytes > limit:
                raise EndedError(
                    "limit", f"The program was ended: it moved more than {limit >> 20} MiB of images."
                )
            if message["op"] == "done":
                return self._report(message)
            reply, pixels = await desk.reply(message, blob)
            async with desk.own.running():
                await channel.send(reply, pixels)

    def _report(self, message: dict[str, Any]) -> tuple[Status, Any, str]:
        if set(message) != {"op", "status", "value", "error"} or type(message["error"]) is not str:
            raise ProtocolError("a malformed report")
        if message["status"] not in _ENDINGS:
            raise ProtocolError("a malformed report")
        return message["status"], decode_value(message["value"], self._shelf), message["error"][:_MAX_ERROR]


class _PipeReader:
    """Empties a child's output pipe while its program runs, and ends a child that floods it."""

    def __init__(self, child: Child, output: Output, limit_bytes: int) -> None:
        self._child, self._output, self.limit_bytes = child, output, limit_bytes
        self._loop = asyncio.get_running_loop()
        self.flooded = False

    def start(self) -> None:
        self._loop.add_reader(self._child.output, self._read)

    def stop(self) -> None:
        """Take what is left; a frozen or dead child adds no more."""
        self._loop.remove_reader(self._child.output)
        while self._read():
            pass

    def _read(self) -> bool:
        if self.flooded:
            return False
        try:
            data = os.read(self._child.output, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._child.output)
            return False
        self._output.add(data)
        if self._output.total_bytes > self.limit_bytes:
            self.flooded = True
            self._child.signal(signal.SIGKILL)
        return True


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


class KernelServer:
    """Makes `KernelSandbox`es from one fork server."""

    tier: Tier

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._fork_server = ForkServer(settings)
        self._sandboxes: list[KernelSandbox] = []
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

    async def open(self, *, seed: int) -> KernelSandbox:
        sandbox = KernelSandbox(self._fork_server, self._settings, self.tier, seed)
        await sandbox.prepare()
        self._sandboxes = [*(other for other in self._sandboxes if not other.closed), sandbox]
        return sandbox

    async def self_test(self) -> list[Check]:
        from tools.sandbox.self_test import run_checks

        return await run_checks(self, self._settings)

    async def close(self) -> None:
        for sandbox in self._sandboxes:
            await sandbox.close()
        await self._fork_server.close()

    async def __aenter__(self) -> KernelServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
