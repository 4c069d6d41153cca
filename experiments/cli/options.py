"""What commands share: their options, how they run and end, and what they ask before they spend."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.records.run_files import RecordError
from agents.records.work import MOST_REPEATS
from experiments.setup.console import Console, printable
from experiments.setup.run_folder import remove_if_created

Model = Annotated[
    str, typer.Argument(help="Network, such as tf_efficientnet_lite0, hf:OWNER/NAME, python:MODULE:FACTORY.")
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="Profile of the configuration file [default: its default_profile, `embedded` as it comes].",
    ),
]
ConfigPath = Annotated[
    Path | None,
    # Read first: where the working copy of a URL is depends on it.
    typer.Option("--config", is_eager=True, help="Configuration file [default: ./ray_config.yaml]."),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="Images for exemplars: a folder, a list of paths (.txt, .csv), FILE.npy, hf:ID [default: the "
        "profile's]."
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        help="File of class names in the order of the output: .txt, .json, .yaml or .csv [default: the "
        "network's]."
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_REPEATS,
        help="Studies of each unit with seeds of their own; how far they agree is told, and one answer is "
        "pooled.",
    ),
]
FewImages = Annotated[bool, typer.Option("--few-images", help="Go on with fewer than 30 distinct images.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Spend what it takes without asking.")]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="Log what happens (-vv: everything)."
    ),
]


TrustRun = Annotated[
    bool,
    typer.Option(
        "--trust", help="Load code, weights and images of this machine that the run names, without asking."
    ),
]
RunModel = Annotated[
    str | None, typer.Option("--model", help="The run's network, named again [default: as recorded].")
]


def trust_of(given: bool) -> Any:
    """Return what the person agrees to load of what a run names; on a terminal they are asked."""
    from experiments.records.trust import Trust

    asked = sys.stdin.isatty() and sys.stderr.isatty()
    return Trust(given, (lambda question: typer.confirm(printable(question), err=True)) if asked else None)


LARGEST_SEED = 2**32 - 1
"""Every library that is given a seed takes this one."""


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
    """End this process without closing anything: records are whole at any moment, and children end with it."""
    Console().say("ended at once; repeat the command to go on from here")
    os._exit(130)


def run(work: Coroutine[Any, Any, Any], folder: Path | None = None) -> Any:
    """Run a command's coroutine; Ctrl-C once cancels it, twice ends the process.

    `folder` is its run directory: where nothing comes of the work, none is left behind.
    """
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


def examples(*lines: str) -> str:
    """Return a command's examples as its help shows them, one a line."""
    # The control character keeps click from filling the lines into a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def approve(
    config: Path | None,
    profile: str | None,
    yes: bool,
    count: Callable[[], int],
    *,
    model: str = "",
    task: str = "describe",
) -> None:
    """Ask before studies that may cost more than their profile lets pass; `count` says how many there are to
    do.

    What earlier studies of the same `task`, of the network `model` first, have cost predicts it.
    """
    from experiments.cli import confirm_cost as approval
    from experiments.runs.precedents import Wanted
    from experiments.setup.config import load
    from experiments.setup.spending import may_charge

    loaded = load(config)
    chosen = loaded.profile(profile)
    if not may_charge(chosen):
        return
    wanted = Wanted(model, profile or loaded.default_profile, task)
    found = approval.predict(chosen, count(), wanted, cache=loaded.cache)
    asked = None
    if sys.stdin.isatty() and sys.stderr.isatty():

        def asked(question: str) -> bool:
            return typer.confirm(question, err=True)

    Console().say(approval.approve(found, chosen.ask_above_dollars, yes=yes, ask=asked))


def units_left(
    config: Path | None, profile: str | None, folder: Path, model: str, layers: str | None, asked: str
) -> int:
    """Return how many units a sweep of `layers` in `folder` has still to study, or without them an audit's
    classes.

    Raises:
        UsageError: If a network has to be loaded to count its units, and an endpoint of the profile cannot
            work.
    """
    from experiments.cli import confirm_cost as approval
    from experiments.setup.config import Profile
    from experiments.setup.endpoint_check import require_endpoints

    async def ask(chosen: Profile) -> None:
        # Warnings are told when the models are started.
        await require_endpoints(chosen, lambda _: None)

    def count() -> int:
        names = (layers or "output").split(",")
        return int(run(approval.count_units(config, profile, model, names, asked, ask)))

    extent = {"asked": asked} if layers is None else {"asked": asked, "layers": layers.split(",")}
    return approval.unfinished(folder, extent, count)


def finished_studies(folder: Path) -> int:
    """Return how many studies have a result in the runs below a folder."""
    return sum(1 for _ in folder.glob("**/units/*/done.json"))


def default_run(name: str) -> Path:
    """Return the folder of a run for which nobody named one."""
    from agents.records.journal import slug

    return Path("runs") / slug(name)


def show_report(console: Console, run: Path) -> None:
    """Write the run's report and say where it is; the results are safe without it."""
    from experiments.report import write_site

    try:
        console.show(f"report: {write_site(run)}", markup=False)
    except (OSError, RecordError) as error:
        why = error.message if isinstance(error, RecordError) else error.strerror
        console.warn(f"the report could not be written ({why}): maia report {run}")


def end(summary: dict[str, Any]) -> None:
    """End with the exit code of a run of many items."""
    if summary["paused"]:
        raise typer.Exit(130)
    if summary["stopped"] or summary["failed"] or summary["state"] != "finished":
        raise typer.Exit(1)
