"""B9: requests for the paper's units of ResNet-152, which end at many depths, in one batch of the coalescing
backend.

A batch holds one image for each of the paper's 100 units, by layer in its proportions; the peer runs
every image through the whole network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from actors.images import Image
from actors.vision.readout.requests import Ask, VisionRequest, VisionResult
from actors.vision.readout.units import Readout
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, interleave, median_ratio, timed
from experiments.studies.table_a3 import UNIT_COUNTS

ID = "B9"
TITLE = "Requests of many depths in one batch"


def run(context: Context) -> Result:
    batch, rounds = 20, 2 if context.quick else 5
    with torch.inference_mode():
        backend = studied.backend("resnet152", context.device, batch, pretrained=False)
        module, preprocess = backend.network.module, backend.network.preprocess
        layers = [name for name, count in UNIT_COUNTS["resnet152"].items() for _ in range(count // 5)]
        rng = np.random.default_rng(context.seed)

        def fresh() -> list[Image]:
            return [Image.from_pixels(rng.integers(0, 256, (232, 232, 3), dtype=np.uint8)) for _ in layers]

        def requests(images: list[Image]) -> list[VisionRequest]:
            return [
                VisionRequest(image, (Ask(Readout(layer), (1,), maps=True),))
                for image, layer in zip(images, layers, strict=True)
            ]

        images = fresh()
        together = backend._measure(requests(images))
        backend.bank._memory.clear()
        backend._maps.clear()
        for index in (0, 3, 8, 13, 19):
            (alone,) = backend._measure(requests(images)[index : index + 1])
            first = together[index]
            assert isinstance(alone, VisionResult)
            assert isinstance(first, VisionResult)
            a, b = first.readings[0].activations, alone.readings[0].activations
            context.check(
                f"{layers[index]} alone and in the batch", bool(np.abs(a - b).max() <= 1e-4 * b.std())
            )

        def mixed() -> Callable[[], float]:
            def go() -> float:
                asked = requests(fresh())
                return timed(lambda: (backend._measure(asked), studied.synchronize(context.device)))

            return go

        def full() -> float:
            pixels = [image.pixels for image in fresh()]
            return timed(
                lambda: (
                    module(preprocess.batch(pixels, context.device)),
                    studied.synchronize(context.device),
                )
            )

        measured = interleave({"mixed": mixed(), "full": full}, rounds)
    ratio = median_ratio(measured["mixed"], measured["full"])
    return Result(
        [
            Metric(
                "paper's mix / full passes",
                ratio,
                "x",
                "<= 0.65",
                "the mean depth of the mix, 0.58 of a pass",
            )
        ],
        notes=["Random weights: the time of a pass does not depend on them."],
    )
