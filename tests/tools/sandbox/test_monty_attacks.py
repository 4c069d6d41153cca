"""The rows of the attack table that mean something in an interpreter of its own."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tools.sandbox.conftest import LIMITS
from tests.tools.sandbox.hosts import FakeHost, picture
from tests.tools.sandbox.test_attacks import memory_holds
from tests.tools.sandbox.test_lifetime import descendants
from tools.sandbox.monty import MontySandbox, MontyServer


@pytest.fixture(scope="module")
async def monty_server() -> AsyncIterator[MontyServer]:
    settings = LIMITS.model_copy(update={"program_timeout_s": 0.5, "memory_bytes": 64 << 20})
    async with MontyServer(settings) as server:
        await server.start()
        yield server


@pytest.fixture
async def sandbox(monty_server: MontyServer) -> AsyncIterator[MontySandbox]:
    sandbox = await monty_server.open(seed=1)
    yield sandbox
    await sandbox.close()


async def check_contained(sandbox: MontySandbox, host: FakeHost, program: str, *statuses: str) -> str:
    """Run a hostile program, check how it ended and that the sandbox lives on; return its error."""
    await sandbox.run("kept = 41", host)
    began = time.monotonic()
    outcome = await sandbox.run(program, host)
    assert outcome.status in statuses, outcome
    assert time.monotonic() - began < 30
    after = await sandbox.run("print(kept + 1)", host)
    assert after.output == "42\n", after
    assert os.path.realpath(__file__) not in outcome.error  # noqa: ASYNC240
    return outcome.error


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "sum(range(10**13))",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "class E(Exception):\n  def __str__(self):\n    while True: pass\nraise E()",
        "def f():\n  while True: pass\nf()",
        "[x for x in range(10**10)]",
    ],
)
async def test_a_program_that_does_not_end_is_ended(
    sandbox: MontySandbox, host: FakeHost, program: str
) -> None:
    await check_contained(sandbox, host, program, "timeout", "memory", "error")


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "x = 9**9**9",
        "x = 'a' * 10**10",
        "x = []\nwhile True: x.append('a' * 10**6)",
        "x = [0] * 10**9",
        "'%1000000000d' % 1",
        "f'{1:1000000000}'",
        "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')",
        "def f(): return f()\nf()",
        "x = '(' * 100000\neval(x)",
        "int('9' * 10**6)",
    ],
)
async def test_bombs_are_contained(sandbox: MontySandbox, host: FakeHost, program: str) -> None:
    await check_contained(sandbox, host, program, "memory", "timeout", "error", "ok", "died")


@pytest.mark.parametrize(
    "program",
    [
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "open('/tmp/maia-monty', 'w').write('x')",
        "import os\nos.listdir('/')",
        "import os\nos.environ['HOME']",
        "import os\nos.system('true')",
        "import os\nos.fork()",
        "import os\nos.kill(1, 9)",
        "import pathlib\npathlib.Path('/etc/passwd').read_text()",
        "import subprocess",
        "import socket",
        "import ctypes",
        "import urllib.request",
        "import sys\nsys.modules['os'].system('true')",
        "__import__('os').system('true')",
        "().__class__.__base__.__subclasses__()",
        "system.__class__()",
        "tools.__dict__",
        "tools.display.__globals__",
        "tools._call('state')",
        "tools._link",
        "system._values",
        "getattr(tools, '_call')('state')",
        "tools.dataset_exemplars(system)[0][1]._fetch('x')",
        "tools.dataset_exemplars(system)[0][1].im",
        "eval(\"__import__('os').getcwd()\")",
        "exec('import socket')",
        "compile('1', 'x', 'eval')",
        "breakpoint()",
        "input()",
    ],
)
async def test_there_is_no_way_out(sandbox: MontySandbox, host: FakeHost, program: str) -> None:
    assert await check_contained(sandbox, host, program, "error", "forbidden")
    assert not Path("/tmp/maia-monty").exists()  # noqa: ASYNC240
    assert set(host.methods) <= {"exemplars"}


async def test_images_that_a_program_makes_up_are_never_decoded(
    sandbox: MontySandbox, host: FakeHost
) -> None:
    for made in (
        "'iVBORw0KGgo' * 20",
        "b'\\x89PNG'",
        "'data:image/png;base64,AAAA'",
        "{'\\x00image': 'f' * 32}",
        "5",
        "None",
    ):
        error = await check_contained(sandbox, host, f"system.call_neuron([{made}])", "error")
        assert "image" in error
    assert host.asked == []


async def test_an_image_of_another_session_is_no_image(monty_server: MontyServer, host: FakeHost) -> None:
    owner, thief = await monty_server.open(seed=1), await monty_server.open(seed=2)
    await owner.run("image = tools.text2image(['secret'])[0]", host)
    identifier = picture("secret 0").id
    outcome = await thief.run(f"tools.display({{'\\x00image': '{identifier}'}}, '{identifier}')", host)
    assert all(type(item) is str for item in host.displayed), outcome
    await owner.close()
    await thief.close()


async def test_floods_are_cut(sandbox: MontySandbox, host: FakeHost) -> None:
    await sandbox.run("kept = 41", host)
    outcome = await sandbox.run("while True: print('x' * 10_000)", host)
    assert outcome.status in ("limit", "timeout")
    assert "printed" in outcome.error or outcome.status == "timeout"
    assert len(outcome.output) <= LIMITS.output_bytes
    assert outcome.output_truncated
    outcome = await sandbox.run("for _ in range(100): tools.display('x')", host)
    assert outcome.status == "error"
    assert "50 calls" in outcome.error
    outcome = await sandbox.run("while True:\n  try: tools.display('x')\n  except RuntimeError: pass", host)
    assert outcome.status in ("limit", "timeout")
    assert (await sandbox.run("print(kept)", host)).output == "41\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "while True:\n  try:\n    import nothing\n  except ImportError: pass",
        "while True: x = system.layer",
        "while True:\n  try: open('/x')\n  except Exception: pass",
        "while True:\n  try: x = tools.experiment_log\n  except Exception: pass",
        "x = ['laugh'] * 9\nfor _ in range(20): x = [x] * 9\ntools.display(x)",
        "x = [0]\nfor _ in range(60): x = [x, x]\nstr(x)",
        "while True: print('y', end='')",
        "while True: len(tools.dataset_exemplars(system))",
    ],
)
async def test_what_asks_the_host_again_and_again_ends_at_the_hosts_clock(
    sandbox: MontySandbox, host: FakeHost, program: str
) -> None:
    """The interpreter's own clock stands still while it waits for an answer; the host's does not."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = await sandbox.run(program, host)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert outcome.status in ("timeout", "limit", "memory", "error"), outcome
    assert outcome.duration_s < 10
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert (await sandbox.run("print('alive')", host)).output == "alive\n"


@pytest.mark.parametrize(
    "value",
    [
        "x = ['laugh'] * 9\nfor _ in range(20): x = [x] * 9",
        "x = {}\nfor _ in range(40): x = {'a': x, 'b': x}",
        "x = ['x' * 90_000] * 10_000",
        "x = [list(range(9999))] * 9999",
    ],
)
async def test_a_value_never_grows_in_the_host(sandbox: MontySandbox, host: FakeHost, value: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = await sandbox.run(f"{value}\ndef run_experiment(system, tools): return x", host)
    assert outcome.status in ("ok", "error", "memory", "timeout", "died"), outcome
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert (await sandbox.run("print('alive')", host)).output == "alive\n"


async def test_a_text_is_cut_before_it_crosses(sandbox: MontySandbox, host: FakeHost) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for program in (
        "raise ValueError('x' * 20_000_000)",
        "print('x' * 20_000_000)",
        "tools.display('x' * 20_000_000)",
        "tools.text2image(['x' * 20_000_000])",
        "raise ValueError('x' * 200_000_000)",
    ):
        outcome = await sandbox.run(program, host)
        assert len(outcome.error) <= 16_000
        assert len(outcome.output) <= LIMITS.output_bytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert max((len(item) for item in host.displayed), default=0) < 101_000


async def test_a_worker_that_is_killed_is_replaced(sandbox: MontySandbox, host: FakeHost) -> None:
    await sandbox.run("kept = 41", host)
    assert sandbox.pid is not None
    for pid in (sandbox.pid, *descendants(sandbox.pid)):
        os.kill(pid, signal.SIGKILL)
    outcome = await sandbox.run("print(kept)", host)
    assert outcome.status in ("died", "ok")
    assert (await sandbox.run("print(kept)", host)).output == "41\n"


async def test_closing_does_not_wait_for_a_program_that_runs(host: FakeHost) -> None:
    async with MontyServer(LIMITS.model_copy(update={"program_timeout_s": 60})) as server:
        await server.start()
        sandbox = await server.open(seed=1)
        task = asyncio.create_task(sandbox.run("while True: pass", host))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(3):
            await sandbox.close()
        assert (await task).status == "died"


async def test_the_key_of_the_host_is_not_in_a_worker(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "sk-canary-" + "9b1c" * 8
    monkeypatch.setenv("OPENAI_API_KEY", canary)
    async with MontyServer(LIMITS) as server:
        await server.start()
        sandbox = await server.open(seed=1)
        await sandbox.run("a = tools.dataset_exemplars(system)", host)
        assert sandbox.pid is not None
        pids = {sandbox.pid} | descendants(sandbox.pid)
        assert len(pids) == 2
        for pid in pids:
            assert canary not in Path(f"/proc/{pid}/environ").read_text(errors="replace")  # noqa: ASYNC240
            assert not memory_holds(pid, canary.encode())
