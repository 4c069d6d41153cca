"""From nothing to a finished study on a server of one's own, in the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.servers import ROOT, free_port, serving

COMMANDS = (
    "maia init --server http://127.0.0.1:{port}/v1",
    "maia describe tf_efficientnet_lite0 blocks.6 91 --out study --json",
    "maia report study",
)


def test_a_study_is_finished_in_five_commands(tmp_path: Path) -> None:
    """The server is a scripted stand-in, started with one command more; the study ends with an answer that
    was tested.
    """
    port = free_port()
    command = (sys.executable, "-m", "tests.fake_endpoint", "--port", str(port), "--no-key")
    with serving(command, port, tmp_path, ready="/v1/models", environ={"PYTHONPATH": str(ROOT)}):
        done = [_run(each.format(port=port), tmp_path) for each in COMMANDS]
    result = json.loads(done[1].stdout)
    assert (result["status"], result["answered"]) == ("answered", ["robot"])
    assert result["evidence"] is not None
    assert (tmp_path / "study" / "report" / "index.html").exists()
    assert 1 + len(COMMANDS) <= 5


def _run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "MAIA_CACHE": str(folder / "cache")}
    environ.pop("OPENAI_API_KEY", None)
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environ, capture_output=True, text=True, timeout=400
    )
    if done.returncode:
        pytest.fail(f"{line}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done
