"""B9: requests for the paper's units of ResNet-152, which end at many depths, in one batch of the coalescing
backend.

A batch holds one image for each of the paper's 100 units, by layer in its proportions; the peer runs
every image through the whole network.
"""

from __future__ import annotations

import numpy as np
import torch

from actors.images import Image
from actors.serving.lru import LruCache
from actors.vision.backend import VisionBackend
from actors.vision.readout.maps import MapCache
from actors.vision.readout.requests import Ask, VisionRequest, VisionResult
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, interleave, median_ratio, timed

ID = "B9"
TITLE = "Requests of many depths in one batch"


UNIT_COUNTS = {"conv1": 10, "layer1": 15, "layer2": 20, "layer3": 25, "layer4": 30}
"""Units by layer of ResNet-152 in the paper's evaluation (Table A3)."""
LAYERS = [name for name, count in UNIT_COUNTS.items() for _ in range(count // 5)]


def _requests(images: list[Image]) -> list[VisionRequest]:
    return [
        VisionRequest(image, (Ask(Readout(layer), (1,), maps=True),))
        for image, layer in zip(images, LAYERS, strict=True)
    ]


def run(context: Context) -> Result:
    batch, rounds = 20, 2 if context.quick else 5
    rng = np.random.default_rng(context.seed)

    def fresh() -> list[Image]:
        return [Image.from_pixels(rng.integers(0, 256, (232, 232, 3), dtype=np.uint8)) for _ in LAYERS]

    with torch.inference_mode():
        backend = studied.backend("resnet152", context.device, batch, pretrained=False)
        module, preprocess = backend.network.module, backend.network.preprocess
        _check_batch(context, backend, fresh())

        def mixed() -> float:
            asked = _requests(fresh())

            def go() -> None:
                backend._measure(asked)
                studied.synchronize(context.device)

            return timed(go)

        def full() -> float:
            pixels = [image.pixels for image in fresh()]

            def go() -> None:
                module(preprocess.batch(pixels, context.device))
                studied.synchronize(context.device)

            return timed(go)

        measured = interleave({"mixed": mixed, "full": full}, rounds)
    ratio = median_ratio(measured["mixed"], measured["full"])
    bound = "the mean depth of the mix, 0.58 of a pass"
    return Result(
        [Metric("paper's mix / full passes", ratio, "x", "<= 0.65", bound)],
        notes=["Random weights: the time of a pass does not depend on them."],
    )


def _check_batch(context: Context, backend: VisionBackend, images: list[Image]) -> None:
    """An image alone gives what it gave in the batch."""
    together = backend._measure(_requests(images))
    backend.bank._memory = LruCache(VisionSettings().bank_memory_mb << 20)
    backend._maps = MapCache(VisionSettings().map_memory_mb << 20)
    for index in (0, 3, 8, 13, 19):
        (alone,) = backend._measure(_requests(images)[index : index + 1])
        first = together[index]
        assert isinstance(alone, VisionResult)
        assert isinstance(first, VisionResult)
        a, b = first.readings[0].activations, alone.readings[0].activations
        context.check(f"{LAYERS[index]} alone and in the batch", bool(np.abs(a - b).max() <= 1e-4 * b.std()))
