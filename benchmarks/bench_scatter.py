"""The cost of choosing more than the strongest exemplars: one pass over a sample, and what is kept of it.

    python -m benchmarks.bench_scatter [--images 1500] [--layer blocks.6] [--threads 1]

EfficientNet-lite0 over drawn scenes, in this process. Times are processor seconds: of the pass for the
exemplars of a layer, of the first unit's scatter (at most 1,024 images, two layers), of another unit's, and
of choosing look-alikes.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from actors.serving.pool import LocalPool
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.data.datasets import open_dataset
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from tools.subject import NetworkUnit
from tools.system import SubjectSystem

T = TypeVar("T")
NETWORK = "tf_efficientnet_lite0"


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Return a result and the processor seconds that it took, threads included."""
    before = time.process_time()
    return await work, time.process_time() - before


async def measure(n_images: int, layer: str, threads: int) -> None:
    settings = VisionSettings(placement=Placement(threads=threads), device="cpu")
    dataset = open_dataset(f"scenes:{n_images}")
    backend = VisionBackend(NETWORK, settings)
    async with LocalPool(backend) as pool:
        with tempfile.TemporaryDirectory() as folder:
            client = await PoolVisionClient.connect(pool, Path(folder))
            subject = NetworkUnit(client, Unit(layer, 91), dataset)
            _, swept = await timed(subject.exemplars(15))
            found, first = await timed(subject.scatter())
            _, second = await timed(NetworkUnit(client, Unit(layer, 92), dataset).scatter())
            system = SubjectSystem(subject, lambda image, *_: image)
            chosen, chose = await timed(system.exemplars_by("near", 15, 0))
            kept = client._scatters._kept.n_bytes
    print(f"exemplars of a layer, {n_images} images: {swept:.1f} s")
    print(
        f"scatter of the first unit, {len(found.indices)} images: {first:.1f} s; of another: {second:.2f} s"
    )
    print(
        f"kept: {kept / 2**20:.1f} MB; compared by "
        f"{client._scatters.layer.name if client._scatters.layer else None}"
    )
    print(f"{len(chosen)} look-alikes chosen, measured and loaded: {chose:.2f} s")
    for measured, note in chosen[:5]:
        print(f"  {measured.response.activation:.2f} {note}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--layer", default="blocks.6")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    asyncio.run(measure(asked.images, asked.layer, asked.threads))
