"""The `maia` command: what it is made of, and how it ends."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from actors.errors import MaiaError, UsageError
from experiments.cli import effects, evaluation, labels, machine, outside, runs, setup, study
from experiments.cli.groups import GroupedCommands
from experiments.setup.console import Console

_NOT_ALLOWED = (errno.EACCES, errno.EPERM)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
_BROKEN = (errno.EIO, errno.ESTALE)
"""A disk that is full or read-only, and one that is damaged or gone: nothing that a program could have done
better.
"""

_LONGEST_SHOWN = 200
"""Characters of a file's name in a message."""

app = typer.Typer(
    name="maia",
    cls=GroupedCommands,
    help="Interpret vision networks automatically: agents experiment on a unit until they can say what "
    "drives it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (setup, study, labels, effects, outside, runs, evaluation, machine):
    app.add_typer(room.commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"maia {version('maia')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Interpret vision networks: agents experiment on a unit until they can say what drives it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit codes 0, 1 (something failed), 2 (wrong use), 130 (interrupted).

    `arguments` are the words after `maia`; None takes those of this process.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Without standalone mode a command's exit code comes back as a value.
        if code := app(arguments, prog_name="maia", standalone_mode=False):
            sys.exit(code)
    except MaiaError as error:
        _fail(error)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except SystemExit as stop:
        # Typer's own answer to Ctrl-C, without a word.
        if stop.code == 130:
            _end_interrupted()
        raise
    except (KeyboardInterrupt, typer.Abort):
        _end_interrupted()
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        known = [error for error in errors if isinstance(error, MaiaError)]
        if not known:
            raise
        _fail(known[0])
    except OSError as error:
        if error.errno in _NOT_ALLOWED and error.filename is not None:
            Console().fail(
                UsageError(
                    f"{error.filename} cannot be read or written ({error.strerror}).",
                    "Change its permissions, or work on a copy of the folder.",
                )
            )
            sys.exit(2)
        if error.errno in _NO_NAME:
            name = str(error.filename)
            shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..."
            _fail(UsageError(f"{shown} can be no file ({error.strerror}).", "Give it another name."))
        if error.errno not in (*_NO_ROOM, *_BROKEN):
            raise
        where, what = error.filename or "a file", "written" if error.errno in _NO_ROOM else "read or written"
        Console().fail(
            MaiaError(f"{where} cannot be {what}: {error.strerror}.", "Mend that, and repeat the command.")
        )
        sys.exit(1)
    except Exception as error:
        # Typer brings a click of its own under a private name: its usage errors are known by what they can
        # do.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        sys.exit(2)


def _fail(error: MaiaError) -> NoReturn:
    from agents.records.run_files import RecordError

    Console().fail(error)
    sys.exit(2 if isinstance(error, UsageError | RecordError) else 1)


def _end_interrupted() -> None:
    Console().say("interrupted; repeat the command to resume")
    sys.exit(130)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Any:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
