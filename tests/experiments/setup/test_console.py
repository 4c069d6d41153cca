"""What a person sees: progress on a terminal alone, tables that fit it, and lines in a pipe."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from experiments.setup.console import Console, counted

WIDE = (
    "a cell that is a good deal wider than any terminal of eighty columns could show in one line, by its "
    "length"
)


def wide() -> Table:
    table = Table("what", "found", box=None)
    table.add_row("first", WIDE)
    return table


def test_a_row_of_a_table_is_one_line_in_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    Console().show(wide())
    lines = capsys.readouterr().out.splitlines()
    assert any(WIDE in line for line in lines)
    assert not any(line.endswith(" ") for line in lines)


def test_columns_set_the_width_of_a_table_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    Console().show(wide())
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize("kind", [str, Text, lambda text: Panel(Text(text)), lambda text: Group(Text(text))])
def test_no_text_gives_a_terminal_orders(kind, capsys, monkeypatch):
    """Whatever it is shown in, and whether or not whoever built it thought of that."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    orders = "title\x1b]0;mine\x07 \x9b31m red \u202e turned"
    table = Table(orders, title=orders)
    table.add_row(kind(orders))
    Console().show(kind(orders), table)
    Console().warn(orders)
    printed = "".join(capsys.readouterr())
    assert "turned" in printed
    assert not re.search("\x1b]|\x07|\x9b|\u202e", printed)


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_waiting_is_shown_on_a_terminal_alone(capsys, monkeypatch, terminal):
    monkeypatch.setenv("TERM", terminal)
    with Console().waiting("loading a network"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Console().waiting("loading a network"):
        pass
    output = capsys.readouterr().err
    assert "loading a network" in output
    assert ("\x1b[?25l" in output) is (terminal == "xterm"), "a terminal that cannot redraw is sent no cursor"


@pytest.mark.parametrize(
    ("number", "message"), [(0, "0 classes"), (1, "1 class"), (2, "2 classes"), (2048, "2,048 classes")]
)
def test_one_thing_is_no_several(number, message):
    assert counted(number, "class", "classes") == message


def test_a_closed_stdout_is_no_fault(monkeypatch, capfd):
    monkeypatch.setattr("sys.stdout", None)
    Console().show("a line", wide())
    Console().result({"a": 1})
    assert capfd.readouterr() == ("", "")


def test_a_reader_that_has_seen_enough_is_no_fault():
    """As `maia models | head -1`: it ends at once, without a traceback."""
    script = (
        "import sys; from experiments.cli import main as cli\n"
        "@cli.app.command()\n"
        "def much():\n"
        "    from experiments.setup.console import Console\n"
        "    for _ in range(20000): Console().show('line')\n"
        "sys.argv = ['maia', 'much']; cli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    output = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert output == b""
