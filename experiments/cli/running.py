"""How commands run, what they show in the end, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from experiments.cli.options import Shared
from experiments.setup.console import Console

if TYPE_CHECKING:
    from experiments.runs.campaign import RunSummary
    from experiments.runs.replay import BranchedUnit
    from experiments.studies.describe import StudiedUnit


class Interrupts:
    """The first Ctrl-C (SIGTERM, SIGHUP) cancels a command, so that what is open is closed; a second ends it
    at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            leave_at_once()
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._task.cancel)

    async def guard(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await work


_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a command to end. One that is ignored stays so: `nohup` ignores that the terminal has gone."""


def leave_at_once() -> None:
    """End this process without closing anything: records are always whole, and children end with it."""
    Console().say("ended at once; repeat the command to resume")
    os._exit(130)


def run(work: Coroutine[Any, Any, Any], folder: Path | None = None) -> Any:
    """Run a command's coroutine; Ctrl-C once cancels it, twice ends the process.

    `folder` is its run directory: where nothing comes of the work, none is left behind.
    """
    from experiments.setup.run_folder import remove_if_created

    interrupts = Interrupts()
    ends = _ENDS if threading.current_thread() is threading.main_thread() else ()
    heard = [number for number in ends if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupts) for number in heard}
    kept = remove_if_created(folder) if folder is not None else contextlib.nullcontext()
    try:
        with kept, asyncio.Runner() as runner:
            try:
                return runner.run(interrupts.guard(work))
            except KeyboardInterrupt:
                # A command that answered the first one itself gave the second back to Python.
                leave_at_once()
            except asyncio.CancelledError:
                if interrupts.count:
                    raise KeyboardInterrupt from None
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_report(console: Console, run: Path) -> None:
    """Write the run's report and say where it is; the results are safe without it."""
    from agents.records.run_files import RecordError
    from experiments.atlas.front_page import write_report

    try:
        console.show(f"report: {write_report(run)}", markup=False)
    except (OSError, RecordError) as error:
        why = error.message if isinstance(error, RecordError) else error.strerror
        console.warn(f"the report could not be written ({why}): maia report {run}")


def show_run(console: Console, summary: RunSummary) -> None:
    """Show how a command left its run, and where its results are."""
    from agents.records.run_files import RecordError
    from experiments.records.status import card
    from experiments.runs.found import found_units, table

    with contextlib.suppress(RecordError):  # the card names what is damaged
        console.show(*table(found_units(Path(summary.status.run))))
    console.show(card(summary.status))
    console.show(f"results: {', '.join(summary.results)}\nreport: {summary.report}")


def show_study(shared: Shared, studied: StudiedUnit | BranchedUnit) -> None:
    """Show a unit's result, and end with exit code 1 where its study has none."""
    from agents.records.record_types import FailureRecord
    from experiments.studies.describe import card

    if shared.json:
        shared.console.result(studied.to_json())
    else:
        shared.console.show(card(studied.result, studied.report))
    if isinstance(studied.result, FailureRecord) or studied.result.status == "failed":
        raise typer.Exit(1)


def end(summary: RunSummary) -> None:
    """End with the exit code of a run of many items."""
    if summary.paused:
        raise typer.Exit(130)
    if summary.status.failed or not summary.finished:
        raise typer.Exit(1)
