"""A sandbox whose running program can be ended from elsewhere, so that the study goes on without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tools.sandbox import ExecutedProgram, ImageSource, ProgramOutcome, Sandbox, Tier, ToolHost

_ENDED = "The client cancelled this call; what its tools had not done yet was not done."


class InterruptibleSandbox:
    """See `Sandbox`. A program that is interrupted has an outcome that says so."""

    def __init__(self, sandbox: Sandbox, tier: Tier) -> None:
        self._sandbox, self._tier = sandbox, tier
        self._running: asyncio.Task[ProgramOutcome] | None = None
        self._interrupted = False

    def interrupt(self) -> bool:
        """End the running program; return whether there was one."""
        if self._running is None or self._running.done():
            return False
        self._interrupted = True
        return self._running.cancel()

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        self._interrupted = False
        self._running = asyncio.ensure_future(self._sandbox.run(program, host))
        try:
            return await self._running
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if not self._interrupted or (this is not None and this.cancelling()):
                raise
            return ProgramOutcome(
                status="died",
                output="",
                output_truncated=False,
                value=None,
                error=_ENDED,
                duration_s=0.0,
                calls=0,
                tier=self._tier,
                notes=("What this program defined is lost.",),
            )
        finally:
            self._running = None

    @property
    def record(self) -> list[ExecutedProgram]:
        return self._sandbox.record

    def restore(self, records: Sequence[ExecutedProgram], images: ImageSource) -> None:
        self._sandbox.restore(records, images)

    async def close(self) -> None:
        await self._sandbox.close()
