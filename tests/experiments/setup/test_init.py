"""`maia init` as a person meets it: on a terminal, and with a file that is there already."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiohttp import web

from actors.errors import UsageError
from experiments.setup.config import load
from experiments.setup.init import ProfileAnswers, write_profile
from tests.fake_endpoint import FakeEndpoint, Fault, Seen

ROOT = Path.cwd()
QUICK = """
import sys
from experiments.cli.main import main
try:
    main(["init"])
except SystemExit as stop:
    print(stop.code, [name for name in ("openai", "numpy", "torch") if name in sys.modules])
"""


def colors(seen: Seen) -> str | Fault:
    """A server that knows no seeds."""
    return Fault.error(400, "Unknown parameter: 'seed'.") if "seed" in seen.body else "red, blue"


def on_a_terminal(command: Sequence[str], answers: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of a command that is given answers by a terminal, and its standard error."""
    ours, theirs = pty.openpty()
    os.write(ours, answers.encode())
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    _, said = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, said


def test_that_the_file_exists_is_said_before_anything_slow_is_imported(tmp_path):
    (tmp_path / "maia.yaml").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "maia.yaml exists already" in done.stderr
    assert done.stdout == "2 []\n"


def test_without_a_terminal_nothing_is_asked_and_that_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = " ".join(done.stderr.split())
    assert "nothing was asked, for there is no terminal" in said
    assert "--provider or --server names a language model" in said
    assert "profile mine" in done.stdout


@pytest.mark.slow
def test_questions_are_asked_again_and_what_the_server_refuses_is_written_down(tmp_path):
    """A provider, a folder and a model that are unknown do not end the questions."""

    async def several(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "other"}, {"id": "fake-vlm"}]})

    async def chat(request: web.Request) -> web.Response:
        return await server._chat(request)

    routes = [web.get("/own/v1/models", several), web.post("/own/v1/chat/completions", chat)]
    with FakeEndpoint(colors, key=None, routes=routes) as server:
        address = server.base_url.replace("/v1", "/own/v1")
        answers = f"opnai\n{address}\nn\n/nowhere\n\n\nfake\nfake-vlm\n"
        code, said = on_a_terminal([sys.executable, "-m", "experiments.cli.main", "init"], answers, tmp_path)
    assert code == 0, said
    assert "'opnai' is no provider" in said
    assert "'/nowhere' do not exist" in said
    assert "It lists other, fake-vlm." in said
    made = load(tmp_path / "maia.yaml").profile().chat.interpreter
    assert (made.model, made.omit) == ("fake-vlm", ("seed",))


async def test_a_server_without_a_list_of_models_is_told_from_one_with_none(tmp_path):
    async def welcome(_: web.Request) -> web.Response:
        return web.Response(text="<html><title>Welcome</title></html>", content_type="text/html")

    with FakeEndpoint(colors, key=None, routes=[web.get("/models", welcome)]) as server:
        answers = ProfileAnswers(server=server.base_url.replace("/v1", ""))
        with pytest.raises(UsageError, match=r"no list of models.*ends in /v1.*--server-model"):
            await write_profile(tmp_path / "maia.yaml", "mine", answers, environ={})
