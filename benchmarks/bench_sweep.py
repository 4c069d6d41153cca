"""Scaling of a sweep: many agents at once against an endpoint that takes its time, and a layer against one by
one.

    python -m benchmarks.bench_sweep crowd [--agents 500] [--units 500] [--rounds 8] [--hosts 2] [--latency 2]
    [--programs images]
    python -m benchmarks.bench_sweep layer [--units 64] [--serial 4]
    python -m benchmarks.bench_sweep nodes [--agents 20] [--most 4] [--latency 4]

Everything is real but two things: the network under study is tiny (one convolution of 512 channels or more),
and the endpoint is a stand-in over HTTP that waits `latency` seconds and then says the next line of a script:
look at the exemplars, then rounds that make two pictures, measure them and log what was measured with its
mask, then the answer. With `--programs text` the rounds only compute and print, which leaves what
conversation, journal and sandbox cost. The sweep is a `maia sweep` in a process of its own, and its times are
read from the run directory.

`crowd`: the latency bound is the time that the scripted calls wait with that many agents at once; efficiency
is the bound over the time from the first call to the last result. With a unit for each agent, every agent
converses in the middle half of all rounds, and none starts or ends; with more units than agents, studies
start and end throughout, as in a sweep of a whole layer. `layer`: the same work with all units at once and
one at a time, the latter on a few units, because it takes as many times longer as there are units. `nodes`:
weak scaling, the same number of agents and of units on each of Ray's nodes, all on this machine, whose cores
they share; agents wait for the endpoint most of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from actors.cluster.connection import prepare_authentication

ROOT = Path(__file__).resolve().parent.parent
NETWORK = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 5, stride=8), nn.ReLU())
"""
LOOK = """[HYPOTHESIS LIST]:
Hypothesis_1: colours
[CODE]:
```python
found = tools.dataset_exemplars(system)
tools.display(*[f"{activation:.2f}" for activation, image in found])
```"""
TRY = """[CODE]:
```python
images = tools.text2image(["a banana on grass", "a dog on snow"])
activations, masked = system.call_neuron(images)
tools.log_experiment(activations, masked, ["banana", "dog"], "")
```"""
PRINT = """[CODE]:
```python
total = sum(i * i for i in range(1000))
print("the sum is", total)
```"""
ANSWER = "[DESCRIPTION]: colours.\n[LABEL]: colours"


async def serve(rounds: int, latency_s: float, programs: str) -> None:
    """Answer chat completions for ever; the port is printed. Counts turns without parsing: it shares the
    cores.
    """
    from aiohttp import web

    turn, calls = b'"role":"assistant"', [0, 0.0]

    async def complete(request: web.Request) -> web.Response:
        started = time.monotonic()
        body = await request.read()
        calls[0] += 1
        calls[1] = calls[1] or time.time()
        spoken = body.count(turn)
        look, work = (LOOK, TRY) if programs == "images" else (PRINT, PRINT)
        text = look if spoken == 0 else work if spoken < rounds - 1 else ANSWER
        await asyncio.sleep(max(0.0, latency_s - (time.monotonic() - started)))
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(body) // 40, "completion_tokens": 50}
        return web.json_response({"model": "stand-in", "choices": [choice], "usage": usage})

    async def counted(_: web.Request) -> web.Response:
        return web.json_response({"calls": calls[0], "first": calls[1]})

    app = web.Application(client_max_size=2**26)
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/counted", counted)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def endpoint(rounds: int, latency_s: float, programs: str) -> Iterator[str]:
    """Yield the address of an endpoint in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_sweep", "serve"]
    command += ["--rounds", str(rounds), "--latency", str(latency_s), "--programs", programs]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@dataclass(frozen=True)
class Measured:
    """One sweep: seconds from the first call to the last result, and what each unit saw."""

    seconds: float
    units: int
    rounds: int
    middle: float
    """Rounds a second in the middle half of all rounds."""
    gaps: list[float]
    """Seconds from one finished round of a unit to its next."""
    ends: list[float]
    """Seconds from the first call to each unit's result."""
    memory_mb: float
    """Private memory of everything that the sweep runs, in the middle, above what it was before the first
    call.
    """
    cpu_s: dict[str, float]
    """Processor seconds of a call between the same two moments, by kind of process; reading the data set is
    before.
    """


@dataclass(frozen=True)
class Crew:
    """The size of a sweep: units, agents, hosts (0: one in the command), rounds for each unit; `ray` of
    another cluster than the command's own.
    """

    units: int
    agents: int
    hosts: int
    rounds: int
    ray: str = "local"


def sweep(folder: Path, address: str, crew: Crew, out: str) -> Measured:
    """Run `maia sweep` on the first units and return what its directory holds."""
    units, agents, hosts, rounds = crew.units, crew.agents, crew.hosts, crew.rounds
    (folder / "tiny.py").write_text(NETWORK.replace("CHANNELS", str(max(512, units))))
    profile: dict[str, Any] = {
        "dataset": "scenes:200:0",
        "ray": {"address": crew.ray} | ({"object_store_mb": 512} if crew.ray == "local" else {}),
        "vision": {"batch": 64, "placement": {"threads": 1}},
        "confirmation": None,
        "sweep": {
            "hosts": hosts if crew.ray == "local" else "per-node",
            "agents": -(-agents // max(1, hosts)),
        },
        "chat": {
            "interpreter": {
                "backend": "openai",
                "model": "stand-in",
                "base_url": f"{address}/v1",
                "api_key_env": None,
                "max_concurrent": 2048,
            }
        },
    }
    config = folder / "ray_config.yaml"
    config.write_text(json.dumps({"default_profile": "bench", "profiles": {"bench": profile}}))
    run = folder / out
    command = [
        sys.executable,
        "-m",
        "experiments.cli.main",
        "sweep",
        f"python:{folder / 'tiny.py'}:build",
        "0",
    ]
    command += ["--units", f"0-{units - 1}", "--out", str(run), "--config", str(config)]
    environment = {**os.environ, "MAIA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with (folder / f"{out}.log").open("w") as log:
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        process = psutil.Process(started.pid)
        calls = units * rounds
        first = _until(lambda: _counted(address)["calls"], started)
        before, cpu = _memory_mb(process), _cpu_s(process)
        _until(lambda: _counted(address)["calls"] > calls // 2, started)
        used = {name: (value - cpu.get(name, 0)) / (calls / 2) for name, value in _cpu_s(process).items()}
        memory = _memory_mb(process) - before
        code = started.wait()
    if code:
        raise SystemExit((folder / f"{out}.log").read_text()[-2000:])
    assert first
    return _read(run, _counted(address)["first"], rounds, memory, used)


def _read(run: Path, first: float, rounds: int, memory_mb: float, cpu_s: dict[str, float]) -> Measured:
    gaps, ends, at = [], [], []
    for done in run.glob("units/*/done.json"):
        times = [path.stat().st_mtime for path in sorted(done.parent.glob("rounds/*.json"))]
        assert len(times) == rounds, f"{done.parent} has {len(times)} rounds"
        at += times
        gaps += [after - before for before, after in itertools.pairwise(times)]
        ends.append(done.stat().st_mtime - first)
    at.sort()
    quarter = len(at) // 4
    middle = (len(at) - 2 * quarter) / (at[-quarter] - at[quarter])
    return Measured(max(ends), len(ends), rounds, middle, gaps, ends, memory_mb, cpu_s)


def _until(condition: Any, process: subprocess.Popen[bytes]) -> Any:
    while not (value := condition()):
        if process.poll() not in (None, 0):
            raise SystemExit("the sweep failed")
        time.sleep(0.25)
    return value


def _counted(address: str) -> dict[str, Any]:
    import urllib.request

    with urllib.request.urlopen(f"{address}/counted", timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _memory_mb(process: psutil.Process) -> float:
    total = 0
    for each in _tree(process):
        try:
            total += each.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 2**20


def _cpu_s(process: psutil.Process) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in _tree(process):
        try:
            line = " ".join(each.cmdline())
            times = each.cpu_times()
        except psutil.Error:
            continue
        if "sandbox" in line:
            kind = "sandboxes"
        elif line.startswith("ray::"):
            kind = line.split()[0].removeprefix("ray::").partition(".")[0]
        else:
            kind = "driver" if each == process else "ray itself"
        total[kind] = total.get(kind, 0.0) + times.user + times.system
    return total


def crowd(arguments: argparse.Namespace, folder: Path) -> None:
    with endpoint(arguments.rounds, arguments.latency, arguments.programs) as address:
        units = arguments.units or arguments.agents
        crew = Crew(units, arguments.agents, arguments.hosts, arguments.rounds)
        found = sweep(folder, address, crew, "crowd")
    calls = found.units * found.rounds
    bound = calls * arguments.latency / min(arguments.agents, found.units)
    ends, gaps = sorted(found.ends), sorted(found.gaps)
    print(f"agents at once, their programs         {arguments.agents}, {arguments.programs}")
    print(f"units                                  {found.units}")
    print(f"rounds of a unit, endpoint latency     {found.rounds}, {arguments.latency:g} s")
    print(f"latency bound                          {bound:.1f} s, {calls / bound:.0f} calls/s")
    print(
        f"measured                               {found.seconds:.1f} s, {calls / found.seconds:.0f} calls/s"
    )
    print(f"efficiency                             {bound / found.seconds:.2f}")
    print(f"middle half of the rounds              {found.middle:.0f} calls/s, "
          f"{found.middle * bound / calls:.2f} of the bound")  # fmt: skip
    print(f"a unit's result after, first/last      {ends[0]:.1f} / {ends[-1]:.1f} s")
    print(f"between rounds, median/99 %/longest    {statistics.median(gaps):.2f} / "
          f"{gaps[int(0.99 * len(gaps))]:.2f} / {gaps[-1]:.2f} s")  # fmt: skip
    print(f"memory of a unit                       {found.memory_mb / found.units:.2f} MB")
    print("processor ms of a round, by process    "
          f"{ {k: round(1000 * v, 1) for k, v in found.cpu_s.items()} }")  # fmt: skip


def layer(arguments: argparse.Namespace, folder: Path) -> None:
    with endpoint(arguments.rounds, arguments.latency, arguments.programs) as address:
        alone = sweep(folder, address, Crew(arguments.serial, 1, 0, arguments.rounds), "serial")
    with endpoint(arguments.rounds, arguments.latency, arguments.programs) as address:
        units = arguments.units or 64
        together = sweep(folder, address, Crew(units, units, 0, arguments.rounds), "layer")
    one = alone.seconds / alone.units
    print(f"one after the other                    {one:.2f} s a unit, over {alone.units} units")
    print(f"{together.units} units at once                       {together.seconds:.2f} s")
    print(f"times faster                           {one * together.units / together.seconds:.1f}")


def nodes(arguments: argparse.Namespace, folder: Path) -> None:
    # Ray reads how it authenticates when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    prepare_authentication()
    from ray.cluster_utils import Cluster as Nodes

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    rates: dict[int, float] = {}
    sizes = [2**power for power in range(arguments.most.bit_length()) if 2**power <= arguments.most]
    for turn, n in enumerate((sizes[0], *sizes)):  # the first, which passes over the data set, does not count
        cluster = Nodes(initialize_head=True, head_node_args=node)
        try:
            for _ in range(n - 1):
                cluster.add_node(**node)
            cluster.wait_for_nodes()
            many = n * arguments.agents
            crew = Crew(many, many, n, arguments.rounds, cluster.address)
            with endpoint(arguments.rounds, arguments.latency, "text") as address:
                found = sweep(folder, address, crew, f"nodes-{turn}")
        finally:
            cluster.shutdown()
        rates[n] = found.units / found.seconds
        if not turn:
            continue
        print(
            f"{n} nodes, {many} agents and units: {found.seconds:.1f} s from the first call to the last "
            f"result, {rates[n] / rates[sizes[0]] / n:.3f} of {n} times one node",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_sweep", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("what", choices=("crowd", "layer", "nodes", "serve"))
    parser.add_argument("--agents", type=int, default=500, help="of `nodes` on each node")
    parser.add_argument("--most", type=int, default=4, help="nodes")
    parser.add_argument("--units", type=int, help="as many as agents; of `layer` 64")
    parser.add_argument("--serial", type=int, default=4)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--latency", type=float, default=2.0)
    parser.add_argument("--programs", choices=("images", "text"), default="images")
    parser.add_argument("--keep", type=Path, help="folder for run, configuration and log")
    arguments = parser.parse_args()
    if arguments.what == "serve":
        asyncio.run(serve(arguments.rounds, arguments.latency, arguments.programs))
        return
    work = {"crowd": crowd, "layer": layer, "nodes": nodes}[arguments.what]
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        work(arguments, arguments.keep)
        return
    with tempfile.TemporaryDirectory(prefix="maia-bench-") as folder:
        work(arguments, Path(folder))


if __name__ == "__main__":
    main()
