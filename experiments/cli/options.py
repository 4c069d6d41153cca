"""What commands share: their options, how they run and end, and what they ask before they spend."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.errors import UsageError
from agents.records import MOST_REPEATS
from experiments.setup.console import Console, configure_logging, printable

if TYPE_CHECKING:
    from experiments.labels.tiers import AgentChoice
    from experiments.runs.campaign import RunSummary
    from experiments.runs.replay import BranchedUnit
    from experiments.setup.selection import Selection
    from experiments.studies.describe import StudiedUnit

Model = Annotated[
    str, typer.Argument(help="Network, such as tf_efficientnet_lite0, hf:OWNER/NAME, python:MODULE:FACTORY.")
]
Layer = Annotated[str, typer.Argument(help="Layer, as `maia layers MODEL` lists them.")]
LayerUnit = Annotated[str, typer.Argument(help="Unit of the layer, as for `maia describe`.")]
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
Agents = Annotated[
    str,
    typer.Option(
        help="Units that are given agents: all, doubtful (by labels of embeddings), top:50, budget:20 (US "
        "dollars) or query:TEXT. Other labels are tested without an agent."
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_REPEATS,
        help="Studies of each unit with seeds of their own; their agreement is reported, and one answer is "
        "pooled.",
    ),
]
FewImages = Annotated[bool, typer.Option("--few-images", help="Accept fewer than 30 distinct images.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Spend what it takes without asking.")]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="Log what happens (-vv: everything)."
    ),
]


_SHARED: dict[str, tuple[Any, Any]] = {
    "data": (Data, None),
    "class_names": (ClassNames, None),
    "few_images": (FewImages, False),
    "profile": (ProfileName, None),
    "json": (Json, False),
    "config": (ConfigPath, None),
    "verbose": (Verbose, 0),
}
"""Types and defaults of the options that many commands have."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the shared options of a command line say."""

    selection: Selection
    console: Console
    json: bool

    def show(self, result: Any, *shown: Any) -> None:
        """Show a result: as JSON if that is asked for, else what it is `shown` as."""
        if self.json:
            self.console.result(asdict(result))
        else:
            self.console.show(*shown)


def shared_options(
    *more: str, verbose: bool = True, quiet_json: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command --profile, --json, --config and --verbose, and the options named in `more`.

    The command gets them as its first argument, `shared`. With `quiet_json`, --json silences progress.
    """
    usual = ("profile", "json", "config", *(["verbose"] if verbose else []))
    names = [name for name in _SHARED if name in (*more, *usual)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            from experiments.setup.selection import Selection

            chosen = {name: values.pop(name) for name in names}
            configure_logging(chosen.pop("verbose", 0))
            json = chosen.pop("json")
            console = Console(quiet=quiet_json and json)
            command(Shared(Selection(**chosen), console, json), **values)

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "shared"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in _SHARED.items()
            if name in names
        ]
        wrapper.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return wrapper

    return decorate


LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of the data set with the class of each image [default: label, y, class ...]."),
]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of the data set that names its image files, or holds images.")
]
Attributes = Annotated[
    str | None,
    typer.Option(help="Columns to form subgroups by, with commas [default: those of 2 to 20 values]."),
]
LabelNames = Annotated[
    str | None,
    typer.Option(help="The network's class of each label: 0=landbird,1=waterbird, or a file of names."),
]


def with_columns(
    selection: Selection, image: str | None, label: str | None, attributes: str | None
) -> Selection:
    """Return the selection with the columns of the data set that hold images, labels and attributes."""
    from actors.vision.data.labels import ColumnSettings

    named = tuple(name.strip() for name in (attributes or "").split(",") if name.strip())
    return replace(selection, columns=ColumnSettings(image=image or "", label=label or "", attributes=named))


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


def seed_option(help: str) -> Any:
    """Return the option of a seed."""
    return typer.Option(min=0, max=LARGEST_SEED, help=help)


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


def examples(*lines: str) -> str:
    """Return a command's examples as its help shows them, one a line."""
    # The control character keeps click from filling the lines into a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def ask_endpoints(selection: Selection) -> None:
    """Ask a profile's endpoints whether they can work, before anything that takes time is loaded or made.

    Raises:
        UsageError: If one of them surely cannot.
    """
    from experiments.setup.spending import endpoints

    profile = selection.load().profile
    if endpoints(profile):
        from experiments.setup.endpoint_check import require_endpoints

        run(require_endpoints(profile, Console().say))


def ask_endpoints_for(selection: Selection, recorded: Path) -> None:
    """Do as `ask_endpoints` for a command on a recorded run, unless the run names a profile that the person
    has not chosen.
    """
    from experiments.records.lookup import read_manifest
    from experiments.setup import config as configuration

    chosen = (selection.profile, configuration.load(selection.config).default_profile)
    name = selection.profile or read_manifest(recorded).profile
    if not name or name in chosen:
        ask_endpoints(replace(selection, profile=name or None))


def confirm_cost(
    selection: Selection,
    yes: bool,
    count: Callable[[], int],
    *,
    model: str = "",
    task: str = "describe",
    folder: Path | None = None,
) -> None:
    """Ask the profile's endpoints whether they can work, then the person if studies may cost more than the
    profile allows; `count` returns how many are left.

    The cost is predicted from earlier studies of the same `task`, of the network `model` first. Of a run that
    has a `folder` and nothing left to study, nobody is asked.

    Raises:
        UsageError: If an endpoint cannot work, or the cost is not confirmed.
    """
    from experiments.setup.spending import may_charge

    left = count() if folder is not None and folder.exists() else None
    if left != 0:
        ask_endpoints(selection)
    selected = selection.load()
    if not may_charge(selected.profile):
        return
    from experiments.cli.confirm_cost import confirm
    from experiments.runs.comparable_runs import EstimateSources, PredictedStudies, estimate_run

    predicted = PredictedStudies(model, selected.name, task)
    sources = EstimateSources(cache=selected.cache)
    estimated = estimate_run(selected.profile, count() if left is None else left, predicted, sources)
    ask = None
    if sys.stdin.isatty() and sys.stderr.isatty():

        def ask(question: str) -> bool:
            return typer.confirm(question, err=True)

    Console().say(confirm(estimated, selected.profile.ask_above_dollars, yes=yes, ask=ask))


def affordable(selection: Selection, model: str, agents: str) -> int | None:
    """Return how many studies are likely to cost what `--agents budget:DOLLARS` allows, None of other texts.

    Raises:
        UsageError: If a price is unknown, or studies are free.
    """
    from experiments.labels.tiers import budget_of
    from experiments.runs.comparable_runs import EstimateSources, PredictedStudies, estimate_run

    if (dollars := budget_of(agents)) is None:
        return None
    selected = selection.load()
    sources = EstimateSources(cache=selected.cache)
    study = estimate_run(selected.profile, 1, PredictedStudies(model, selected.name), sources).likely.dollars
    if not study:
        why = "the price of a study is unknown" if study is None else "studies of this profile are free"
        raise UsageError(f"{agents} cannot be kept: {why}.", "Write --agents doubtful or top:NUMBER.")
    return int(dollars // study)


def units_left(
    selection: Selection,
    folder: Path,
    model: str,
    layers: str | None,
    asked: str,
    choice: AgentChoice | None = None,
) -> int:
    """Return how many units a sweep of `layers` in `folder` has still to give agents, or without them an
    audit's classes. `choice`: which of the units are given one, at most.
    """
    from agents.records.record_types import Manifest
    from experiments.cli.confirm_cost import count_units, unfinished

    def count() -> int:
        names = (layers or "output").split(",")
        units = int(run(count_units(selection, model, names, asked)))
        return units if choice is None else choice.most(units)

    extent = Manifest(asked=asked) if layers is None else Manifest(asked=asked, layers=layers.split(","))
    return unfinished(folder, extent, count, "all" if choice is None else choice.text)


def count_results(folder: Path) -> int:
    """Return how many studies have a result in the runs below a folder."""
    return sum(1 for _ in folder.glob("**/units/*/done.json"))


def default_run(name: str) -> Path:
    """Return the folder of a run without --out."""
    from agents.records.journal import slug

    return Path("runs") / slug(name)


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
