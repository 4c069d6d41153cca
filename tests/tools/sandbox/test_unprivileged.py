"""The attacks again, as a user without privileges, and as root with an interpreter that others can read.

The user `nobody` must be able to read its Python. An interpreter below root's home is not readable, so the
system's own of the same version is used where there is one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534
PACKAGES = str(Path(pytest.__file__).parent.parent)
REPOSITORY = Path(__file__).parents[3]
ATTACKS = "tests/tools/sandbox/test_attacks.py"


def python_readable_by_nobody() -> str:
    """Return an interpreter of this version that any user can run, or skip."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        command = [candidate, "-c", "import numpy, pytest, hypothesis"]
        try:
            if run(command, user=NOBODY).returncode == 0:
                return candidate
        except OSError:
            continue
    pytest.skip(f"no {name} here that other users can read")


def run(
    command: list[str], user: int | None = None, tier: str = "kernel+ns"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        cwd=REPOSITORY,
        env={
            "MAIA_TEST_TIER": tier,
            "PYTHONPATH": PACKAGES,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/nonexistent",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=170,
    )


def attacked(python: str, user: int | None, tier: str) -> str:
    # Not pytest's own folder: that is private to its user, and made so again by every other run.
    with tempfile.TemporaryDirectory(prefix="attacked-") as base:
        Path(base).chmod(0o777)
        options = ["-p", "no:cacheprovider", f"--basetemp={base}/pytest", "--no-header"]
        return run([python, "-m", "pytest", ATTACKS, *options, "-v"], user, tier).stdout


def check(output: str) -> None:
    assert "FAILED" not in output, output[-4000:]
    assert "ERROR" not in output, output[-4000:]
    summary = re.search(r"(\d+) passed", output)
    assert summary is not None, output[-4000:]
    assert int(summary[1]) > 120


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the attacks already run without privileges")
def test_the_attacks_fail_without_privileges_and_namespaces() -> None:
    check(attacked(python_readable_by_nobody(), NOBODY, "kernel"))


@pytest.mark.root
@pytest.mark.exhaustive
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("user", "tier"), [(NOBODY, "kernel+ns"), (None, "kernel+ns"), (None, "kernel")])
def test_the_attacks_fail_for_every_user_and_tier(user: int | None, tier: str) -> None:
    check(attacked(python_readable_by_nobody(), user, tier))


@pytest.mark.root
@pytest.mark.exhaustive
def test_the_attacks_fail_where_root_must_keep_its_user_id() -> None:
    """This interpreter may lie in a private home, so that no other user could run it."""
    check(attacked(sys.executable, None, "kernel"))


UID = """
import asyncio
from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import SandboxSettings
from tools.sandbox.kernel import KernelServer
async def main():
    async with KernelServer(SandboxSettings()) as server:
        await server.start()
        boxes = [await server.open(seed=n) for n in range(2)]
        for box in boxes:
            print(open(f"/proc/{box.pid}/status").read().partition("Uid:")[2].split()[0])
        outcome = await boxes[0].run("import decimal, numpy.ma; print(decimal.Decimal(1))", FakeHost())
        assert outcome.output == "1\\n", outcome
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_gives_every_sandbox_a_user_of_its_own_where_the_interpreter_is_readable() -> None:
    result = run([python_readable_by_nobody(), "-c", UID])
    first, second = (int(line) for line in result.stdout.split())
    assert 0 not in (first, second), result.stderr
    assert first != second
    assert min(first, second) > 1_000_000_000
