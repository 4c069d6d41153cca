"""The cost of a thousand waiting agents, as tasks of one process, against a Ray actor for each."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path
from typing import Any

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from actors.serving.replica_pool import PoolOptions
from benchmarks.harness import Context, Metric, Result, Table
from benchmarks.simulated import Ask

ID = "B13"
TITLE = "agents: 1000 that wait for an answer, as tasks and as actors"

AGENTS, ACTORS = 1000, 8


class LoneAgent:
    """The peer: an agent with an actor to itself."""

    async def start(self) -> int:
        return os.getpid()


def memory_mb(pid: int) -> float:
    """Return a process's proportional share of memory in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not tell")


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    import ray

    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool("noop", "benchmarks.simulated:build", options=PoolOptions(limit=2 * AGENTS))
        await pool.submit(Ask(1))
        begun = 0
        everybody, leave = asyncio.Event(), asyncio.Event()

        async def agent(number: int) -> int:
            nonlocal begun
            transcript: list[Any] = [{"role": "system", "number": number}]
            transcript.append(await pool.submit(Ask(number), agent=str(number)))
            begun += 1
            if begun == AGENTS:
                everybody.set()
            await leave.wait()
            return int(await pool.submit(Ask(transcript[-1]), agent=str(number)))

        gc.collect()
        before, start = memory_mb(os.getpid()), time.perf_counter()
        tasks = [asyncio.ensure_future(agent(i)) for i in range(AGENTS)]
        await everybody.wait()
        seconds = time.perf_counter() - start
        megabytes = memory_mb(os.getpid()) - before
        leave.set()
        answers = await asyncio.gather(*tasks)
        context.check("every agent got its own answers", answers == [i + 2 for i in range(AGENTS)])

        start = time.perf_counter()
        actors = [ray.remote(LoneAgent).options(num_cpus=0).remote() for _ in range(ACTORS)]
        pids = await asyncio.gather(*(actor.start.remote() for actor in actors))
        actor_seconds = (time.perf_counter() - start) / ACTORS
        actor_mb = sum(memory_mb(pid) for pid in pids) / ACTORS
        for actor in actors:
            ray.kill(actor)
    seconds_ratio = actor_seconds * AGENTS / seconds
    mb_ratio = actor_mb * AGENTS / max(megabytes, 0.1)
    return Result(
        [
            Metric("seconds until 1000 agents have begun and wait", seconds, "s", "<= 5"),
            Metric("memory of 1000 agents", megabytes, "MB", "<= 1024"),
            Metric("an actor each ÷ a task each, seconds", seconds_ratio, "", ">= 200"),
            Metric("an actor each ÷ a task each, memory", mb_ratio, "", ">= 200"),
        ],
        [
            Table(
                "For one agent",
                ("as", "ms to begin", "MB"),
                (
                    ("task", 1000 * seconds / AGENTS, megabytes / AGENTS),
                    (f"actor (mean of {ACTORS})", 1000 * actor_seconds, actor_mb),
                ),
            )
        ],
        notes=[
            "An agent here is its task, a short transcript and its requests; what it remembers comes on top."
        ],
    )
