"""The time that the embedded world takes to read a prompt, draw it, edit it and look at it, on one core.

python -m benchmarks.bench_scenes
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any


def timed(work: Callable[[Any], object], cases: Iterable[Any]) -> list[float]:
    """Return the milliseconds that each case took."""
    times = []
    for case in cases:
        start = time.perf_counter()
        work(case)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import numpy as np
    import torch

    from actors.embedded.concept_net.concept_net import ConceptNet
    from actors.embedded.drawing.backgrounds import BACKGROUNDS
    from actors.embedded.drawing.grammar import parse_prompt
    from actors.embedded.drawing.render import render
    from actors.embedded.drawing.sampling import random_scene
    from actors.embedded.editing.edit import edit_image, edit_scene
    from actors.images import Image

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, background=place) for place in BACKGROUNDS for _ in range(12)]
    timed(render, scenes)  # sprites are cached after their first use, as in a long run
    images = [Image.from_pixels(render(scene)) for scene in scenes[::6]]
    net = ConceptNet.load()
    net.look(images[:2])
    rows = {
        "read a prompt": timed(
            parse_prompt, [f"two red dogs and a cat on the beach {i}" for i in range(100)]
        ),
        "draw 224 px": timed(render, scenes),
        "draw 224 px, slowest background": max(
            (timed(render, scenes[i : i + 12]) for i in range(0, len(scenes), 12)), key=statistics.median
        ),
        "edit a scene": timed(lambda scene: edit_scene(scene, "remove it and add a cat"), scenes),
        "edit pixels": timed(lambda image: edit_image(image, "make everything blue"), images[:12]),
        "look, one image": timed(lambda image: net.look([image]), images),
        "look, one of 32": [t / len(images[:32]) for t in timed(lambda _: net.look(images[:32]), range(3))],
    }
    for name, times in rows.items():
        high = sorted(times)[int(0.95 * (len(times) - 1))]
        print(
            f"{name:34s} median {statistics.median(times):7.2f} ms   95 % {high:7.2f} ms   (n={len(times)})"
        )


if __name__ == "__main__":
    main()
