"""B10: agents that measure and look at images through the whole program, against one image after another.

Each agent measures 15 images that all share and 20 of its own at its own unit, and has each painted and
written for a model's eyes, as PNG by the peer, as JPEG here. Warm: the same again, as when another agent
studies the same images.

The limit of a cold run is what the machine could do at best: the bare network on full batches of the distinct
images, each as deep as its unit, and then the painting and writing of all images on every core.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors import runtime
from actors.cluster.settings import RaySettings
from actors.images import Image, encode_jpeg
from actors.masks import paint
from actors.serving.cluster import Cluster
from actors.settings import Placement
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from benchmarks import studied
from benchmarks.harness import Context, Curve, Metric, Result, Table

ID = "B10"
TITLE = "Agents that measure and look, end to end"

LAYERS = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
SHARED, OWN = 15, 20
THRESHOLD = 1.0
BATCH = 32


class Limit:
    """What the machine could do at best, in seconds: nothing waits, and every batch is full."""

    def __init__(self, device: str) -> None:
        studied_backend = studied.backend(studied.LITE0, device, BATCH)
        self._device, self._preprocess = device, studied_backend.network.preprocess
        module: Any = studied_backend.network.module
        stem = [module.conv_stem, module.bn1]
        self._prefixes = {
            name: torch.nn.Sequential(*stem, *module.blocks[: int(name.rpartition(".")[2]) + 1])
            for name in LAYERS
        }

    def passes(self, array: np.ndarray, rows_by_layer: dict[str, list[int]]) -> float:
        """Return the seconds of bare passes of these rows, each as far as its layer."""
        start = time.perf_counter()
        with torch.inference_mode():
            for layer, rows in rows_by_layer.items():
                for at in range(0, len(rows), BATCH):
                    pixels = [array[row] for row in rows[at : at + BATCH]]
                    self._prefixes[layer](self._preprocess.batch(pixels, self._device))
        studied.synchronize(self._device)
        return time.perf_counter() - start


class PerImageLoop:
    """The peer's process: what it did with some rows of a file of images, and in how many seconds."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, images: Path, rows: list[int], unit: Unit) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"images": str(images), "rows": rows, "layer": unit.layer, "unit": unit.index}
        self._process.stdin.write(json.dumps({**asked, "threshold": THRESHOLD}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def per_image_loop(mode: str) -> Iterator[PerImageLoop]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.per_image_loop", mode, studied.LITE0],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield PerImageLoop(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


def run(context: Context) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(context, Path(folder)))


async def _run(context: Context, folder: Path) -> Result:
    plan = ((1, 3), (8, 3)) if context.quick else ((1, 5), (8, 5), (64, 3))
    needed = sum(rounds * (SHARED + agents * OWN) for agents, rounds in plan) + SHARED
    path = folder / "images.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (needed, 224, 224, 3))
    source = studied.pictures(needed, 224, context.seed, folder)
    for row in range(needed):
        array[row] = source.load(row).pixels
    array.flush()
    settings = VisionSettings(device=context.device, batch=BATCH, placement=Placement(num_cpus=0))
    async with Cluster.start(RaySettings()) as cluster:
        pool = cluster.pool(
            "vision",
            "actors.vision.backend:VisionBackend",
            {"network": studied.LITE0, "settings": settings},
            settings.placement,
        )
        client = await PoolVisionClient.connect(pool, folder)
        with per_image_loop("stock") as stock, per_image_loop("tuned") as tuned:
            return await _compare(context, client, {"stock": stock, "tuned": tuned}, path, array, plan)


async def _compare(
    context: Context,
    client: PoolVisionClient,
    peers: dict[str, PerImageLoop],
    path: Path,
    array: np.ndarray,
    plan: tuple[tuple[int, int], ...],
) -> Result:
    layers = {layer.name: layer.n_units for layer in await client.layers()}

    def unit(agent: int) -> Unit:
        layer = LAYERS[agent % len(LAYERS)]
        return Unit(layer, (37 * agent) % layers[layer])

    first = [Image.from_pixels(array[row]) for row in range(SHARED)]
    for number in range(len(LAYERS)):
        ours = np.array([each.activation for each in await client.measure(unit(number), first)])
        for name, peer in peers.items():
            theirs = np.array(peer(path, list(range(SHARED)), unit(number))["activations"])
            context.check(
                f"{unit(number).layer}: activations are those of the {name} loop",
                bool(np.abs(ours - theirs).max() <= 1e-3 * max(float(theirs.std()), 1e-3)),
            )
    limit = Limit(context.device)
    limit.passes(array, {layer: list(range(SHARED)) for layer in LAYERS})
    taken: dict[str, dict[int, list[float]]] = {way: {} for way in ("cold", "warm", "limit", *peers)}
    at = SHARED
    for agents, rounds in plan:
        for _ in range(rounds):
            shared, at = list(range(at, at + SHARED)), at + SHARED
            own = [list(range(at + OWN * i, at + OWN * (i + 1))) for i in range(agents)]
            at += agents * OWN
            rows = [shared + mine for mine in own]
            served = agents * (SHARED + OWN)
            for way in ("cold", "warm"):
                seconds = await _agents(client, array, rows, unit)
                taken[way].setdefault(agents, []).append(served / seconds)
            seconds = limit.passes(array, _deepest([unit(i).layer for i in range(agents)], rows))
            seconds += await _host_seconds(client, array, rows, unit) / runtime.available_cores()
            taken["limit"].setdefault(agents, []).append(served / seconds)
            for name, peer in peers.items():
                # One image costs it what another does: the first agent's stand for all.
                seconds = peer(path, rows[0], unit(0))["seconds"]
                taken[name].setdefault(agents, []).append((SHARED + OWN) / seconds)
    return _result(taken, plan)


def _deepest(layers: list[str], rows: list[list[int]]) -> dict[str, list[int]]:
    """Return the distinct rows by the deepest layer at which an agent asks for them."""
    deepest: dict[int, str] = {}
    for layer, some in zip(layers, rows, strict=True):
        for row in some:
            deepest[row] = max(layer, deepest.get(row, layer), key=LAYERS.index)
    return {layer: [row for row, at in deepest.items() if at == layer] for layer in LAYERS}


def _written(image: Image, map: np.ndarray, view: Any) -> bytes:
    return encode_jpeg(paint(image, map, THRESHOLD, view))


async def _host_seconds(
    client: PoolVisionClient, array: np.ndarray, rows: list[list[int]], unit: Any
) -> float:
    """Return the seconds in which one core paints and writes all agents' images; measured on an agent of each
    layer.
    """
    total = 0.0
    some = range(min(len(rows), len(LAYERS)))
    for number in some:
        images = [Image.from_pixels(array[row]) for row in rows[number]]
        responses = await client.measure(unit(number), images)
        start = time.perf_counter()
        for image, response in zip(images, responses, strict=True):
            _written(image, response.map, response.view)
        total += time.perf_counter() - start
    return total * len(rows) / len(some)


async def _agents(client: PoolVisionClient, array: np.ndarray, rows: list[list[int]], unit: Any) -> float:
    """Let all agents measure and look; return the seconds. Images are as a generator gives them: pixels."""
    images = {row: Image.from_pixels(array[row]) for row in {row for some in rows for row in some}}

    async def agent(number: int) -> None:
        mine = [images[row] for row in rows[number]]
        responses = await client.measure(unit(number), mine, agent=str(number))
        for image, response in zip(mine, responses, strict=True):
            assert response.map is not None
            await asyncio.to_thread(_written, image, response.map, response.view)

    start = time.perf_counter()
    await asyncio.gather(*(agent(number) for number in range(len(rows))))
    return time.perf_counter() - start


def _result(taken: dict[str, dict[int, list[float]]], plan: tuple[tuple[int, int], ...]) -> Result:
    def ratio(above: str, below: str, agents: int) -> float:
        pairs = zip(taken[above][agents], taken[below][agents], strict=True)
        return statistics.median(a / b for a, b in pairs)

    targets = {("cold", "limit"): ">= 0.9", ("warm", "stock"): ">= 25", ("cold", "tuned"): ">= 3"}
    names = {"limit": "the machine's limit", "stock": "stock loop", "tuned": "tuned loop"}
    metrics = [
        Metric(
            f"{way} ÷ {names[peer]}, {agents} agents",
            ratio(way, peer, agents),
            "x",
            targets.get((way, peer), "") if agents == plan[-1][0] else "",
        )
        for agents, _ in plan
        for way, peer in (("cold", "limit"), ("cold", "stock"), ("warm", "stock"), ("cold", "tuned"))
    ]
    ways = ("stock", "tuned", "limit", "cold", "warm")
    rows = tuple(
        (agents, *(round(statistics.median(taken[way][agents]), 1) for way in ways)) for agents, _ in plan
    )
    curves = {way: [(agents, statistics.median(taken[way][agents])) for agents, _ in plan] for way in taken}
    return Result(
        metrics,
        [Table("Images a second", ("agents", "stock loop", "tuned loop", "limit", "cold", "warm"), rows)],
        [Curve("Images measured and painted a second", "agents", "images/s", curves)],
        notes=[
            "The peers' rates are of one agent's 35 images: they take agents one after another.",
            "Cold was to be 8 times the stock loop before, and was not: the machine's limit takes its place.",
        ],
    )
