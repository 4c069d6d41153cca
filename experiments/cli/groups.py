"""The groups in which `maia --help` lists the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperGroup

GROUPS = {
    "Start here": "describe view doctor init",
    "Study": "sweep audit session mcp label find exemplars estimate edit roles visualize attribute wiring",
    "Runs": "status note cancel report gallery atlas export replay branch diff compare",
    "Evidence": "evaluate judge ablate synthetic planted-biases robust-features",
    "Machine": "models layers cluster",
}
"""Commands by group, in order."""
_OTHERS = "More"


def grouped(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each group with those of the commands that are in it; what no group names comes last."""
    left = dict.fromkeys(names)
    for group, members in GROUPS.items():
        yield group, [name for name in members.split() if left.pop(name, 0) is None]
    if left:
        yield _OTHERS, list(left)


class GroupedCommands(TyperGroup):
    """A command whose overview has its commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for group, names in grouped(self.list_commands(ctx)):
            with formatter.section(group):
                limit = formatter.width - width - 6
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                )
