"""The way in: the same state of the process, whatever the user's shell holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maia_main import needed_environment

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with another project's packages, which cannot be imported."""
    folder = tmp_path_factory.mktemp("Projekte für maia")
    for name in ("actors", "tools", "agents", "experiments"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not ours')")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        "cd {stranger} && PYTHONPATH={stranger} PYTHONSAFEPATH=1 {maia} models --help",
        "PYTHONWARNINGS=error PYTHONIOENCODING=ascii PYTHONOPTIMIZE=2 {maia} models --help",
        "LC_ALL=POSIX PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 TERM=dumb {maia} models --help <&-",
        "{python} -OO -P -W error -X dev -Werror {main} models --help",
    ],
)
def test_the_command_starts(shell: str, stranger: Path) -> None:
    """Nothing is printed about it."""
    python, main = f"'{sys.executable}'", f"'{ROOT / 'maia_main.py'}'"
    command = shell.format(maia=f"{python} {main}", python=python, main=main, stranger=f"'{stranger}'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_on_another_system_one_sentence_says_where_the_program_runs() -> None:
    """No module of this program that needs Linux is imported first."""
    code = "import sys; sys.platform = 'win32'; import maia_main; maia_main.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: maia runs on Linux, and this is win32. On Windows, use WSL 2.\n"


def test_python_is_started_again_once_at_most() -> None:
    """Where the variables are set already, starting again would change nothing."""
    changed = needed_environment({}, "ascii", ["error::UserWarning"], 2)
    assert changed == {"PYTHONUTF8": "1", "PYTHONWARNINGS": "default", "PYTHONOPTIMIZE": "0"}
    assert needed_environment(changed, "ascii", ["error"], 2) == {}
    assert needed_environment(dict(os.environ), "utf-8", ["ignore"], 1) == {}
