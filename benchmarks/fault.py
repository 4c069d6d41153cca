"""The cost of a replica's death: a data-set pass whose replica is killed in the middle, against the same pass
undisturbed.

The network waits a while for each batch in place of computing, so that the pass outlasts the half minute
after which a replica hands over what it has; what is lost can be no more than what it did since.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.cluster.settings import RaySettings
from actors.serving.cluster import Cluster
from actors.settings import Placement
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import HeldOutShare
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from actors.vision.sweep.device import _FLUSH_EVERY_S
from actors.vision.sweep.exemplars import LayerExemplars
from benchmarks.harness import Context, Metric, Result, Table
from benchmarks.studied import pictures, scratch

ID = "B17"
TITLE = "fault: kill -9 of the replica in the middle of a pass over a data set"

BATCH = 16
PAUSE_S = 0.5
NETWORK = """
import os
import time

import torch
from torch import nn


class Slow(nn.Module):
    def forward(self, images):
        time.sleep(float(os.environ["BENCH_PAUSE_S"]))
        return images


def build():
    torch.manual_seed(0)
    return nn.Sequential(Slow(), nn.Conv2d(3, 64, 5, stride=4), nn.ReLU())
"""


@dataclass(frozen=True)
class Pass:
    """One pass. `done` images were done when the replica was killed, `again` ran in the one that followed."""

    found: LayerExemplars
    seconds: float
    done: int
    again: int


async def _pass(cluster: Cluster, folder: Path, name: str, dataset: Any, kill: bool) -> Pass:
    settings = VisionSettings(batch=BATCH, placement=Placement(threads=1))
    pool = cluster.pool(
        f"vision-{name}",
        "actors.vision.backend:VisionBackend",
        {"network": f"python:{folder / 'slow.py'}:build", "settings": settings},
        settings.placement,
        {"BENCH_PAUSE_S": str(PAUSE_S if kill else 0.0)},
    )
    client = await PoolVisionClient.connect(pool, folder / name, HeldOutShare(0.0))
    done_before = 0

    def progress(swept: Any) -> None:
        nonlocal done_before
        if kill and not done_before and swept.done >= 0.6 * swept.total:
            done_before = swept.done
            os.kill(_replica_pid(), signal.SIGKILL)

    start = time.monotonic()
    found = await client.layer_exemplars([Readout("1")], dataset, 15, progress)
    seconds = time.monotonic() - start
    forwards = (await pool.call("statistics")).forwards
    await pool.aclose()
    return Pass(found[Readout("1")], seconds, done_before, forwards)


def _replica_pid() -> int:
    import psutil  # type: ignore[import-untyped]

    (pid,) = (
        each.pid
        for each in psutil.Process().children(recursive=True)
        if each.name().startswith("ray::ReplicaAct") or "ray::ReplicaActor" in " ".join(each.cmdline())
    )
    return pid


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    n_images = 1600 if context.quick else 2048
    with scratch() as name:
        folder = Path(name)
        (folder / "slow.py").write_text(NETWORK)
        dataset = pictures(n_images, 64, context.seed, folder)
        async with Cluster.start(RaySettings()) as cluster:
            whole = await _pass(cluster, folder, "whole", dataset, kill=False)
            killed = await _pass(cluster, folder, "killed", dataset, kill=True)
    a, b = whole.found, killed.found
    context.check("every image was read", a.n_images == b.n_images == n_images)
    context.check("the strongest images of every unit are the same", np.array_equal(a.indices, b.indices))
    wrong = int((a.activations != b.activations).sum())
    context.check("the quantiles of every unit are the same", np.array_equal(a.quantiles, b.quantiles))
    lost = killed.done + killed.again - n_images
    chunk = int(_FLUSH_EVERY_S / PAUSE_S + 1) * BATCH
    restart = n_images
    return Result(
        [
            Metric("wrong answers", wrong, "", "== 0"),
            Metric("lost work, in chunks of half a minute", lost / chunk, "", "<= 1"),
            Metric("images run again ÷ images run again when starting from zero", lost / killed.done),
        ],
        [
            Table(
                "A pass of 1 s for 32 images",
                ("images", "done when killed", "run after", "run twice", "run twice from zero", "s"),
                ((restart, killed.done, killed.again, lost, killed.done, killed.seconds),),
            )
        ],
    )
