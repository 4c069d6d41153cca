"""The `maia` command's way in: whatever the user's shell holds, the program below starts in the same state.

It is a module of its own at the top level, because a folder called `tools` or `agents` on PYTHONPATH must not
be taken for this program's packages, and the ones that are imported first decide that.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGES = ("actors", "tools", "agents", "experiments")


class OwnPackages:
    """Finds this program's packages beside this file, before anything on `sys.path` is looked at."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return (
            PathFinder.find_spec(name, [str(Path(__file__).resolve().parent)]) if name in PACKAGES else None
        )


def main() -> None:
    """Run the command line in a sound environment; replaces the process once where Python must start
    differently.
    """
    if not sys.platform.startswith(("linux", "darwin")):
        print(
            f"error: maia runs on Linux, and this is {sys.platform}. On Windows, use WSL 2.", file=sys.stderr
        )
        sys.exit(2)
    _open_standard_streams()
    flags = sys.getfilesystemencoding(), sys.warnoptions, sys.flags.optimize
    if changes := needed_environment(dict(os.environ), *flags):
        os.environ.update(changes)
        os.execv(sys.executable, [sys.executable, *_without_flags(sys.orig_argv[1:])])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets a question mark, not an error.
            stream.reconfigure(errors="replace")
    sys.meta_path.insert(0, OwnPackages)
    from experiments.cli.main import main as command_line

    command_line()


def needed_environment(
    environment: dict[str, str], encoding: str, warnings: list[str], optimize: int
) -> dict[str, str]:
    """Return the variables with which Python must be started again, {} where it runs as it should.

    Files and names are UTF-8 whatever the locale is. Warnings that end the process are for a project's own
    tests: libraries warn while they are imported. Some also need the docstrings that optimization level 2
    removes.
    """
    changes = {}
    if encoding != "utf-8":
        changes["PYTHONUTF8"] = "1"
    if any(option.startswith("error") for option in warnings):
        changes["PYTHONWARNINGS"] = "default"
    if optimize > 1:
        changes["PYTHONOPTIMIZE"] = "0"
    # Of a second start with the same wish nothing better would come.
    return {name: value for name, value in changes.items() if environment.get(name) != value}


def _without_flags(words: list[str]) -> list[str]:
    """Return Python's arguments without -W and -O, which would win over the variables."""
    kept: list[str] = []
    words = list(words)
    while words and words[0].startswith("-") and words[0] not in ("-c", "-m"):
        flag = words.pop(0)
        if flag == "-W":
            words.pop(0)
        elif not flag.startswith(("-W", "-O")):
            kept += [flag, words.pop(0)] if flag == "-X" else [flag]
    return kept + words


def _open_standard_streams() -> None:
    """Open the null device where a standard stream is closed: else the next file that is opened gets its
    number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


if __name__ == "__main__":
    main()
