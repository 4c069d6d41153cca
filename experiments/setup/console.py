"""What a person sees while a command runs: progress and logs on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import Group
    from rich.text import Text

    from actors.serving.backend import Readiness


_LOGGED = ("actors", "tools", "agents", "experiments")


def configure_logging(verbosity: int) -> None:
    """Send this program's logs to stderr: warnings, with -v what happens, with -vv everything."""
    import structlog

    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    said: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S"),
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=said,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _make_printable,
                structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
        )
    )
    for name in _LOGGED:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
    structlog.configure(
        processors=[*said, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _make_printable(_logger: Any, _method: str, event: Any) -> Any:
    """Servers and models may have written what is logged."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


_LINE_EVERY_S = 10.0
_UNBOUNDED = 10_000
"""Columns, more than any table has."""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is, as a terminal shows it."""

    share: float
    """Of the work, from 0 to 1."""
    headline: str
    """What stands beside the bar."""
    lines: tuple[str, ...]
    """What stands below it."""

    def render(self) -> Group:
        """Return a line with a bar, and the others, cut where the terminal ends."""
        from rich.console import Group
        from rich.progress import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 2))
        percent = f"{self.share:.0%}".rjust(4)
        bar.add_row(ProgressBar(1.0, self.share, 26), percent, Text(printable(self.headline), no_wrap=True))
        cut = (Text(printable(line), "dim", no_wrap=True, overflow="ellipsis") for line in self.lines)
        return Group(bar, *cut)


class Console:
    """Progress for people on stderr; nothing but the result on stdout."""

    _begun: float | None = None
    """When this process first had a message: all its consoles count from there."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        Console._begun = self._started = Console._begun or time.monotonic()

    @cached_property
    def _rich(self) -> RichConsole:
        return _terminal()(stderr=True, highlight=False, soft_wrap=True)

    @property
    def _redraws(self) -> bool:
        """Return whether a message can be replaced in its place: a terminal with TERM=dumb cannot."""
        return self._rich.is_terminal and not self._rich.is_dumb_terminal

    def say(self, text: str) -> None:
        """Show one step, with the seconds since the start."""
        if not self._quiet:
            self._print(f"[dim]{time.monotonic() - self._started:6.1f}s[/dim] {plain(text)}", 8)

    def warn(self, text: str) -> None:
        self._print(f"[yellow]warning:[/yellow] {plain(text)}", 9)

    def fail(self, error: MaiaError) -> None:
        """Show what went wrong and what to do, without a traceback."""
        self._print(f"[red]error:[/red] {plain(error.message)}", 7)
        if error.fix:
            self._print(f"       {plain(error.fix)}", 7)

    def _print(self, markup: str, indent: int) -> None:
        from rich.text import Text

        self._rich.print(wrapped(Text.from_markup(markup), self._rich, indent))

    def result(self, value: Any) -> None:
        """Print one JSON object on stdout."""
        _print(json_text(value) + "\n")

    def show(self, *renderables: Any, markup: bool = True) -> None:
        """Print for a person, on stdout; without `markup`, text is printed as `printable` leaves it.

        Tables fit the terminal, and lines are broken at words; in a pipe or a file a row is a line, unless
        COLUMNS says how wide it may be. Brackets in a table are no markup: names of layers have some.
        """
        from rich.text import Text

        out = _terminal()(highlight=False, soft_wrap=True, markup=False)
        if not out.is_terminal and "COLUMNS" not in os.environ:
            out.width = _UNBOUNDED
        with out.capture() as printed:
            for renderable in renderables:
                if isinstance(renderable, str):
                    text = Text.from_markup(renderable) if markup else Text(printable(renderable))
                    renderable = wrapped(text, out)
                out.print(renderable)
        shown = printed.get()
        if not out.is_terminal:
            shown = "".join(f"{line.rstrip()}\n" for line in shown.splitlines())
        _print(shown)

    @contextmanager
    def progress(self, label: str) -> Iterator[Any]:
        """Yield update(done, total): a bar on a terminal, a line every tenth elsewhere."""
        if self._quiet:
            yield lambda _done, _total: None
            return
        if not self._redraws:
            shown = [-1]

            def update(done: int, total: int) -> None:
                tenth = 10 * done // max(total, 1)
                if tenth > shown[0]:
                    shown[0] = tenth
                    self.say(f"{label}: {done} of {total}")

            yield update
            return
        from rich import progress

        columns = (
            progress.TextColumn("       {task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal what is waited for, as long as it lasts; elsewhere nothing."""
        if not self._quiet and self._redraws:
            with self._rich.status(plain(text)):
                yield
            return
        if self._rich.is_terminal:
            self.say(text)
        yield

    @contextmanager
    def live(self) -> Iterator[Callable[[RunProgress], None]]:
        """Yield show(progress): redrawn in its place on a terminal, a line every ten seconds elsewhere."""
        if self._quiet:
            yield lambda _progress: None
        elif self._redraws:
            from rich.live import Live

            with Live(console=self._rich, transient=True, refresh_per_second=4) as live:
                yield lambda progress: live.update(progress.render())
        else:
            shown_at = [-_LINE_EVERY_S]

            def show(progress: RunProgress) -> None:
                if time.monotonic() - shown_at[0] >= _LINE_EVERY_S:
                    shown_at[0] = time.monotonic()
                    self.say("; ".join((progress.headline, *progress.lines)))

            yield show


@cache
def _terminal() -> type[RichConsole]:
    """Return the class of a console on which all text is `printable`, whoever wrote the cells of a table."""
    from rich.console import Console as RichConsole
    from rich.segment import Segment

    class Terminal(RichConsole):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return Terminal


def wrapped(text: Text, console: RichConsole, indent: int | None = None) -> Text:
    """Return text broken at words for a terminal, each line with the indent of its first or so many columns;
    elsewhere as it is.

    What is longer than a line, such as a path, stays whole, so that it can be copied.
    """
    from rich.cells import cell_len
    from rich.text import Text

    if not console.is_terminal:
        return text
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        own = len(line.plain) - len(line.plain.lstrip()) if indent is None else indent
        breaks, column = [], 0
        for word in re.finditer(r"^\s*\S*\s*|\S+\s*", line.plain):
            if column > own and column + cell_len(word[0].rstrip()) > console.width:
                breaks.append(word.start())
                column = own
            column += cell_len(word[0])
        first, *others = line.divide(breaks)
        lines += [first, *(Text(" " * own) + other for other in others)]
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def mark(state: Readiness) -> Text:
    """Return how a table shows whether something can be used."""
    from rich.text import Text

    return {
        "ready": Text("ok", "green"),
        "not asked": Text("not asked", "yellow"),
        "optional": Text("optional", "dim"),
        "missing": Text("no", "red"),
    }[state]


def _print(text: str) -> None:
    # Unlike a write of our own, this is none where a person has closed stdout.
    print(text, end="", flush=True)


def printable(text: str) -> str:
    """Return text for a terminal: what may move the cursor, set colors, link, or turn the writing direction
    is replaced.

    Run directories and models may write any of it. Newlines and tabs stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(text: str) -> str:
    """Return `printable` text as rich's markup, in which none of it is a tag."""
    from rich.markup import escape

    return escape(printable(text))


def json_text(value: Any) -> str:
    """Return one line of JSON; characters that a terminal would act on are escaped as JSON does it."""
    from agents.records.store import finite

    text = json.dumps(finite(value), ensure_ascii=False, sort_keys=True, allow_nan=False)
    return (
        text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    )


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number of things in words, as "1 unit" and "2,048 units"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def money(dollars: float, unknown: object) -> str:
    """Return a cost in words: `dollars` have a known price, and `unknown` is true where something else has
    not.
    """
    known = f"${dollars:,.2f}"
    if not unknown:
        return known
    return f"{known} + unknown" if dollars else "unknown"
