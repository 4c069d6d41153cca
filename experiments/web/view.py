"""`maia view`: a run's report in the browser, live while the run is at work."""

from __future__ import annotations

import asyncio
import errno
from contextlib import nullcontext
from pathlib import Path

from actors.errors import UsageError
from experiments.setup.console import Console
from experiments.web.local_server import shown_in_browser


async def view(console: Console, run_dir: Path, *, port: int = 0, open_browser: bool = True) -> None:
    """Serve the report on the loopback address until interrupted.

    Raises:
        UsageError: If there is no such run, or the port is taken.
    """
    from experiments.web.report_server import RunServer

    try:
        server = await asyncio.to_thread(RunServer, run_dir, port=port)
    except OSError as error:
        # One that names a file is not the port's.
        if error.filename is not None or error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}).", "Choose another with --port."
        ) from error
    try:
        console.say(f"{server.entry} (Ctrl-C ends)")
        with shown_in_browser(server.entry) if open_browser else nullcontext():
            await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(server.close)
