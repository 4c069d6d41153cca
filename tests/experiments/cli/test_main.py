"""The command line keeps its promises: examples that parse, one object on stdout, exit codes, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from experiments.cli import main as cli
from tests.command_line import maia

INTERRUPTED = """
import asyncio, sys
from experiments.cli import main as cli
from experiments.cli import running

async def work(patience):
    print("working", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("closing", flush=True)
        await asyncio.sleep(patience)
        print("closed", flush=True)

@cli.app.command()
def wait(patience: float):
    running.run(work(patience))

cli.main()
"""


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    group = group or typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


LOADED = """
import contextlib, json, sys
from experiments.cli.main import main

HEAVY = set("aiohttp numpy openai PIL pydantic ray scipy sklearn timm torch transformers".split())
loaded = []
for words in (["--help"], ["describe", "--help"], ["status", "nowhere"]):
    with contextlib.suppress(SystemExit):
        main(words)
    loaded.append(sorted(HEAVY & set(sys.modules)))
print(json.dumps(loaded))
"""


def test_a_command_loads_no_library_that_it_does_not_use():
    """What a command does is imported when it does it: nothing makes all of them slow."""
    process = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert json.loads(process.stdout.splitlines()[-1]) == [[], ["pydantic"], ["pydantic"]]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_it_understands(path):
    """An example is parsed as it would be when somebody types it; nothing runs."""
    command = COMMANDS[path]
    lines = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  maia ")]
    assert lines, f"maia {' '.join(path)} has no example"
    for line in lines:
        words = shlex.split(line.partition(" < ")[0])
        assert tuple(words[1 : 1 + len(path)]) == path
        command.make_context(" ".join(path), words[1 + len(path) :])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_with_a_result_prints_it_as_json_if_asked(path):
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert "--json" in options or path == ("view",), "a view has no result"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_parameter_is_explained(path):
    unexplained = [
        parameter.name
        for parameter in COMMANDS[path].params
        if parameter.name != "help" and not parameter.help
    ]
    assert unexplained == []


@pytest.mark.parametrize("group", [(), ("cluster",)], ids=" ".join)
def test_an_overview_of_80_columns_cuts_no_summary(monkeypatch, capsys, group):
    monkeypatch.setenv("COLUMNS", "80")
    assert maia(*group, "--help") == 0
    output = capsys.readouterr().out
    assert ("Commands:" if group else "Start here:") in output
    assert "More:" not in output, "a command is in none of the groups"
    assert "..." not in output.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("resnet18", "networks of timm that match resnet18: 1\nresnet18\n"),
        ("nonet", "no network of timm matches nonet:"),
    ],
)
def test_a_pattern_lists_networks_alone(capsys, pattern, message):
    assert maia("models", pattern) == 0
    assert capsys.readouterr().out.startswith(message)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_no_option_names_two_defaults(path):
    for parameter in COMMANDS[path].params:
        if "[default:" in (getattr(parameter, "help", None) or ""):
            shown = parameter.show_default and parameter.default is not None
            assert not shown, parameter.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["descrbe"], "Did you mean 'describe'"),
        (["describe", "a", "b", "1", "--sead", "3"], "--seed"),
        (["sweep", "a", "b", "--seed", "99999999999999999999"], "less than or equal to 4294967295"),
        (["export", "nowhere"], "no run in nowhere"),
        (["doctor", "--profile", "embeded"], "Did you mean embedded?"),
        (["status", "s3://"], "Write s3://BUCKET/PATH."),
        (["status", "s3:///run"], "Write s3://BUCKET/PATH."),
        (["replay", "s3://bucket"], "Write s3://bucket/RUN/UNIT"),
        (["describe", "concept-net", "concepts", "1", "--out", "S3:///"], "Write s3://BUCKET/PATH."),
    ],
)
def test_mistyped_words_get_a_suggestion(capsys, arguments, message):
    assert maia(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.slow
def test_doctor_ends_with_1_where_the_profile_lacks_something(monkeypatch, capsys, tmp_path):
    """A script can ask whether a run would begin; the machine's findings are in the JSON."""
    chat = {"backend": "openai", "model": "gpt-4o", "api_key_env": "MAIA_TEST_KEY"}
    config = tmp_path / "ray_config.yaml"
    config.write_text(
        json.dumps({"profiles": {"hosted": {"dataset": "scenes:9:0", "chat": {"interpreter": chat}}}})
    )
    monkeypatch.delenv("MAIA_TEST_KEY", raising=False)
    assert maia("doctor", "--json", "--profile", "hosted", "--config", str(config)) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ready"]
    assert {"Open files", "Temporary folder", "Shared memory"} <= {
        finding["topic"] for finding in report["findings"]
    }


def test_a_shell_can_complete_commands():
    environment = os.environ | {
        "_MAIA_COMPLETE": "complete_bash",
        "COMP_WORDS": "maia syn",
        "COMP_CWORD": "1",
    }
    found = subprocess.run(
        [Path(sys.executable).with_name("maia")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == ["synthetic"]


@pytest.fixture
def begin(tmp_path):
    """Return a function that starts a command which waits, and takes `patience` seconds to close."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    started: list[subprocess.Popen[str]] = []

    def begin(patience: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(script), "wait", str(patience)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_lets_a_command_close_its_resources(begin, number):
    process = begin(0.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == "closing\nclosed\n"
    assert "interrupted; repeat the command" in err
    assert "Traceback" not in err


def test_two_ctrl_c_end_a_command_at_once(begin):
    process = begin(60.0)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "ended at once" in err


@pytest.mark.ray
@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_an_interrupted_study_is_resumed(config_file, tmp_path):
    """A real process with its own Ray: Ctrl-C in the middle of a study, then the same command again."""
    from actors.embedded.concept_net.concept_net import class_names

    command = [
        *(sys.executable, "-m", "experiments.cli.main", "describe", "concept-net", "concepts"),
        *(str(class_names().index("banana")), "--json", "--out", str(tmp_path / "run")),
        *("--config", str(config_file())),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 1" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert list((tmp_path / "run").glob("units/*/rounds/0001.json"))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["label"]
    assert "round 1," not in again.stderr, "the first round was not played again"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (errno.ENOSPC, "cannot be written: No space left on device."),
        (errno.EIO, "cannot be read or written: Input/output error."),
    ],
)
def test_a_full_or_broken_disk_is_reported_without_a_traceback(monkeypatch, capsys, tmp_path, fault, said):
    def fails(*_: object) -> None:
        raise OSError(fault, os.strerror(fault), str(tmp_path / "audit.json"))

    monkeypatch.setattr("experiments.records.diff.diff", fails)
    (tmp_path / "manifest.json").write_text("{}")
    assert maia("diff", str(tmp_path), str(tmp_path)) == 1
    output = capsys.readouterr().err
    assert f"{tmp_path}/audit.json {said}".replace(" ", "") in "".join(output.split())
    assert "Traceback" not in output
