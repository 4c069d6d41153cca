"""The command line in this process."""

from __future__ import annotations

from experiments.cli import main as cli


def maia(*words: object) -> int:
    """Run a command and return its exit code."""
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
