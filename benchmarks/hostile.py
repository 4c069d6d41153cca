"""Honest agents next to some whose programs mean to cost the host: what the honest ones notice of it.

Everything is real but the models: the loop of the agents, their journals, the sandboxes of this machine. Chat
is scripted with the delays of a model, and the network, the image maker and the observers answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from agents.records.journal import Journal
from agents.records.store import Store
from agents.study.agent import Agent, AgentParts
from agents.study.rounds import Round
from agents.study.settings import InterpreterSettings
from agents.tasks.describe_unit import DescribeUnit
from benchmarks.harness import Context, Metric, Result, Table, percentile
from tests.tools.fakes import FakeObservers, FakeStudio, FakeSubject, darken
from tools.sandbox import SandboxServer, SandboxSettings, start
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

ID = "B18"
TITLE = "hostile neighbors: 20 agents on one host, 5 of them with programs that mean to cost it"

AGENTS, HOSTILE = 20, 5
THINKING_S = 1.5
"""Median delay of the scripted model; real ones take longer."""
ANSWER = "[DESCRIPTION]: Dogs.\n[LABEL]: dogs"
HONEST = """
prompts = [f"a dog, variant {n}" for n in range(6)]
images = tools.text2image(prompts)
activations, masked = system.call_neuron(images)
edited = tools.edit_images(images[:2], ["make it a cat", "remove the dog"])
more, _ = system.call_neuron(edited)
print(tools.describe_images(masked[:3], prompts[:3]))
tools.display(masked[0], activations[0])
tools.log_experiment(activations, masked, prompts, "")
print(sorted(activations + more))
"""
_RAW = """
import os, struct, msgpack
def send(message):
    data = msgpack.packb(message)
    os.write(3, struct.pack("<II", len(data), 0) + data)
"""
PROGRAMS: dict[str, Sequence[str]] = {
    "frames": (
        f"{_RAW}\nwhile True: send({{'op': 'call', 'method': 'x', 'arguments': [[] for _ in "
        f"range(11_000)]}})",
        "while True:\n  try: tools._call('display', items=['x' * 900] * 900)\n  except RuntimeError: pass",
        "while True:\n  try: tools._call('log', activations=[1.0] * 900, images=[], titles=['x'] * 900, "
        "texts='')\n"
        "  except RuntimeError: pass",
        "while True: tools.experiment_log",
    ),
    "output": (
        "import os\nwhile True: os.write(1, b'x')",
        "import os, struct\nos.write(3, struct.pack('<II', 1 << 20, 12 << 20))\n"
        "while True: os.write(3, b'x')",
        "while True: print('y' * 500)",
    ),
    "threads": (
        "import threading\ndef spin():\n  while True: pass\n"
        "for _ in range(15): threading.Thread(target=spin, daemon=True).start()\nspin()",
        "import numpy as np\na = np.ones((900, 900))\nwhile True: a @ a",
    ),
    "images": (
        "import numpy as np\nfor n in range(1000):\n"
        "  system.call_neuron([np.full((2048, 2048, 3), n % 256, np.uint8)])",
        "import numpy as np\nimages = [np.full((40, 40, 3), n % 256, np.uint8) for n in range(250)]\n"
        "while True: system.call_neuron(images)",
    ),
    "values": (
        "def run_experiment(system, tools):\n  x = ['laugh'] * 9\n  for _ in range(20): x = [x] * 9\n"
        "  return x",
        "while True: tools.display('x' * 90_000)",
        "for _ in range(50): tools.log_experiment([1.0], tools.text2image(['a']), ['t' * 9000], 'x' * 1000)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os; os.abort()",
    ),
}


class _Model:
    """Replies with one program after another, each after the next delay."""

    name = "scripted"
    sees_images = True

    def __init__(self, programs: Sequence[str], n_rounds: int, delays: Sequence[float]) -> None:
        self._programs, self._n_rounds, self._delays = programs, n_rounds, delays
        self._n_replies = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        number = self._n_replies
        self._n_replies += 1
        await asyncio.sleep(self._delays[number % len(self._delays)])
        if number >= self._n_rounds:
            return ChatReply(ANSWER)
        return ChatReply(f"[CODE]:\n```python\n{self._programs[number % len(self._programs)]}\n```")


class _Stall:
    """Seconds for which the event loop kept other tasks waiting, in processor time and by the clock."""

    def __init__(self) -> None:
        self.processor_s: list[float] = []
        self.clock_s: list[float] = []

    async def watch(self) -> None:
        while True:
            processor, clock = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0)
            self.processor_s.append(time.thread_time() - processor)
            self.clock_s.append(time.perf_counter() - clock)
            await asyncio.sleep(0.001)


async def _agent(
    server: SandboxServer, folder: Path, seed: int, model: _Model, n_rounds: int, spent: list[float]
) -> None:
    """Play one study; append the seconds of each of its rounds with a program."""
    studio, journal = FakeStudio(), Journal(Store.open(folder / str(seed)), "fake/unit")
    toolbox = Toolbox(
        SubjectSystem(FakeSubject(studio, lambda shown: 2.0 if "dog" in shown else 0.5), darken),
        studio,
        FakeObservers(),
        seed=seed,
        keeper=journal.blobs,
    )
    last = time.perf_counter()

    def note(finished: Round) -> None:
        nonlocal last
        now = time.perf_counter()
        if finished.program is not None:
            spent.append(now - last)
        last = now

    sandbox = await server.open(seed=seed)
    try:
        parts = AgentParts(model, sandbox, toolbox, DescribeUnit(), journal, "")
        settings = InterpreterSettings(max_rounds=n_rounds + 1, max_images=None)
        await Agent(parts, settings, on_round=note).run()
    finally:
        await sandbox.close()


async def _host(server: SandboxServer, n_rounds: int, hostile: bool) -> tuple[list[float], _Stall]:
    """Run all agents on this loop; return the seconds of the honest ones' rounds, and the loop's stalls."""
    draw = random.Random(0)
    delays = [[THINKING_S * draw.lognormvariate(0, 0.3) for _ in range(n_rounds + 1)] for _ in range(AGENTS)]
    spent: list[float] = []
    stall = _Stall()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        others = [asyncio.create_task(stall.watch())]
        for seed, programs in zip(range(HOSTILE), PROGRAMS.values(), strict=True):
            model = _Model(programs, 1000, [0.05]) if hostile else _Model([HONEST], n_rounds, delays[seed])
            work = _agent(server, folder, seed, model, 999 if hostile else n_rounds, [])
            others.append(asyncio.create_task(work))
        honest = [
            _agent(server, folder, seed, _Model([HONEST], n_rounds, delays[seed]), n_rounds, spent)
            for seed in range(HOSTILE, AGENTS)
        ]
        await asyncio.gather(*honest)
        for task in others:
            task.cancel()
        for task in others:
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return spent, stall


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    n_rounds, repeats = (2, 1) if context.quick else (6, 3)
    ratios, rows, stalls = [], [], []
    async with await start(SandboxSettings()) as server:
        await _host(server, 1, hostile=False)
        for repeat in range(repeats):
            quiet, quiet_stall = await _host(server, n_rounds, hostile=False)
            disturbed, stall = await _host(server, n_rounds, hostile=True)
            expected = (AGENTS - HOSTILE) * n_rounds
            context.check("every honest agent played every round", len(quiet) == len(disturbed) == expected)
            ratios.append(statistics.median(disturbed) / statistics.median(quiet))
            stalls.append(max(stall.processor_s))
            for case, seconds, seen in (("all honest", quiet, quiet_stall), ("5 hostile", disturbed, stall)):
                rows.append(
                    (
                        repeat + 1,
                        case,
                        statistics.median(seconds),
                        percentile(seconds, 0.95),
                        max(seen.processor_s) * 1e3,
                        max(seen.clock_s) * 1e3,
                        percentile(seen.clock_s, 0.99) * 1e3,
                    )
                )
        tier = server.tier
    return Result(
        [
            Metric(
                "median round beside 5 hostile agents ÷ undisturbed", statistics.median(ratios), "x", "<= 1.1"
            ),
            Metric("longest stall of the event loop, processor time", max(stalls) * 1e3, "ms", "<= 50"),
        ],
        [
            Table(
                "Rounds of the 15 honest agents, and how long the event loop kept a task waiting",
                (
                    "run",
                    "agents",
                    "median s",
                    "95 % s",
                    "longest, processor ms",
                    "longest, clock ms",
                    "99 %, clock ms",
                ),
                tuple(rows),
            )
        ],
        notes=[f"Sandbox tier {tier}; the scripted model's median delay is {THINKING_S:g} s."],
    )
