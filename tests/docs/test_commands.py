"""Every command of the documentation is one that the program understands, and those that can be run here do
run.

The tutorial runs as a newcomer types it. On other pages studies and sweeps are only parsed, because they
differ from the tutorial's in names alone; commands that read or plan are run wherever they stand.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer.main

from experiments.cli import folders
from experiments.cli import main as cli
from tests.command_line import maia

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PARSED_ONLY = {
    "init": "writes a configuration, and asks an endpoint",
    "cluster": "starts a cluster for the whole machine",
    "session": "talks to a person; tests/docs/test_notebook.py has a session",
    "mcp": "serves until its client leaves; tests/experiments/mcp_server runs it",
    "view": "serves until it is interrupted; tests/experiments/web/test_report_server.py runs it",
}
"""Commands that are never run here, and why."""
LIGHT = {"models", "doctor", "estimate", "status", "report", "export", "diff"}
"""Commands that load no network, and are run on every page; all others on the pages of `WHOLE` alone."""
WHOLE = {"tutorial.md"}
ALIKE = {"--profile", "--out"}
"""Options of studies that change no way through the program here, where all profiles have the stand-ins."""

# As ray_config.yaml, but small; profiles that need a key or a GPU have the stand-ins.
CONFIG = """
default_profile: embedded
profiles:
  embedded: &small
    dataset: scenes:60:1
    vision: {batch: 16, pretrained: false, placement: {threads: 1}}
    interpreter: {max_rounds: 2}
    confirmation: {min_images: 6, max_images: 6, block: 6, probe: 0}
    chat:
      interpreter: {backend: builtin, model: scientist}
      observers: {backend: builtin, model: observer}
  hosted: *small
  local: *small
"""


def documented() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of every `maia` line in a fenced block of a shell."""
    for page in PAGES:
        inside, shell = False, False
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.startswith("```"):
                inside = not inside
                shell = inside and line[3:].strip() in ("", "console", "sh", "bash")
            command = line.strip().removeprefix("$ ").partition("  #")[0].strip()
            if shell and command.startswith("maia "):
                yield page.name, command


def outputs() -> Iterator[tuple[str, str]]:
    """Yield (command line, output) of every block of text that follows a block of commands directly."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for commands, output in re.findall(
            r"^```console\n([^`]*)```\n\n```text\n([^`]*)```$", text, re.MULTILINE
        ):
            yield commands.strip().splitlines()[-1].removeprefix("$ "), output


def parts(output: str) -> set[str]:
    """Return how the lines of an output begin, up to a colon, a comma or a column, with # for numbers.

    A line of dots stands for what is left out.
    """
    lines = (re.sub(r"\d[\d.,]*", "#", line).strip() for line in output.splitlines())
    return {re.split(r":(?:\s|$)|\s{2,}|,\s", line)[0] for line in lines if line not in ("", "...")}


DOCUMENTED = list(dict.fromkeys(documented()))
OUTPUTS = dict(outputs())
PROGRAM = typer.main.get_command(cli.app)


def test_there_are_commands_in_the_documentation():
    assert len(DOCUMENTED) > 30


@pytest.mark.parametrize(("page", "line"), DOCUMENTED)
def test_the_program_understands_every_documented_command(page, line, monkeypatch):
    monkeypatch.setattr(folders, "opened", lambda _: nullcontext())  # a URL is a place elsewhere
    command = PROGRAM
    words = shlex.split(line.partition(" < ")[0])[1:]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{page}: maia has no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    command.make_context("maia", words)


def test_outputs_are_shown():
    assert len(OUTPUTS) >= 4


def is_run(page: str, line: str) -> bool:
    name = shlex.split(line.partition(" < ")[0])[1]
    return "://" not in line and name not in PARSED_ONLY and (page in WHOLE or name in LIGHT)


def kind(line: str) -> tuple[str, frozenset[str]]:
    """Return a command and its options: of several lines of a kind, one is run."""
    words = shlex.split(line.partition(" < ")[0])
    options = frozenset(word for word in words if word.startswith("-"))
    return words[1], options if words[1] in LIGHT else options - ALIKE


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder as a reader of the tutorial has it: its network, its images, and runs that other pages speak
    of.
    """
    from actors.vision.data.datasets import open_dataset

    scenes = open_dataset("scenes:40:3")
    (tmp_path / "images").mkdir()
    for index in range(40):
        scenes.load(index).to_pil().save(tmp_path / "images" / f"{index}.png")
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# my_network.py\n.*?)```", tutorial, re.DOTALL)
    (tmp_path / "my_network.py").write_text(source)
    (tmp_path / "ray_config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_documented_commands_run(ray_cluster, workspace, capsys):
    order = sorted((pair for pair in DOCUMENTED if is_run(*pair)), key=lambda pair: pair[0] not in WHOLE)
    kinds = set()
    for page, line in order:
        if kind(line) in kinds and line not in OUTPUTS:
            continue
        sweep = workspace / "runs" / "b6"
        if "runs/b6-next" in line and not sweep.with_name("b6-next").exists():
            shutil.copytree(sweep, sweep.with_name("b6-next"))
        words = shlex.split(line.partition(" < ")[0])[1:]
        words = [word.replace("~", str(workspace), 1) if word.startswith("~") else word for word in words]
        missing = [word for word in words if word.startswith("runs/") and not (workspace / word).exists()]
        if missing and words[0] in LIGHT:
            continue  # of a run that its own page makes, where it is only parsed
        kinds.add(kind(line))
        shown = OUTPUTS.get(line)
        as_json = shown is None and "--json" not in words and words[0] in {*LIGHT, "layers"}
        code = maia(*words, *(["--json"] if as_json else []))
        printed = capsys.readouterr()
        # What a profile needs (a key, a GPU) may be missing here, and then `doctor` exits with 1.
        assert code == 0 or (code == 1 and words[0] == "doctor"), f"{page}: {line}\n{printed.err}"
        if as_json:
            json.loads(printed.out)
        if shown is not None:
            assert parts(shown) <= parts(printed.out), f"{page}: {line}\n{printed.out}"
    assert (workspace / "runs" / "demo" / "report" / "units").is_dir()
    assert (workspace / "runs" / "b6" / "export.csv").is_file()
