"""A broken sandbox comes back with its variables, and a record carries them to another process."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.errors import MaiaError
from tests.tools.sandbox.conftest import LIMITS
from tests.tools.sandbox.hosts import FakeHost, picture
from tools.sandbox import Sandbox, SandboxError, SandboxServer
from tools.sandbox.kernel import KernelSandbox, KernelServer
from tools.sandbox.monty import MontyServer

Open = Callable[..., Awaitable[KernelSandbox]]


@pytest.fixture(scope="module")
async def monty_server() -> AsyncIterator[MontyServer]:
    async with MontyServer(LIMITS) as server:
        await server.start()
        yield server


async def test_variables_are_rebuilt_without_asking_the_tools_again(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await sandbox.run("import random\nimages = tools.text2image(['a', 'b'])\nr = random.random()", host)
    await sandbox.run("a, m = system.call_neuron(images[0].crop((0, 0, 9, 9)))\ntools.display(a)", host)
    await sandbox.run("lost = 1\nundefined", host)
    asked, first = len(host.asked), sandbox.pid
    assert (await sandbox.run("import os; os.abort()", host)).status == "died"
    outcome = await sandbox.run("print(len(images), a, r, lost, images[1].size, m[0].getpixel((0, 0)))", host)
    assert (outcome.status, outcome.notes) == ("ok", ())
    assert sandbox.pid != first
    assert len(host.asked) == asked
    assert outcome.output.startswith("2 [")
    again = await sandbox.run("print(len(images), a, r, lost, images[1].size, m[0].getpixel((0, 0)))", host)
    assert again.output == outcome.output


async def test_an_intervention_is_rebuilt_from_its_recorded_answer(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await sandbox.run("effects = system.intervene(tools.text2image(['a']), 'ablate', 'mean')", host)
    await sandbox.run("import os; os._exit(1)", host)
    outcome = await sandbox.run("print(effects.lowered[0].name, effects.images[0].image.size)", host)
    assert outcome.output == "snowplow (32, 24)\n"
    assert host.methods == ["text2image", "intervene"]


async def test_an_error_of_a_tool_is_replayed_as_that_error(sandbox: KernelSandbox, host: FakeHost) -> None:
    await sandbox.run(
        "try:\n  tools.text2image(['forbidden'])\nexcept Exception as error:\n  words = str(error)", host
    )
    await sandbox.run("import os; os._exit(1)", host)
    assert "declined" in (await sandbox.run("print(words)", host)).output
    assert host.methods == ["text2image"]


async def test_a_program_killed_from_outside_is_one_that_died(sandbox: KernelSandbox, host: FakeHost) -> None:
    await sandbox.run("x = 5", host)
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGKILL)
    outcome = await sandbox.run("print(x)", host)
    assert (outcome.status, outcome.output) == ("ok", "5\n")


async def test_a_diverging_replay_is_told_and_starts_afresh(sandbox: KernelSandbox, host: FakeHost) -> None:
    await sandbox.run("import time\nx = 5\ntools.display(time.time_ns())", host)
    await sandbox.run("import os; os._exit(1)", host)
    outcome = await sandbox.run("print('x' in globals())", host)
    assert outcome.output == "False\n"
    assert "lost" in outcome.notes[0]
    assert "your last program defined is lost" in outcome.notes[0]
    assert len(sandbox.record) == 2
    assert (await sandbox.run("y = 1", host)).notes == ()


@pytest.mark.parametrize("executor", ["cpython", "monty"])
async def test_a_record_is_json_and_rebuilds_another_sandbox(
    server: KernelServer, monty_server: MontyServer, host: FakeHost, executor: str
) -> None:
    chosen: SandboxServer = server if executor == "cpython" else monty_server
    first = await chosen.open(seed=3)
    await first.run("images = tools.text2image(['a', 'b'])\na, m = system.call_neuron(images)", host)
    await first.run("import random\nr = random.random()\nd = tools.describe_images(m, ['x', 'y'])", host)
    expected = await first.run("print(a, r, d, [i.size for i in m])", host)
    assert expected.status == "ok", expected
    record = json.loads(json.dumps(first.record))
    asked = len(host.asked)
    await first.close()

    images = {image.id: image for _, arguments in host.asked for image in arguments.get("images", [])}
    images |= {image.id: image for image in (picture("a 0"), picture("b 0"))}
    second = await chosen.open(seed=3)
    second.restore(record[:2], images)
    outcome = await second.run("print(a, r, d, [i.size for i in m])", host)
    assert (outcome.output, outcome.notes) == (expected.output, ())
    assert len(host.asked) == asked
    assert second.record[:2] == record[:2]
    outcome = await second.run("print(system.call_neuron(images)[0] == a)", host)
    assert outcome.output == "True\n"
    await second.close()


async def test_a_record_cannot_be_restored_late(sandbox: KernelSandbox, host: FakeHost) -> None:
    await sandbox.run("x = 1", host)
    with pytest.raises(MaiaError, match="before the first program"):
        sandbox.restore([], {})


async def test_a_cancelled_program_leaves_nothing_and_the_next_one_works(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await sandbox.run("kept = 41", host)
    pid = sandbox.pid
    task = asyncio.create_task(sandbox.run("while True: pass", host))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid or 0, 0)
    assert (await sandbox.run("print(kept)", host)).output == "41\n"


async def test_callers_that_give_up_while_sandboxes_open_disturb_nobody(
    server: KernelServer, host: FakeHost
) -> None:
    for delay_s in (0.0, 0.001, 0.003):
        tasks = [asyncio.create_task(server.open(seed=n)) for n in range(8)]
        await asyncio.sleep(delay_s)
        for task in tasks[::2]:
            task.cancel()
        opened = [
            box
            for box in await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(box, KernelSandbox)
        ]
        assert len(opened) >= 4
        for number, sandbox in enumerate(opened):
            outcome = await sandbox.run(f"print({number})", host)
            assert (outcome.status, outcome.output) == ("ok", f"{number}\n")
            await sandbox.close()


async def test_closing_does_not_wait_for_a_program_that_runs(open_sandbox: Open, host: FakeHost) -> None:
    sandbox = await open_sandbox()
    task = asyncio.create_task(sandbox.run("while True: pass", host))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(2):
        await sandbox.close()
    assert (await task).status == "died"
    with pytest.raises(MaiaError, match="closed"):
        await sandbox.run("x = 1", host)


async def test_a_tool_that_times_out_is_an_error_in_the_program(sandbox: KernelSandbox) -> None:
    class Late(FakeHost):
        def _display(self, items: list[Any]) -> Any:
            raise TimeoutError

    outcome = await sandbox.run("tools.display('x')", Late())
    assert outcome.status == "error"
    assert "display did not answer in time" in outcome.error


async def test_a_host_that_fails_is_not_the_programs_fault(sandbox: KernelSandbox) -> None:
    class Broken(FakeHost):
        def _state(self) -> Any:
            raise ZeroDivisionError

    await sandbox.run("kept = 41", Broken())
    with pytest.raises(ZeroDivisionError):
        await sandbox.run("tools.experiment_log", Broken())
    assert (await sandbox.run("print(kept)", FakeHost())).output == "41\n"


async def test_slow_tools_do_not_use_up_a_programs_time(open_sandbox: Open) -> None:
    class Slow(FakeHost):
        async def call(self, method: str, arguments: dict[str, Any]) -> Any:
            await asyncio.sleep(0.4)
            return await super().call(method, arguments)

    async with KernelServer(
        LIMITS.model_copy(update={"program_timeout_s": 0.5, "calls_timeout_s": 1.4})
    ) as server:
        await server.start()
        sandbox = await server.open(seed=1)
        outcome = await sandbox.run("for _ in range(3): tools.display('x')", Slow())
        assert outcome.status == "ok"
        assert outcome.duration_s > 1.2
        outcome = await sandbox.run("for _ in range(9): tools.display('x')", Slow())
        assert outcome.status == "timeout"
        assert "tool calls took more than 1.4 s" in outcome.error


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_what_came_before_a_program_that_cannot_be_repeated_is_kept(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await sandbox.run("first = 1", host)
    await sandbox.run("import time\nx = 5\ntools.display(time.time_ns())", host)
    await sandbox.run("third = 3", host)
    await sandbox.run("import os; os._exit(1)", host)
    outcome = await sandbox.run("print(first, 'x' in globals(), 'third' in globals())", host)
    assert outcome.output == "1 False False\n"
    assert "your last 2 programs defined is lost" in outcome.notes[0]
    assert [entry["program"].partition(" ")[0] for entry in sandbox.record][:3] == [
        "first",
        "import",
        "third",
    ]


async def test_a_program_that_pretends_to_have_ended_and_dies_costs_only_itself(
    sandbox: KernelSandbox, host: FakeHost
) -> None:
    await sandbox.run("first = 1", host)
    forged = {"op": "done", "status": "ok", "value": None, "error": "", "output_lost": False}
    await sandbox.run(
        f"import os, struct, msgpack\ns = msgpack.packb({forged!r})\n"
        "os.write(3, struct.pack('<II', len(s), 0) + s)\nos._exit(0)",
        host,
    )
    outcome = await sandbox.run("print(first)", host)
    assert (outcome.status, outcome.output) == ("ok", "1\n"), outcome
    assert (await sandbox.run("print(first)", host)).notes == ()


async def test_a_killed_fork_server_is_replaced(host: FakeHost) -> None:
    async with KernelServer(LIMITS) as server:
        await server.start()
        one, two = await server.open(seed=1), await server.open(seed=2)
        await one.run("x = 1", host)
        parent = parent_of(one.pid)
        gone = [os.pidfd_open(pid) for pid in (parent, one.pid or 0, two.pid or 0)]
        os.kill(parent, signal.SIGKILL)
        for descriptor in gone:
            assert select.select([descriptor], [], [], 5)[0]
            os.close(descriptor)
        for sandbox, program, output in ((one, "print(x)", "1\n"), (two, "print(2)", "2\n")):
            outcome = await sandbox.run(program, host)
            assert (outcome.status, outcome.output) == ("ok", output), outcome
        three: Sandbox = await server.open(seed=3)
        assert (await three.run("print(3)", host)).output == "3\n"


async def test_a_program_that_the_fork_server_took_along_is_nobodys_result() -> None:
    class Killer(FakeHost):
        parent = 0

        async def call(self, method: str, arguments: dict[str, Any]) -> Any:
            os.kill(self.parent, signal.SIGKILL)
            return await super().call(method, arguments)

    async with KernelServer(LIMITS) as server:
        await server.start()
        host, sandbox = Killer(), await server.open(seed=1)
        await sandbox.run("x = 1", host)
        host.parent = parent_of(sandbox.pid)
        with pytest.raises(SandboxError, match="while a program ran"):
            await sandbox.run("import time\ntools.text2image('a dog')\ntime.sleep(60)", host)
        assert len(sandbox.record) == 1
        outcome = await sandbox.run("print(x)", FakeHost())
        assert (outcome.status, outcome.output) == ("ok", "1\n"), outcome


async def test_descriptors_and_processes_do_not_pile_up(server: KernelServer, host: FakeHost) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for seed in range(20):
        sandbox = await server.open(seed=seed)
        await sandbox.run("import os; os._exit(1)" if seed % 2 else "x = 1", host)
        await sandbox.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_many_images_spill_to_an_unnamed_file_and_come_back(open_sandbox: Open, host: FakeHost) -> None:
    from tools.sandbox.shelf import ImageShelf

    sandbox = await open_sandbox()
    sandbox._shelf = ImageShelf(64 << 20, in_memory_bytes=10_000)
    await sandbox.run("images = tools.text2image([str(n) for n in range(60)])", host)
    outcome = await sandbox.run("print(sum(i.getpixel((0, 0))[0] for i in images))", host)
    assert outcome.output == f"{sum(int(picture(f'{n} 0').pixels[0, 0, 0]) for n in range(60))}\n"


async def test_a_session_cannot_keep_more_pixels_than_its_limit(host: FakeHost) -> None:
    async with KernelServer(LIMITS.model_copy(update={"kept_bytes": 1 << 20})) as server:
        await server.start()
        sandbox = await server.open(seed=1)
        outcome = await sandbox.run(
            "for n in range(8): tools.text2image([str(n) + str(k) for k in range(100)])", host
        )
        assert outcome.status == "error"
        assert "1 MiB, which is the limit" in outcome.error
