"""One agent's programs, whichever executor runs them: what they leave behind, and how it is rebuilt."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from actors.errors import MaiaError
from tools.sandbox.base import (
    Check,
    ExecutedProgram,
    ImageSource,
    ProgramOutcome,
    SandboxError,
    Status,
    Tier,
    ToolHost,
)
from tools.sandbox.calls import (
    CallDesk,
    Clock,
    EndedError,
    GoneError,
    Pace,
    Recorded,
    ReplayMismatchError,
    UnrestError,
)
from tools.sandbox.frames import Channel, ChannelClosedError, ProtocolError, decode_value
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

RESTARTED = (
    "Your session was restarted, because something kept running after your last program."
    " What that program defined may be lost."
)


FLOOD = 32
"""Multiples of the kept output after which a program that goes on printing is ended."""
_MAX_ERROR = 16_000
_PATIENCE_S = 5.0
"""Seconds in which an idle process must take up a program."""
_CLOSING_TIMEOUT_S = 30.0
"""Seconds in which a program and its tool call must end once they have been interrupted."""
ResultT = TypeVar("ResultT")
_ENDINGS = ("ok", "error", "memory", "forbidden")


def flooded(settings: SandboxSettings) -> EndedError:
    """Return the end of a program that printed far more than is kept."""
    limit = FLOOD * settings.output_bytes >> 20
    return EndedError("limit", f"The program was ended: it printed more than {limit} MB. Print less.")


class Output:
    """The output of a program: the first `limit_bytes` of it, and a count of the rest."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self.total_bytes = 0
        self.lost = False
        """Whether the program printed where nobody reads."""

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        self._kept += data[: self._limit_bytes - len(self._kept)]

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")

    @property
    def truncated(self) -> bool:
        return self.total_bytes > len(self._kept)


class Session(ABC):
    """See `Sandbox`.

    An executor that breaks is thrown away; the next program gets a fresh one in which the recorded
    programs have been run again against their recorded answers.
    """

    def __init__(self, settings: SandboxSettings, tier: Tier, seed: int) -> None:
        self._settings, self._tier, self._seed = settings, tier, seed
        self._shelf = ImageShelf(settings.kept_bytes)
        self._pace = Pace()
        self._records: list[ExecutedProgram] = []
        # The record only grows, so that a journal can take what is new of it; what cannot be rebuilt is
        # skipped.
        self._skipped: set[int] = set()
        self._number = 0
        self._lock = asyncio.Lock()
        self._running: asyncio.Timeout | None = None
        self.closed = False

    @property
    def record(self) -> list[ExecutedProgram]:
        return list(self._records)

    def restore(self, records: Sequence[ExecutedProgram], images: ImageSource) -> None:
        if self._number:
            raise MaiaError("a record can be restored only before the first program.")
        self._records, self._skipped = list(records), set()
        self._shelf.look_in(images)

    async def prepare(self) -> None:
        """Start the executor now instead of with the first program."""
        async with self._lock:
            await self._open()

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        async with self._lock:
            if self.closed:
                raise MaiaError("this sandbox is closed.")
            began = time.monotonic()
            desk = CallDesk(self._settings, self._shelf, host, self._pace)
            output = Output(self._settings.output_bytes)
            notes: list[str] = []
            value: Any = None
            try:
                status, value, words = await self._until_closed(self._play(program, desk, output, notes))
                self._records.append({"program": program, "status": status, "calls": desk.answers})
            except EndedError as ended:
                status, words = ended.status, ended.text
                await self._discard()
                notes.append(self._lost())
            except BaseException:  # cancelled, or the host failed: how far the program came is unknown
                await self._discard()
                raise
            return ProgramOutcome(
                status=status,
                output=output.text,
                output_truncated=output.truncated,
                value=value,
                error=words,
                duration_s=time.monotonic() - began,
                calls=desk.calls,
                tier=self._tier,
                notes=tuple(notes),
                output_lost=output.lost,
            )

    async def close(self) -> None:
        """End the process and forget the images, also while a program waits for a tool.

        Raises:
            SandboxError: If the process or a tool call does not end in time.
        """
        self.closed = True
        if self._running is not None and not self._running.expired():
            self._running.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(_CLOSING_TIMEOUT_S), self._lock:
                await self._discard()
        except TimeoutError:
            raise SandboxError(
                f"a sandbox was not closed within {_CLOSING_TIMEOUT_S:g} s: a tool call or a process"
                " does not end."
            ) from None
        finally:
            self._shelf.close()

    @abstractmethod
    async def _open(self) -> None:
        """Make a fresh executor without variables."""

    @abstractmethod
    async def _discard(self) -> None:
        """Throw the executor away, if there is one."""

    @abstractmethod
    def _state(self) -> str:
        """Return "ready", "none" (there is no executor) or "broken" (it did what it may not while idle)."""

    @abstractmethod
    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        """Run a program; return status, value and error.

        Raises:
            EndedError: If the executor had to be, or was, ended.
        """

    async def _converse(
        self, channel: Channel, program: str, desk: CallDesk, output: Output
    ) -> tuple[Status, Any, str]:
        """Give a program to the process behind `channel` and answer its requests until it is done.

        Raises:
            UnrestError, GoneError: If the process does not take it up.
            EndedError: If the program must be ended.
            ChannelClosedError: If its process ended.
        """
        self._number += 1
        channel.moved_bytes = channel.structure_bytes = 0
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await channel.send({"op": "run", "program": program, "number": self._number})
                started, _ = await channel.receive()
        except (TimeoutError, ProtocolError) as error:
            raise UnrestError from error
        except ChannelClosedError as error:
            raise GoneError from error
        if started != {"op": "started", "number": self._number}:
            raise UnrestError
        try:
            async with desk.own.running():
                return await self._serve(channel, desk, output)
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

    async def _serve(self, channel: Channel, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        printed_bytes = 0
        while True:
            message, blob = await channel.receive()
            if message["op"] == "print":
                printed_bytes += self._take_print(message, output)
            else:
                self._check_moved(channel.moved_bytes, channel.structure_bytes - printed_bytes)
                if message["op"] == "done":
                    return self._report(message, output)
                answer, pixels = await desk.reply(message, blob)
                await channel.send({**answer}, pixels)
            desk.pace.spend(channel.take_work_s())
            await asyncio.sleep(desk.pace.owed_s())

    def _check_moved(self, all_bytes: int, text_bytes: int) -> None:
        """Raise EndedError if a program exchanged too much with its tools."""
        settings = self._settings
        if all_bytes > settings.max_bytes:
            limit = settings.max_bytes >> 20
            raise EndedError("limit", f"The program was ended: it moved more than {limit} MiB of images.")
        if text_bytes > settings.max_text_bytes:
            limit = settings.max_text_bytes >> 10
            raise EndedError(
                "limit",
                f"The program was ended: it exchanged more than {limit} KiB of text and numbers with its"
                " tools. Log, display and return less.",
            )

    def _take_print(self, message: dict[str, Any], output: Output) -> int:
        """Keep what an executor without an output pipe printed; return its bytes."""
        if set(message) != {"op", "text"} or type(message["text"]) is not str:
            raise ProtocolError("a malformed print")
        data = message["text"].encode()
        output.add(data)
        if output.total_bytes > FLOOD * self._settings.output_bytes:
            raise flooded(self._settings)
        return len(data)

    def _report(self, message: dict[str, Any], output: Output) -> tuple[Status, Any, str]:
        if set(message) != {"op", "status", "value", "error", "output_lost"}:
            raise ProtocolError("a malformed report")
        if type(message["error"]) is not str or type(message["output_lost"]) is not bool:
            raise ProtocolError("a malformed report")
        if message["status"] not in _ENDINGS:
            raise ProtocolError("a malformed report")
        output.lost = message["output_lost"]
        return message["status"], decode_value(message["value"], self._shelf), message["error"][:_MAX_ERROR]

    async def _until_closed(self, work: Awaitable[ResultT]) -> ResultT:
        """Return the result of `work`, which `close` ends wherever it is.

        Raises:
            EndedError: If the sandbox was closed.
        """
        try:
            async with asyncio.timeout(None) as self._running:
                return await work
        except TimeoutError:
            if not self.closed:
                raise
            raise EndedError("died", "The sandbox was closed while the program ran.") from None
        finally:
            self._running = None

    async def _play(
        self, program: str, desk: CallDesk, output: Output, notes: list[str]
    ) -> tuple[Status, Any, str]:
        """Run a program with the variables of those before it; add to the notes for the agent."""
        notes += await self._ready()
        # What earlier programs owe is on no program's clock.
        await asyncio.sleep(self._pace.owed_s())
        report, more = await self._take_up(program, desk, output)
        notes += more
        return report

    async def _ready(self) -> tuple[str, ...]:
        """Make sure that an executor waits with the variables of the record; return notes for the agent."""
        state = self._state()
        if state == "ready" and (self._number or not self._records):
            return ()
        notes = (RESTARTED,) if state == "broken" else ()
        if state != "ready":
            await self._discard()
            await self._open()
        return (*notes, *await self._rebuild())

    async def _take_up(
        self, program: str, desk: CallDesk, output: Output
    ) -> tuple[tuple[Status, Any, str], tuple[str, ...]]:
        """Run a program, in a new executor if the present one does not take it up; return notes too."""
        notes: tuple[str, ...] = ()
        for suspect in (False, True):
            try:
                return await self._execute(program, desk, output), notes
            except (UnrestError, GoneError) as error:
                # Dead once may be bad luck; dead again, after a replay, is the last program's doing.
                notes += await self._start_over(pretended=suspect or isinstance(error, UnrestError))
        try:
            return await self._execute(program, desk, output), notes
        except (UnrestError, GoneError):
            raise EndedError("died", "The program could not be started.") from None

    async def _start_over(self, *, pretended: bool) -> tuple[str, ...]:
        """Replace an executor that did not take up a program; return notes for the agent.

        If the last program pretended to have ended, its successor gets its turn without it.
        """
        await self._discard()
        notes: tuple[str, ...] = ()
        kept = [index for index in range(len(self._records)) if index not in self._skipped]
        if pretended and kept:
            self._skipped.add(kept[-1])
            notes = (RESTARTED,)
        await self._open()
        return (*notes, *await self._rebuild())

    async def _rebuild(self) -> tuple[str, ...]:
        """Run the record in a fresh executor, or as much of it as does the same again; return notes."""
        notes: tuple[str, ...] = ()
        while True:
            first_bad, reason = await self._replay()
            if reason is None:
                return notes
            lost = set(range(first_bad, len(self._records))) - self._skipped
            self._skipped |= lost
            what = "your last program" if len(lost) == 1 else f"your last {len(lost)} programs"
            notes = (f"What {what} defined is lost ({reason}). Define it again if you need it.",)
            await self._discard()
            await self._open()

    async def _replay(self) -> tuple[int, Exception | None]:
        """Run the recorded programs; return the index of the first that must go, and why."""
        # Together they may take as long as two programs, or a long session could not be taken up again.
        clock = Clock(2 * self._settings.program_timeout_s)
        previous = 0
        for index, entry in enumerate(self._records):
            if index in self._skipped:
                continue
            desk = CallDesk(self._settings, self._shelf, Recorded(entry["calls"]), self._pace)
            desk.own = clock
            try:
                status, _, _ = await self._execute(entry["program"], desk, Output(0))
            except (UnrestError, GoneError):
                return previous, ReplayMismatchError("a program pretended to have ended")
            except (EndedError, ReplayMismatchError) as error:
                return index, error
            if status != entry["status"] or len(desk.answers) != len(entry["calls"]):
                return index, ReplayMismatchError("it did not do the same when it was run again")
            previous = index
        return len(self._records), None

    def _lost(self) -> str:
        if len(self._records) > len(self._skipped):
            return (
                "What this program defined is lost; the variables of your earlier programs will be"
                " there again."
            )
        return "What this program defined is lost."


SessionT = TypeVar("SessionT", bound=Session)


class Server(ABC, Generic[SessionT]):
    """See `SandboxServer`. It closes with its `with` block, and its sandboxes with it."""

    tier: Tier

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self.dialect = settings.dialect
        self._sandboxes: list[SessionT] = []

    @abstractmethod
    def _make(self, seed: int) -> SessionT:
        """Return a sandbox whose executor is not started yet."""

    @abstractmethod
    async def self_test(self) -> list[Check]: ...

    async def open(self, *, seed: int) -> SessionT:
        sandbox = self._make(seed)
        await sandbox.prepare()
        self._sandboxes = [*(other for other in self._sandboxes if not other.closed), sandbox]
        return sandbox

    async def close(self) -> None:
        """Close every sandbox, also if one fails.

        Raises:
            SandboxError: Of the first that could not be closed.
        """
        closings = (sandbox.close() for sandbox in self._sandboxes)
        for end in await asyncio.gather(*closings, return_exceptions=True):
            if isinstance(end, BaseException):
                raise end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
