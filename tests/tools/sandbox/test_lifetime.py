"""When a sandbox or its host ends, however it ends, nothing of ours stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tools.sandbox import SandboxSettings
from tools.sandbox.kernel import KernelServer

HOST = """
import asyncio, os, sys
from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import SandboxSettings, start
async def main():
    server = await start(SandboxSettings(executor=sys.argv[1]))
    boxes = [await server.open(seed=n) for n in range(4)]
    await asyncio.gather(*(box.run("x = 1", FakeHost()) for box in boxes))
    busy = [asyncio.create_task(box.run("while True: x += 1", FakeHost())) for box in boxes[:2]]
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(asyncio.wait_for(main(), 100))
"""


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, whatever session they are in."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def alive(pids: set[int]) -> set[int]:
    """Return those that run; a zombie waits only for its parent."""
    running = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                running.add(pid)
        except OSError:
            continue
    return running


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["cpython", "monty"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_once_the_host_was_killed(executor: str, how: signal.Signals, tmp_path: Path) -> None:
    """It has a temporary folder of its own: other tests use the machine's at the same time."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, executor],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert host.stdout is not None
    try:
        assert host.stdout.readline() == "ready\n"
        ours = descendants(host.pid)
        assert len(ours) >= (5 if executor == "cpython" else 4)
        os.kill(host.pid, how)
        host.wait()
        deadline = time.monotonic() + 20.0
        while alive(ours) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not alive(ours)
    finally:
        host.kill()
        host.wait()
        host.stdout.close()
    assert list(tmp_path.iterdir()) == []


class StuckHost:
    """A tool host whose calls do not end by themselves."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        self.called.set()
        await asyncio.Event().wait()


async def test_closing_a_server_ends_a_program_that_waits_for_a_tool() -> None:
    """Otherwise it would wait as long as all tool calls of a program may take: half an hour."""
    host = StuckHost()
    async with KernelServer(SandboxSettings()) as server:
        await server.start()
        sandbox = await server.open(seed=1)
        running = asyncio.create_task(sandbox.run("tools.text2image(['a'])", host))
        await host.called.wait()
    assert (await running).status == "died"
