"""B20: agents that edit units of three layers, coalesced, against one pass for each edit.

The peer is what a script does: a forward hook that zeroes a channel, and one image a pass. A second figure is
what an edit costs in a full batch.
"""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import torch

from actors.images import Image
from actors.serving.coalescer import Coalescer
from actors.vision.readout.edits import Edit
from actors.vision.readout.requests import Ask, VisionRequest
from actors.vision.readout.units import OUTPUT, Readout
from benchmarks import studied
from benchmarks.harness import Context, Metric, Result, interleave, median_ratio, timed

ID = "B20"
TITLE = "Interventions: 64 agents edit 64 units of three layers of EfficientNet-lite0"

LAYERS, BATCH, AGENTS, SHARED = ("blocks.3", "blocks.5", "blocks.6"), 32, 64, 15
SCORES = (Ask(Readout(OUTPUT, "logit"), None),)


def _images(n: int, rng: np.random.Generator) -> list[Image]:
    return [Image.from_pixels(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(n)]


def run(context: Context) -> Result:
    rounds, agents, n_images = (2, 16, 5) if context.quick else (3, AGENTS, SHARED)
    rng = np.random.default_rng(context.seed)
    edits = [Edit(Readout(LAYERS[agent % 3]), agent // 3, "set", 0.0) for agent in range(agents)]
    with torch.inference_mode():
        backend = studied.backend("tf_efficientnet_lite0", context.device, BATCH, pretrained=False)
        module, preprocess = backend.network.module, backend.network.preprocess
        modules = dict(module.named_modules())

        def alone() -> float:
            """One agent's images, an image a pass; as long as if all agents had done so, an image."""
            images = _images(n_images, rng)

            def go() -> None:
                for image in images:
                    edit = edits[0]

                    def zero(
                        _module: object, _inputs: object, output: torch.Tensor, edit: Edit = edit
                    ) -> torch.Tensor:
                        output = output.clone()
                        output[:, edit.index] = 0
                        return output

                    handle = modules[edit.readout.layer].register_forward_hook(zero)
                    module(preprocess.batch([image.pixels], context.device))
                    handle.remove()
                studied.synchronize(context.device)

            return timed(go) / n_images

        def together(shared: bool) -> float:
            common = _images(n_images, rng)
            own = [common if shared else _images(n_images, rng) for _ in edits]

            async def ask() -> None:
                coalescer: Coalescer[Any, Any] = Coalescer(backend)

                async def ask_one(number: int, image: Image) -> None:
                    await coalescer.submit(VisionRequest(image, SCORES, (edits[number],)), agent=str(number))

                async with anyio.create_task_group() as group:
                    for number, images in enumerate(own):
                        for image in images:
                            group.start_soon(ask_one, number, image)
                await coalescer.aclose()

            return timed(lambda: anyio.run(ask)) / (n_images * len(edits))

        def full(edited: bool) -> float:
            pixels = _images(BATCH, rng)
            own = [(edits[at % len(edits)],) if edited else () for at in range(BATCH)]
            requests = [VisionRequest(image, SCORES, edit) for image, edit in zip(pixels, own, strict=True)]
            return timed(lambda: backend._measure(requests))

        measured = interleave(
            {
                "alone": alone,
                "shared": lambda: together(True),
                "own": lambda: together(False),
                "edited": lambda: full(True),
                "plain": lambda: full(False),
            },
            rounds,
        )
    shared = median_ratio(measured["alone"], measured["shared"])
    return Result(
        [
            Metric("one pass each / coalesced, the agents' images shared", shared, "x", ">= 8"),
            Metric(
                "one pass each / coalesced, images of their own",
                median_ratio(measured["alone"], measured["own"]),
                "x",
            ),
            Metric(
                "full batch with edits / without",
                median_ratio(measured["edited"], measured["plain"]),
                "x",
                "<= 1.1",
            ),
        ],
        notes=["Random weights: the time of a pass does not depend on them."],
    )
