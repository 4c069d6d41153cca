"""The options that commands share."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.records import MOST_REPEATS
from experiments.setup.console import Console, configure_logging, printable

if TYPE_CHECKING:
    from experiments.setup.selection import Selection

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
    typer.Option(
        "--config", is_eager=True, help="Configuration file [default: ./maia.yaml, ./ray_config.yaml]."
    ),
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


def examples(*lines: str) -> str:
    """Return a command's examples as its help shows them, one a line."""
    # The control character keeps click from filling the lines into a paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def default_run(name: str) -> Path:
    """Return the folder of a run without --out."""
    from agents.records.journal import slug

    return Path("runs") / slug(name)
