"""A tier is claimed only where it has been proved; where a wall is missing, the program says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import SandboxError, SandboxServer, SandboxSettings, SandboxUnavailableError, start
from tools.sandbox.kernel import KernelServer
from tools.sandbox.self_test import PROBES, run_checks

ROOT = os.geteuid() == 0


@pytest.mark.parametrize(("namespaces", "tiers"), [(True, {"kernel+ns", "kernel"}), (False, {"kernel"})])
async def test_the_default_on_linux_is_the_kernel_tier_and_every_probe_is_stopped(
    namespaces: bool, tiers: set[str]
) -> None:
    async with await start(SandboxSettings(namespaces=namespaces)) as server:
        assert server.tier in tiers
        rows = await server.self_test()
        assert len(rows) >= 14
        assert all(row.passed for row in rows), rows
        sandbox = await server.open(seed=1)
        assert (await sandbox.run("x = 1", FakeHost())).tier == server.tier


async def test_monty_is_proved_too() -> None:
    async with await start(SandboxSettings(executor="monty")) as server:
        assert server.tier == "monty"
        rows = await server.self_test()
        assert len(rows) >= 8
        assert all(row.passed for row in rows), rows
        sandbox = await server.open(seed=1)
        assert (await sandbox.run("x = 1", FakeHost())).tier == "monty"


async def test_a_hole_is_never_claimed_as_a_wall() -> None:
    """The self-test sees what the walls do, not what was asked of them."""
    settings = SandboxSettings(namespaces=False)
    leak = 'probes["reads what is allowed"] = reading("/dev/null")\n\ndef run_experiment'
    async with KernelServer(settings) as server:
        await server.start()
        checks = await run_checks(server, settings, PROBES.replace("def run_experiment", leak))
    rows = {row.name: row for row in checks}
    assert not rows["a program that reads what is allowed"].passed


START = """
import asyncio, os, sys
sys.path.insert(0, {repository!r})
{before}
from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import SandboxSettings, start
async def main():
    for options in {ways}:
        try:
            async with await start(SandboxSettings(**options)) as server:
                sandbox = await server.open(seed=1)
                outcome = await sandbox.run("print(1 + 1)", FakeHost())
                print(server.tier, outcome.tier, outcome.output.strip())
        except Exception as error:
            print(type(error).__name__, error)
asyncio.run(main())
"""

DENY = """
import errno, pyseccomp
outer = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
{rules}
outer.load()
"""
NO_LANDLOCK = DENY.format(rules='outer.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "landlock_create_ruleset")')
NO_SECCOMP = DENY.format(
    rules='outer.add_rule(pyseccomp.ERRNO(errno.EINVAL), "prctl", pyseccomp.Arg(0, pyseccomp.EQ, 22))'
)


KERNEL, AUTO = {"executor": "cpython"}, {"executor": "auto"}
WEAK = {"executor": "cpython", "allow_weak": True}


def started(before: str, *prefix: str, ways: Sequence[Mapping[str, object]]) -> list[str]:
    """Return what each of these ways of starting says."""
    script = START.format(repository=str(Path(__file__).parents[3]), before=before, ways=list(ways))
    command = [*prefix, sys.executable, "-W", "ignore", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "wall"), [(NO_LANDLOCK, "Landlock"), (NO_SECCOMP, "seccomp")])
def test_a_kernel_without_a_wall_is_refused_or_monty_and_weak_only_on_request(before: str, wall: str) -> None:
    refused, fallback, weak = started(before, ways=(KERNEL, AUTO, WEAK))
    assert refused.startswith("SandboxUnavailableError no sandbox for model-written programs")
    assert f"{wall} is missing" in refused
    assert "allow_weak" in refused
    assert fallback == "monty monty 2"
    assert weak == "weak weak 2"


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(
    not ROOT or shutil.which("unshare") is None, reason="hides the library in a mount namespace"
)
def test_a_machine_without_libseccomp_is_refused_or_monty() -> None:
    libraries = [path for path in Path("/usr/lib").rglob("libseccomp.so*") if not path.is_symlink()]
    hide = " && ".join(f"mount --bind /dev/null {path}" for path in libraries)
    prefix = ("unshare", "--mount", "sh", "-c", f'{hide} && exec "$0" "$@"')
    refused, fallback = started("", *prefix, ways=(KERNEL, AUTO))
    assert "seccomp is missing" in refused
    assert fallback == "monty monty 2"


def test_without_monty_the_reason_names_every_missing_piece() -> None:
    (fallback,) = started(NO_LANDLOCK + "\nsys.modules['pydantic_monty'] = None", ways=[AUTO])
    assert fallback.startswith("SandboxUnavailableError")
    assert "Landlock is missing" in fallback
    assert "pydantic-monty is not installed" in fallback


@pytest.mark.slow
def test_a_monty_that_does_not_start_is_a_reason() -> None:
    """Its package may be there without its program."""
    (fallback,) = started(NO_LANDLOCK + "\nos.environ['MONTY_BIN'] = '/nonexistent/monty'", ways=[AUTO])
    assert fallback.startswith("SandboxUnavailableError")
    assert "a monty worker did not come up" in fallback


async def test_another_system_has_no_kernel_walls() -> None:
    with pytest.raises(SandboxUnavailableError, match="Linux only, this is darwin"):
        await start(SandboxSettings(executor="cpython"), platform="darwin")


async def check_works(server: SandboxServer) -> None:
    sandbox = await server.open(seed=1)
    assert (await sandbox.run("import os; print(os.getpid() > 0)", FakeHost())).output == "True\n"
    assert (await sandbox.run("import os; os._exit(1)", FakeHost())).error.count("exit code 1") == 1
    assert (await sandbox.run("print(2)", FakeHost())).output == "2\n"


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [("nice", "-n", "5"), ("setsid", "--wait"), ("timeout", "60")])
async def test_the_fork_server_runs_under_any_command(wrap: tuple[str, ...]) -> None:
    async with await start(SandboxSettings(wrap=wrap)) as server:
        assert server.tier.startswith("kernel")
        await check_works(server)


@pytest.mark.root
@pytest.mark.skipif(not ROOT or shutil.which("unshare") is None, reason="needs a PID namespace")
async def test_the_fork_server_runs_in_a_pid_namespace() -> None:
    wrap = ("unshare", "--pid", "--net", "--ipc", "--fork", "--kill-child")
    async with await start(SandboxSettings(wrap=wrap)) as server:
        await check_works(server)


async def test_a_wrap_that_does_not_start_is_named() -> None:
    with pytest.raises(SandboxError, match="cannot be started"):
        await KernelServer(SandboxSettings(wrap=("/nonexistent/wrap",))).start()
    with pytest.raises(SandboxError, match="ended"):
        await KernelServer(SandboxSettings(wrap=("false",))).start()
