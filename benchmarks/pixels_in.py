"""How fast raw 224 px images reach a replica: many a call, ids first, against one array a call and PNG text."""

from __future__ import annotations

import asyncio
import base64
import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
class Look:
    image: Image


class Corner(Backend[Look, int]):
    """Answers with the sum of an image's first row, so that the pixels must have come."""

    name = "corner"
    max_batch = 512

    async def run(self, batch: Sequence[Look]) -> list[int]:
        return [int(look.image.pixels[0].sum()) for look in batch]


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


def run(context: Context) -> Result:
    return asyncio.run(_run(context))


async def _run(context: Context) -> Result:
    import ray

    draw = np.random.default_rng(context.seed)
    rounds = 2 if context.quick else 5
    n_ours, n_array, n_png = 1024, 256, 64
    serial = 0

    def fresh(n: int) -> list[Image]:
        nonlocal serial
        noise = draw.integers(0, 256, (224, 224, 3), np.uint8)
        images = []
        for _ in range(n):
            serial += 1
            pixels = noise.copy()
            pixels[0, 0] = (serial & 255, serial >> 8 & 255, serial >> 16)
            images.append(Image.from_pixels(pixels))
        return images

    rates: dict[str, list[float]] = {"ids first": [], "one array a call": [], "PNG text a call": []}
    by_call: dict[int, list[float]] = {1: [], 8: [], 32: [], 128: []}
    async with Cluster.start(RaySettings(object_store_mb=1024)) as cluster:
        pool = cluster.pool("corner", "benchmarks.pixels_in:build")
        actor = ray.remote(OneArray).options(max_concurrency=4096, num_cpus=0).remote()

        async def ours(images: Sequence[Image]) -> list[int]:
            return list(await asyncio.gather(*(pool.submit(Look(image)) for image in images)))

        async def arrays(images: Sequence[Image]) -> list[int]:
            async def caller(mine: Sequence[Image]) -> list[Any]:
                return [await actor.array.remote(image.pixels) for image in mine]

            return list(
                chain.from_iterable(await asyncio.gather(*(caller(images[i::16]) for i in range(16))))
            )

        async def png(images: Sequence[Image]) -> list[int]:
            async def caller(mine: Sequence[Image]) -> list[Any]:
                return [
                    await actor.png.remote(base64.b64encode(encode_png(image)).decode()) for image in mine
                ]

            return list(
                chain.from_iterable(await asyncio.gather(*(caller(images[i::16]) for i in range(16))))
            )

        async def rate(send: Any, images: list[Image]) -> float:
            start = time.perf_counter()
            answers = await send(images)
            taken = time.perf_counter() - start
            expected = sorted(int(image.pixels[0].sum()) for image in images)
            if sorted(answers) != expected:
                raise AssertionError("an answer is not its image's")
            return len(images) / taken

        for send in (arrays, png):
            await rate(send, fresh(32))
        # Until the replica's cache is full, each image costs memory that was never touched before.
        for _ in range(4):
            await rate(ours, fresh(n_ours))
        for _ in range(rounds):
            rates["ids first"].append(await rate(ours, fresh(n_ours)))
            rates["one array a call"].append(await rate(arrays, fresh(n_array)))
            rates["PNG text a call"].append(await rate(png, fresh(n_png)))
            for size, measured in by_call.items():
                images = fresh(4 * size if size < 128 else 256)
                start = time.perf_counter()
                for i in range(0, len(images), size):
                    await ours(images[i : i + size])
                measured.append(len(images) / (time.perf_counter() - start))
        context.check("every answer is its image's", True)
        sent = pool.statistics().pixels_sent
        context.check("each image's pixels travelled once", sent == pool.statistics().requests)
        again = fresh(256)
        await ours(again)
        start = time.perf_counter()
        await ours(again)
        known = len(again) / (time.perf_counter() - start)
        context.check("known images travel as ids", pool.statistics().pixels_sent == sent + len(again))
    ratio = median_ratio(rates["ids first"], rates["one array a call"])
    rate_of_ours = statistics.median(rates["ids first"])
    bound = (
        "Bounded by copying: each image is copied into and out of shared memory on one core, at memory speed."
    )
    return Result(
        [
            Metric("images a second ÷ one array a call", ratio, "", ">= 40", bound),
            Metric(
                "images a second ÷ PNG text a call",
                median_ratio(rates["ids first"], rates["PNG text a call"]),
            ),
            Metric("images a second", rate_of_ours, "/s"),
            Metric("bytes a second", rate_of_ours * 224 * 224 * 3 / 1e9, "GB/s"),
            Metric("images a second when their pixels are there", known, "/s"),
        ],
        notes=["Measured with the replica's image cache full, as it is after its first 3,400 images."],
        tables=[
            Table(
                "Images a second, one call's worth at a time",
                ("images a call", "images/s"),
                tuple((size, round(statistics.median(measured))) for size, measured in by_call.items()),
            ),
            Table(
                "Images a second by way of sending",
                ("way", "images/s"),
                tuple((name, round(statistics.median(measured))) for name, measured in rates.items()),
            ),
        ],
    )
