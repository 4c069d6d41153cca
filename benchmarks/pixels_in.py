"""The rate of raw 224 px images to a replica: many a call, ids first; one array a call; PNG text a call."""

from __future__ import annotations

import asyncio
import base64
import io
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from actors.cluster.settings import RaySettings
from actors.images import Image, encode_png
from actors.serving.backend import Backend
from actors.serving.cluster import Cluster
from benchmarks.harness import Context, Metric, Result, Table, median_ratio

ID = "B7"
TITLE = "pixels in: raw 224 px images to a replica"


@dataclass(frozen=True, slots=True)
class CornerRequest:
    image: Image


class Corner(Backend[CornerRequest, int]):
    """Answers with the sum of an image's first row, so that the pixels must have come."""

    name = "corner"
    max_batch = 512

    async def run(self, batch: Sequence[CornerRequest]) -> list[int]:
        return [int(request.image.pixels[0].sum()) for request in batch]


def build() -> Corner:
    return Corner()


class OneArray:
    """The peers: an array a call, or a PNG in base64 a call, as the original system sends them."""

    async def array(self, pixels: np.ndarray) -> int:
        return int(pixels[0].sum())

    async def png(self, text: str) -> int:
        import PIL.Image

        with PIL.Image.open(io.BytesIO(base64.b64decode(text))) as image:
            return int(np.asarray(image)[0].sum())


ARRAYS, PNG = "one array a call", "PNG text a call"
OURS = "ids first"
Send = Callable[[Sequence[Image]], Awaitable[list[int]]]


@dataclass(slots=True)
class Measured:
    """Images a second: by way of sending, by images a call, and of images whose pixels are there."""

    rates: dict[str, list[float]] = field(default_factory=lambda: {OURS: [], ARRAYS: [], PNG: []})
    by_call: dict[int, list[float]] = field(default_factory=lambda: {1: [], 8: [], 32: [], 128: []})
    known: float = 0.0


class FreshImages:
    """Images that were never sent before: noise with a serial number in its corner."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._serial = 0

    def __call__(self, n: int) -> list[Image]:
        noise = self._draw.integers(0, 256, (224, 224, 3), np.uint8)
        images = []
        for _ in range(n):
            self._serial += 1
            pixels = noise.copy()
            pixels[0, 0] = (self._serial & 255, self._serial >> 8 & 255, self._serial >> 16)
            images.append(Image.from_pixels(pixels))
        return images


def run(context: Context) -> Result:
    measured = asyncio.run(_measure(context))
    rates = measured.rates
    ours = statistics.median(rates[OURS])
    bound = (
        "Bounded by copying: each image is copied into and out of shared memory on one core, at memory speed."
    )
    ratio = median_ratio(rates[OURS], rates[ARRAYS])
    return Result(
        [
            Metric("images a second ÷ one array a call", ratio, "", ">= 40", bound),
            Metric("images a second ÷ PNG text a call", median_ratio(rates[OURS], rates[PNG])),
            Metric("images a second", ours, "/s"),
            Metric("bytes a second", ours * 224 * 224 * 3 / 1e9, "GB/s"),
            Metric("images a second when their pixels are there", measured.known, "/s"),
        ],
        notes=["Measured with the replica's image cache full, as it is after its first 3,400 images."],
        tables=[
            _table("Images a second, one call's worth at a time", "images a call", measured.by_call),
            _table("Images a second by way of sending", "way", rates),
        ],
    )


def _table(title: str, first: str, rates: Mapping[Any, list[float]]) -> Table:
    rows = tuple((key, round(statistics.median(measured))) for key, measured in rates.items())
    return Table(title, (first, "images/s"), rows)


async def _measure(context: Context) -> Measured:
    measured, fresh = Measured(), FreshImages(context.seed)
    async with Cluster.start(RaySettings(object_store_mb=1024)) as cluster:
        pool = cluster.pool("corner", "benchmarks.pixels_in:build")

        async def ours(images: Sequence[Image]) -> list[int]:
            return list(await asyncio.gather(*(pool.submit(CornerRequest(image)) for image in images)))

        await _measure_ways(measured, ours, fresh, rounds=2 if context.quick else 5)
        context.check("every answer is its image's", True)
        sent = pool.statistics().pixels_sent
        context.check("each image's pixels travelled once", sent == pool.statistics().requests)
        again = fresh(256)
        await ours(again)
        measured.known = await _rate(ours, again)
        context.check("known images travel as ids", pool.statistics().pixels_sent == sent + len(again))
    return measured


async def _measure_ways(measured: Measured, ours: Send, fresh: FreshImages, rounds: int) -> None:
    arrays, png = _peers()
    for send in (arrays, png):
        await _rate(send, fresh(32))
    # Until the replica's cache is full, each image costs memory that was never touched before.
    for _ in range(4):
        await _rate(ours, fresh(1024))
    for _ in range(rounds):
        for name, send, n in ((OURS, ours, 1024), (ARRAYS, arrays, 256), (PNG, png, 64)):
            measured.rates[name].append(await _rate(send, fresh(n)))
        for size, rates in measured.by_call.items():
            images = fresh(4 * size if size < 128 else 256)
            start = time.perf_counter()
            for i in range(0, len(images), size):
                await ours(images[i : i + size])
            rates.append(len(images) / (time.perf_counter() - start))


def _peers() -> tuple[Send, Send]:
    """Return what sends an array a call, and what sends PNG text a call, each with 16 callers."""
    import ray

    actor = ray.remote(OneArray).options(max_concurrency=4096, num_cpus=0).remote()

    def sender(call: Callable[[Image], Awaitable[int]]) -> Send:
        async def caller(images: Sequence[Image]) -> list[int]:
            return [await call(image) for image in images]

        async def send(images: Sequence[Image]) -> list[int]:
            answers = await asyncio.gather(*(caller(images[i::16]) for i in range(16)))
            return list(chain.from_iterable(answers))

        return send

    return (
        sender(lambda image: actor.array.remote(image.pixels)),
        sender(lambda image: actor.png.remote(base64.b64encode(encode_png(image)).decode())),
    )


async def _rate(send: Send, images: list[Image]) -> float:
    """Return images a second; every answer is checked."""
    start = time.perf_counter()
    answers = await send(images)
    taken = time.perf_counter() - start
    if sorted(answers) != sorted(int(image.pixels[0].sum()) for image in images):
        raise AssertionError("an answer is not its image's")
    return len(images) / taken
