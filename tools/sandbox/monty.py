"""The `monty` executor: pydantic-monty, an interpreter for a subset of Python with no way out of itself.

It is for systems that lack the kernel's walls, such as macOS and Windows. Programs see the same `system` and
`tools`, in either dialect; images are opaque handles, whose pixels never reach a program. There are no numpy
and no PIL, and a part of the language is missing (docs/sandbox.md has the list).

Each sandbox is a process of ours (`child/monty_runner.py`), which starts the interpreter's. It talks in the
same frames as a confined child, so the same clock, budgets and bounds hold, and the host never holds a value
of a program.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.sandbox.base import Check, SandboxError, Status, Tier
from tools.sandbox.calls import CallDesk, EndedError
from tools.sandbox.frames import Channel, ChannelClosedError, ProtocolError
from tools.sandbox.session import Output, Server, Session
from tools.sandbox.settings import SandboxSettings

_CHILD = Path(__file__).parent / "child" / "__main__.py"
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 60.0
"""A killed process may wait for its turn on a loaded machine."""
_ENVIRONMENT = ("PATH", "SYSTEMROOT", "MONTY_BIN")


class PipeChannel(Channel):
    """Frames over the pipes of a process."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader, self._writer = reader, writer

    async def _read(self, size: int) -> bytearray:
        try:
            data = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ChannelClosedError from None
        self.moved_bytes += size
        return bytearray(data)

    async def _write(self, data: bytes | memoryview) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class MontySandbox(Session):
    """A session of the interpreter in a process of its own."""

    def __init__(self, settings: SandboxSettings, tier: Tier, seed: int) -> None:
        super().__init__(settings, tier, seed)
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None

    @property
    def pid(self) -> int | None:
        """The process id of our process, which started the interpreter's."""
        return None if self._process is None else self._process.pid

    async def _open(self) -> None:
        configuration = {
            "executor": "monty",
            "seed": self._seed,
            "dialect": self._settings.dialect,
            "memory_bytes": self._settings.memory_bytes,
            "backstop_s": 2 * self._settings.program_timeout_s + 1,
        }
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(_CHILD), json.dumps(configuration)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd=Path(sys.executable).anchor,
                start_new_session=True,  # to end it together with the interpreter
            )
        except OSError as error:
            raise SandboxError(f"a monty process cannot be started: {error}.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._channel = PipeChannel(self._process.stdout, self._process.stdin)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                ready, _ = await self._channel.receive()
            if ready["op"] != "ready":
                raise SandboxError(f"a monty worker did not come up: {ready.get('error')}.")
        except (ChannelClosedError, ProtocolError, TimeoutError) as error:
            await self._discard()
            raise SandboxError(f"a monty process did not come up ({type(error).__name__}).") from error
        except BaseException:
            await self._discard()
            raise

    async def _discard(self) -> None:
        process, self._process = self._process, None
        if process is None or self._channel is None:
            return
        _end(process)
        self._channel.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                # Reads what is left: a pipe that is full and not read never ends, nor does a wait for both.
                await process.communicate()
        except TimeoutError:
            raise SandboxError(
                f"a monty process ({process.pid}) was killed and did not end within {_END_TIMEOUT_S:g} s."
            ) from None

    def _state(self) -> str:
        return "none" if self._process is None or self._process.returncode is not None else "ready"

    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        assert self._channel is not None
        try:
            status, value, words = await self._converse(self._channel, program, desk, output)
        except ChannelClosedError:
            raise EndedError("died", "The interpreter's process ended.") from None
        if status == "memory":  # it may be gone, and its heap cannot be relied on
            raise EndedError(status, words)
        return status, value, words


def _end(process: asyncio.subprocess.Process) -> None:
    """End a process and the interpreter's, which it started."""
    kill: Callable[[int, int], None] | None = getattr(os, "killpg", None)
    with contextlib.suppress(ProcessLookupError):
        if kill is None:
            process.kill()
        else:
            kill(process.pid, signal.SIGKILL)


class MontyServer(Server[MontySandbox]):
    """Makes `MontySandbox`es."""

    tier: Tier = "monty"

    async def start(self) -> None:
        """Start the interpreter and prove it.

        Raises:
            SandboxError: If it is not there, does not come up, or lets something through.
        """
        if importlib.util.find_spec("pydantic_monty") is None:
            raise SandboxError("pydantic-monty is not installed")
        failed = [row for row in await self.self_test() if not row.passed]
        if failed:
            raise SandboxError("; ".join(f"{row.name} is not stopped ({row.detail})" for row in failed))

    def _make(self, seed: int) -> MontySandbox:
        return MontySandbox(self._settings, self.tier, seed)

    async def self_test(self) -> list[Check]:
        from tools.sandbox.self_test import run_monty_checks

        return await run_monty_checks(self)
