"""One agent's programs, whichever executor runs them: what they leave behind, and how it is rebuilt."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from actors.errors import MaiaError
from actors.images import Image
from tools.sandbox.base import ProgramOutcome, Status, Tier, ToolHost
from tools.sandbox.calls import CallDesk, DivergedError, EndedError, Recorded, UnrestError
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

RESTARTED = (
    "Your session was restarted, because something kept running after your last program."
    " What that program defined may be lost."
)
_REPLAY_REASONS = (EndedError, DivergedError, UnrestError)


class Output:
    """What a program printed: the first `limit_bytes` of it, and a count of the rest."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self.total_bytes = 0

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
        self._records: list[dict[str, Any]] = []
        self._number = 0
        self._lock = asyncio.Lock()
        self._closed = False

    @property
    def record(self) -> list[dict[str, Any]]:
        return list(self._records)

    def restore(self, records: Sequence[dict[str, Any]], images: Mapping[str, Image]) -> None:
        if self._number:
            raise MaiaError("a record can be restored only before the first program.")
        self._records = list(records)
        self._shelf.look_in(images)

    async def prepare(self) -> None:
        """Start the executor now instead of with the first program."""
        async with self._lock:
            await self._open()

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        async with self._lock:
            if self._closed:
                raise MaiaError("this sandbox is closed.")
            began = time.monotonic()
            notes = await self._ready()
            desk, output = CallDesk(self._settings, self._shelf, host), Output(self._settings.output_bytes)
            value: Any = None
            try:
                try:
                    status, value, error = await self._execute(program, desk, output)
                except UnrestError:
                    # The last program pretended to have ended. Without it, its successor gets its turn.
                    await self._discard()
                    self._records = self._records[:-1]
                    notes = (RESTARTED, *await self._ready())
                    status, value, error = await self._execute(program, desk, output)
                self._records.append({"program": program, "status": status, "calls": desk.answers})
            except EndedError as ended:
                status, error = ended.status, ended.text
                await self._discard()
                notes = (*notes, self._lost())
            except BaseException:  # cancelled, or the host failed: how far the program came is unknown
                await self._discard()
                raise
            return ProgramOutcome(
                status=status,
                output=output.text,
                output_truncated=output.truncated,
                value=value,
                error=error,
                duration_s=time.monotonic() - began,
                calls=desk.calls,
                tier=self._tier,
                notes=notes,
            )

    async def close(self) -> None:
        async with self._lock:
            self._closed = True
            await self._discard()
            self._shelf.close()

    @abstractmethod
    async def _open(self) -> None:
        """Make a fresh executor without variables."""

    @abstractmethod
    async def _discard(self) -> None:
        """Throw the executor away, if there is one; must work while a program runs in it."""

    @abstractmethod
    def _state(self) -> str:
        """Return "ready", "none" (there is no executor) or "broken" (it did what it may not while idle)."""

    @abstractmethod
    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        """Run a program; return status, value and error.

        Raises:
            EndedError: If the executor had to be, or was, ended.
        """

    async def _ready(self) -> tuple[str, ...]:
        """Make sure that an executor waits with the variables of the record; return notes for the agent."""
        notes: tuple[str, ...] = ()
        state = self._state()
        if state == "broken":
            notes = (RESTARTED,)
            await self._discard()
        fresh = state != "ready"
        if fresh:
            await self._open()
        if not self._records or (not fresh and self._number):
            return notes
        try:
            await self._replay()
        except _REPLAY_REASONS as error:
            await self._discard()
            self._records = []
            await self._open()
            return (*notes, f"The variables of your earlier programs are lost ({error}). Define them again.")
        except BaseException:
            await self._discard()
            raise
        return notes

    async def _replay(self) -> None:
        for number, entry in enumerate(self._records, start=1):
            desk = CallDesk(self._settings, self._shelf, Recorded(number, entry["calls"]))
            status, _, _ = await self._execute(entry["program"], desk, Output(0))
            if status != entry["status"] or len(desk.answers) != len(entry["calls"]):
                raise DivergedError(f"program {number} did not do the same when it was run again")

    def _lost(self) -> str:
        if self._records:
            return "What this program defined is lost; the variables of your earlier programs will be there again."
        return "What this program defined is lost."
