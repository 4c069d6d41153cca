"""`maia view`: a run in the browser, live while it is at work, with a playground on pages of units."""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import UsageError
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.web.local_server import shown_in_browser

if TYPE_CHECKING:
    from experiments.records.trust import Trust
    from experiments.web.trials import Carrier, TrialsOnLoop


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """Which run is to be shown, and how."""

    run: Path
    port: int = 0
    open_browser: bool = True
    playground: Selection | None = None
    """What trials work with; None is without trials."""


async def view(console: Console, request: ViewRequest, trust: Trust, *, json: bool = False) -> None:
    """Serve the report on the loopback address until interrupted.

    Raises:
        UsageError: If there is no such run, or the port is taken.
    """
    from experiments.web.report_server import RunServer

    async with AsyncExitStack() as stack:
        trials: TrialsOnLoop | None = None
        if request.playground is not None:
            from experiments.web.trials import TrialsOnLoop

            selection = request.playground
            trials = TrialsOnLoop(
                lambda: _playground(request.run, selection, trust), asyncio.get_running_loop()
            )
            stack.push_async_callback(trials.close)
        try:
            server = await asyncio.to_thread(RunServer, request.run, port=request.port, trials=trials)
        except OSError as error:
            # One that names a file is not the port's.
            if error.filename is not None or error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise UsageError(
                f"port {request.port} cannot be used ({error.strerror}).", "Choose another with --port."
            ) from error
        stack.push_async_callback(asyncio.to_thread, server.close)
        if json:
            console.result({"url": server.entry})
        else:
            console.say(f"{server.entry} (Ctrl-C ends)")
        with shown_in_browser(server.entry) if request.open_browser else nullcontext():
            await asyncio.Event().wait()


def _playground(run: Path, selection: Selection, trust: Trust) -> Carrier:
    from experiments.web.playground import playground_of

    return playground_of(run, selection, trust)
