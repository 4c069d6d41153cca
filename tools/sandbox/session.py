"""One agent's sandbox over a confined child process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from actors.errors import MaiaError
from actors.images import Image
from tools.sandbox.base import ProgramOutcome, Status, Tier, ToolHost
from tools.sandbox.child.wire import IMAGE
from tools.sandbox.fork_server import Child, ForkServer
from tools.sandbox.frames import Channel, ClosedError, ProtocolError, decode_value, encode_value, parse_pixels
from tools.sandbox.methods import checked
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

_MAX_ERROR = 16_000
_FLOOD = 32
"""Multiples of the kept output after which a program that goes on printing is ended."""
_PATIENCE_CALLS = 100
"""Refused calls after which a program that goes on calling is ended."""
_ENDINGS: tuple[Status, ...] = ("ok", "error", "memory", "forbidden")


class _EndedError(Exception):
    """The program is over because of something that broke its process or must break it."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class _DivergedError(Exception):
    """A replayed program asked for something else than it did the first time."""


class _Clock:
    """Seconds that are left of a budget which runs only inside `running`."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(self.left_s, 0)):
                yield
        finally:
            self.left_s -= time.monotonic() - began


@dataclass
class _Output:
    """Reads a child's output pipe while its program runs."""

    child: Child
    limit_bytes: int
    kept: bytearray = field(default_factory=bytearray)
    total_bytes: int = 0
    flooded: bool = False

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.child.output, self._read)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.child.output)
        while self._read():
            pass

    def text(self) -> str:
        return self.kept.decode("utf-8", "replace")

    def _read(self) -> int:
        if self.flooded:
            return 0
        try:
            data = os.read(self.child.output, 1 << 16)
        except BlockingIOError:
            return 0
        if not data:
            asyncio.get_running_loop().remove_reader(self.child.output)
        self.total_bytes += len(data)
        self.kept += data[: self.limit_bytes - len(self.kept)]
        if self.total_bytes > _FLOOD * self.limit_bytes:
            self.flooded = True
            self.child.signal(signal.SIGKILL)
        return len(data)


@dataclass
class _Program:
    """What one program has used so far, and what its calls were answered."""

    settings: SandboxSettings
    own: _Clock
    waiting: _Clock
    calls: int = 0
    refused: int = 0
    images: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, settings: SandboxSettings) -> _Program:
        return cls(settings, _Clock(settings.program_timeout_s), _Clock(settings.calls_timeout_s))


class KernelSandbox:
    """See `Sandbox`. The child process is frozen while no program runs in it."""

    def __init__(self, server: ForkServer, settings: SandboxSettings, tier: Tier, seed: int) -> None:
        self._server, self._settings, self._tier, self._seed = server, settings, tier, seed
        self._child: Child | None = None
        self._shelf = ImageShelf(settings.kept_bytes)
        self._records: list[dict[str, Any]] = []
        self._number = 0
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def record(self) -> list[dict[str, Any]]:
        return list(self._records)

    @property
    def pid(self) -> int | None:
        """The process id of the child, for tests and `maia doctor`."""
        return None if self._child is None else self._child.pid

    def restore(self, records: Sequence[dict[str, Any]], images: Mapping[str, Image]) -> None:
        self._records = list(records)
        self._shelf.look_in(images)
        self._drop()

    async def prepare(self) -> None:
        """Start the child now instead of with the first program."""
        async with self._lock:
            await self._ready()

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        async with self._lock:
            if self._closed:
                raise MaiaError("this sandbox is closed.")
            began = time.monotonic()
            notes = await self._ready()
            child = self._child
            assert child is not None
            used = _Program.begin(self._settings)
            output = _Output(child, self._settings.output_bytes)
            value: Any = None
            try:
                status, value, error = await self._converse(child, program, used, output, host)
            except _EndedError as ended:
                status, error = ended.status, ended.text
                notes = (*notes, *self._lost())
            except BaseException:
                self._drop()  # cancelled, or the host failed: the program's state is unknown
                raise
            if status in _ENDINGS:
                self._records.append({"program": program, "status": status, "calls": used.answers})
            return ProgramOutcome(
                status=status,
                output=output.text(),
                output_truncated=output.total_bytes > len(output.kept),
                value=value,
                error=error,
                duration_s=time.monotonic() - began,
                calls=used.calls,
                tier=self._tier,
                notes=notes,
            )

    async def close(self) -> None:
        async with self._lock:
            self._closed = True
            child, self._child = self._child, None
            if child is not None:
                child.close()
                await self._server.reap(child)
            self._shelf.close()

    # The child and its variables.

    async def _ready(self) -> tuple[str, ...]:
        """Make sure that a child waits with the variables of the record; return what the agent should know."""
        notes: tuple[str, ...] = ()
        if self._child is not None:
            if self._child.channel.idle():
                return ()
            notes = ("Your session was restarted, because something kept running after your last program.",)
            await self._bury()
        self._child = await self._server.spawn(self._seed)
        if not self._records:
            return notes
        try:
            await self._replay()
        except (_EndedError, _DivergedError) as error:
            await self._bury()
            self._records = []
            self._child = await self._server.spawn(self._seed)
            return (*notes, f"The variables of your earlier programs are lost ({error}). Define them again.")
        return notes

    async def _replay(self) -> None:
        """Run the recorded programs against their recorded answers."""
        child = self._child
        assert child is not None
        for number, entry in enumerate(self._records, start=1):
            used = _Program.begin(self._settings)
            output = _Output(child, self._settings.output_bytes)
            host = _Recorded(number, entry["calls"])
            status, _, _ = await self._converse(child, entry["program"], used, output, host)
            if status != entry["status"] or len(used.answers) != len(entry["calls"]):
                raise _DivergedError(f"program {number} did not do the same when it was run again")

    def _lost(self) -> tuple[str, ...]:
        if self._records:
            return (
                "What this program defined is lost; the variables of earlier programs will be there again.",
            )
        return ("What this program defined is lost.",)

    def _drop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()

    async def _bury(self) -> int | None:
        child, self._child = self._child, None
        if child is None:
            return None
        child.close()
        return await self._server.reap(child)

    # One program.

    async def _converse(
        self, child: Child, program: str, used: _Program, output: _Output, host: ToolHost | _Recorded
    ) -> tuple[Status, Any, str]:
        """Run `program`; return status, value and error.

        Raises:
            _EndedError: If its process had to be, or was, ended.
        """
        self._number += 1
        child.channel.moved_bytes = 0
        child.signal(signal.SIGCONT)
        output.start()
        try:
            return await self._serve(child.channel, program, used, host)
        except TimeoutError:
            await self._bury_after(output)
            raise _EndedError("timeout", _too_slow(self._settings, used)) from None
        except ProtocolError as error:
            await self._bury_after(output)
            raise _EndedError(
                "protocol", f"The program was ended: it wrote to the sandbox's own connection ({error})."
            ) from None
        except _EndedError:
            await self._bury_after(output)
            raise
        except ClosedError:
            code = await self._bury_after(output)
            if output.flooded:
                limit = self._settings.output_bytes
                raise _EndedError(
                    "limit",
                    f"The program was ended: it printed more than {_FLOOD * limit} bytes. Print less.",
                ) from None
            raise _EndedError("died", _died(code)) from None
        finally:
            if self._child is child:
                child.signal(signal.SIGSTOP)
                output.stop()

    async def _bury_after(self, output: _Output) -> int | None:
        """End the child, keeping what it had printed."""
        output.child.signal(signal.SIGKILL)
        output.stop()
        return await self._bury()

    async def _serve(
        self, channel: Channel, program: str, used: _Program, host: ToolHost | _Recorded
    ) -> tuple[Status, Any, str]:
        async with used.own.running():
            await channel.send({"op": "run", "program": program, "number": self._number})
        while True:
            async with used.own.running():
                message, blob = await channel.receive()
            if channel.moved_bytes > self._settings.max_bytes:
                limit = self._settings.max_bytes >> 20
                raise _EndedError(
                    "limit", f"The program was ended: it moved more than {limit} MiB of images."
                )
            if message["op"] == "done":
                return self._done(message)
            reply, pixels = await self._reply(message, blob, used, host)
            async with used.own.running():
                await channel.send(reply, pixels)

    async def _reply(
        self, message: dict[str, Any], blob: bytearray, used: _Program, host: ToolHost | _Recorded
    ) -> tuple[dict[str, Any], memoryview | None]:
        try:
            if message["op"] == "put" and set(message) == {"op", "height", "width"}:
                image = await _off_loop(parse_pixels, message["height"], message["width"], blob)
                used.images += 1
                self._refuse_more(used)
                self._shelf.add(image)
                return {"value": image.id}, None
            if message["op"] != "call" or set(message) != {"op", "method", "arguments"} or blob:
                raise ProtocolError("an unknown request")
            if message["method"] == "pixels":
                used.images += 1
                self._refuse_more(used)
                return {"value": None}, self._pixels(message["arguments"])
            used.calls += 1
            self._refuse_more(used)
            return {"value": await self._call(message["method"], message["arguments"], used, host)}, None
        except MaiaError as error:
            used.refused += 1
            if used.refused > self._settings.max_calls + _PATIENCE_CALLS:
                raise _EndedError(
                    "limit", f"The program was ended: it kept making calls that fail. {error}"
                ) from None
            return {"error": str(error)}, None

    def _refuse_more(self, used: _Program) -> None:
        settings = self._settings
        if (
            used.calls > settings.max_calls + _PATIENCE_CALLS
            or used.images > settings.max_images + _PATIENCE_CALLS
        ):
            raise _EndedError("limit", "The program was ended: it kept calling tools after its last one.")
        if used.calls > settings.max_calls:
            raise MaiaError(f"a program may make {settings.max_calls} calls.", "Do less in one program.")
        if used.images > settings.max_images:
            raise MaiaError(f"a program may use the pixels of {settings.max_images} images.", "Use fewer.")

    def _pixels(self, arguments: Any) -> memoryview:
        if type(arguments) is not dict or set(arguments) != {"id"} or type(arguments["id"]) is not str:
            raise ProtocolError("a malformed request for pixels")
        return self._shelf.get(arguments["id"]).pixels.data.cast("B")

    async def _call(self, method: Any, arguments: Any, used: _Program, host: ToolHost | _Recorded) -> Any:
        digest = _digest(method, arguments)
        if isinstance(host, _Recorded):
            entry = host.next(digest)
            used.answers.append(entry)
            if "error" in entry:
                raise MaiaError(entry["error"])
            _know(entry["value"], self._shelf)
            return entry["value"]
        try:
            values = checked(method, arguments, self._shelf)
            async with used.waiting.running():
                answer = await host.call(method, values)
            encoded = encode_value(answer, self._shelf)
        except TimeoutError:
            if used.waiting.left_s > 0:
                raise
            limit = self._settings.calls_timeout_s
            raise _EndedError(
                "timeout",
                f"The program was ended: its tool calls took more than {limit:g} s together. Do less at once.",
            ) from None
        except MaiaError as error:
            used.answers.append({"asked": digest, "error": str(error)})
            raise
        used.answers.append({"asked": digest, "value": encoded})
        return encoded

    def _done(self, message: dict[str, Any]) -> tuple[Status, Any, str]:
        if set(message) != {"op", "status", "value", "error"} or message["status"] not in _ENDINGS:
            raise ProtocolError("a malformed report")
        if type(message["error"]) is not str:
            raise ProtocolError("a malformed report")
        return message["status"], decode_value(message["value"], self._shelf), message["error"][:_MAX_ERROR]


class _Recorded:
    """The answers that a program got the first time."""

    def __init__(self, number: int, answers: Sequence[dict[str, Any]]) -> None:
        self._number, self._answers = number, iter(answers)

    def next(self, digest: str) -> dict[str, Any]:
        entry = next(self._answers, None)
        if entry is None or entry["asked"] != digest:
            raise _DivergedError(f"program {self._number} made another call when it was run again")
        return entry


def _digest(method: Any, arguments: Any) -> str:
    return hashlib.blake2b(msgpack.packb([method, arguments]), digest_size=16).hexdigest()


def _know(value: Any, shelf: ImageShelf) -> None:
    """Hand out again the images of a recorded answer."""
    if isinstance(value, list):
        for item in value:
            _know(item, shelf)
    elif isinstance(value, dict):
        if IMAGE in value:
            shelf.know(*value[IMAGE])
        else:
            for item in value.values():
                _know(item, shelf)


async def _off_loop(function: Any, *arguments: Any) -> Any:
    """Hashing a large image takes milliseconds; small ones are not worth a thread."""
    if len(arguments[-1]) < 1 << 20:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _too_slow(settings: SandboxSettings, used: _Program) -> str:
    return (
        f"The program was ended after {settings.program_timeout_s:g} s of its own work (waiting for tools does not"
        " count). Look for a loop that does not end, or do less at a time."
    )


def _died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in signal.Signals._value2member_map_ else f"signal {-code}"
        hint = {
            "SIGSEGV": " (a crash in native code, or recursion without end)",
            "SIGKILL": " (the machine may be short of memory)",
            "SIGSYS": " (a forbidden system call)",
        }.get(name, "")
        return f"The program's process died by {name}{hint}."
    return f"The program's process ended itself (exit code {code}). Do not call os._exit."
