"""Where a run is: a folder, or a URL, whose working copy is a folder of the cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.errors import UsageError
from experiments.setup.console import Console

if TYPE_CHECKING:
    from typer.models import ArgumentInfo, OptionInfo

_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes whose URLs begin with a bucket; of others, such as `file`, the host may be left out."""


@dataclass(frozen=True)
class Url:
    """What a user wrote in place of a folder."""

    text: str


def place(text: str | Path) -> Path | Url:
    """Return the folder or the URL that a command line names.

    Raises:
        UsageError: If the URL names no place: `s3://`, with its slashes cut off, would be a folder of this
            machine.
    """
    from agents.records.remote import is_url

    if not (isinstance(text, str) and is_url(text)):
        return Path(text)
    scheme, _, rest = text.partition("://")
    if not rest.strip("/") or (rest.startswith("/") and scheme.lower() in _BUCKETS):
        raise UsageError(f"{text} names no bucket or folder.", f"Write {scheme.lower()}://BUCKET/PATH.")
    return Url(f"{scheme.lower()}://{rest.rstrip('/')}")


def here(text: str | Path) -> Path:
    """Return a path of this machine, where a URL will not do.

    Raises:
        UsageError: If it is a URL: as a path, it would be a folder called `s3:`.
    """
    if isinstance(place(text), Url):
        raise UsageError(f"{text} is a URL; a folder or file of this machine is needed here.", "Copy it.")
    return Path(text)


def _work(ctx: typer.Context, value: Any) -> Any:
    """Work on the run at a URL, in its working copy, until the command ends."""
    if not isinstance(value, Url):
        return value
    from agents.records.remote import RemoteStore, mirrored

    folder = working_copy(ctx, value)
    ctx.with_resource(
        opened(
            mirrored(
                RemoteStore(value.text),
                folder,
                notify=Console().say,
                stop=lambda: os.kill(os.getpid(), signal.SIGINT),
            )
        )
    )
    return folder


def read(ctx: typer.Context, value: Any) -> Any:
    """Read the run at a URL, in its working copy, until the command ends."""
    return _followed(ctx, value) if isinstance(value, Url) else value


def searched_run(ctx: typer.Context, text: str) -> Path | None:
    """Return the run that a text names, a folder or a URL, None where it names a network."""
    from experiments.records.lookup import is_run

    named = place(text)
    if isinstance(named, Url):
        return _followed(ctx, named)
    # Networks with a slash in their names have a source before it, or a checkpoint.
    return named if is_run(named) or ("/" in text and not {":", "@"} & set(text)) else None


def _read_records(ctx: typer.Context, value: Any) -> Any:
    return _followed(ctx, value, images=False) if isinstance(value, Url) else value


def _read_to_export(ctx: typer.Context, value: Any) -> Any:
    """As `read`. A working copy that was only read is thrown away when work begins there, and a file in it
    with it.
    """
    if isinstance(value, Url) and ctx.params.get("out") is None:
        raise UsageError(
            f"{value.text} is at a URL, and exports are files of this machine.",
            "Name a file to write with --out.",
        )
    return read(ctx, value)


def _read_unit(ctx: typer.Context, value: Any) -> Any:
    if not isinstance(value, Url):
        return value
    run, _, unit = value.text.rpartition("/")
    if not run.partition("://")[2].strip("/"):
        raise UsageError(
            f"{value.text} names no unit of a run.", f"Write {value.text}/RUN/UNIT, as layer:number."
        )
    return _followed(ctx, Url(run)) / unit


def _read_run_or_unit(ctx: typer.Context, value: Any) -> Any:
    if not isinstance(value, Url):
        return value
    from agents.records.manifest import KEY
    from agents.records.remote import RemoteStore

    above = value.text.rpartition("/")[0]
    if "/" not in value.text.partition("://")[2]:
        return _read_unit(ctx, value)  # refuses a bucket alone, without asking for it
    named = RemoteStore(value.text)
    named.check()
    if named.has(KEY):
        return _followed(ctx, value)
    if not RemoteStore(above).has(KEY):
        raise UsageError(
            f"there is no run at {value.text}, and none at {above} of which it could be a unit.",
            "Name the --out of a run, or a unit of it as URL/layer:number.",
        )
    return _read_unit(ctx, value)


def _followed(ctx: typer.Context, url: Url, *, images: bool = True) -> Path:
    from agents.records.remote import followed

    folder = working_copy(ctx, url)
    ctx.with_resource(opened(followed(url.text, folder, images=images)))
    return folder


@contextmanager
def opened(manager: AbstractAsyncContextManager[None]) -> Iterator[None]:
    """Keep an asynchronous context open in a thread of its own."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(manager):
        yield


def working_copy(ctx: typer.Context, url: Url) -> Path:
    """Return the folder for the run at a URL, below the cache of the command's configuration."""
    from agents.records import remote
    from experiments.setup.config import load

    return remote.working_copy(load(ctx.params.get("config")).cache, url.text)


def out_option(help: str) -> OptionInfo:
    """Return the option that says where results go."""
    option: OptionInfo = typer.Option(help=help, parser=place, callback=_work, metavar="DIR|URL")
    return option


def run_argument(help: str, callback: Any = None) -> ArgumentInfo:
    """Return the argument that names a run."""
    argument: ArgumentInfo = typer.Argument(help=help, parser=place, callback=callback, metavar="DIR|URL")
    return argument


RunArgument = Annotated[Path, run_argument("The --out folder, or URL, of a run.", read)]
RunRecords = Annotated[Path, run_argument("The --out folder, or URL, of a run.", _read_records)]
"""As `RunArgument`, for commands that read no images."""
EarlierRun = Annotated[
    Path | None,
    typer.Option(
        help="An earlier run to predict from [default: those below runs/ with the same models and settings].",
        parser=place,
        callback=_read_records,
        metavar="DIR|URL",
    ),
]
ExportedRun = Annotated[Path, run_argument("The --out folder, or URL, of a run.", _read_to_export)]
OpenRun = Annotated[Path, run_argument("The --out folder, or URL, of a run, which is added to.", _work)]
UnitPath = Annotated[
    Path,
    typer.Argument(
        help="DIR/UNIT: an --out folder or URL and a unit of it, as layer:number.",
        parser=place,
        callback=_read_unit,
        metavar="DIR|URL/UNIT",
    ),
]
RunOrUnitPath = Annotated[
    Path,
    typer.Argument(
        help="DIR/UNIT: an --out folder or URL and a unit of it, as layer:number; a DIR alone for all its "
        "units.",
        parser=place,
        callback=_read_run_or_unit,
        metavar="DIR[/UNIT]|URL/UNIT",
    ),
]
