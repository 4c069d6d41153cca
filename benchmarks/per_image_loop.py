"""The peer of B10, in a process of its own: one image after another, the way of MAIA's published code.

Written here from a reading of that code, in as few lines as keep its cost: an image comes as PNG in base64,
is decoded and preprocessed by Pillow, goes through the whole network alone, and leaves as a masked PNG in
base64.

    python -m benchmarks.per_image_loop stock|tuned MODEL

Each line of standard input is {"images": path of uint8 (n, h, w, 3), "rows": [...], "layer": ..., "unit":
..., "threshold": ...}; each line of output {"seconds": ..., "activations": [...]}. `tuned` has the program's
own allocator settings, threads and memory layout.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from typing import Any

import numpy as np


def main() -> None:
    mode, name = sys.argv[1:]
    tuned = mode == "tuned"
    from actors import runtime, vision_libraries

    if tuned:
        runtime.cpu_preamble(runtime.available_cores())
    vision_libraries.import_torchvision()
    import PIL.Image
    import timm
    import torch

    from actors.vision.networks.zoo import load_network

    if tuned:
        runtime.set_threads(runtime.available_cores())
    network = load_network(name).module
    if tuned:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    modules = dict(network.named_modules())

    def call_unit(png: str, layer: str, unit: int, threshold: float) -> tuple[float, str]:
        image = PIL.Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
        batch = transform(image)[None]
        if tuned:
            batch = batch.contiguous(memory_format=torch.channels_last)
        found: list[torch.Tensor] = []
        handle = modules[layer].register_forward_hook(lambda _m, _i, output: found.append(output))
        with torch.no_grad():
            network(batch)
        handle.remove()
        activation = float(found[0].amax((2, 3))[0, unit])
        small = PIL.Image.fromarray(found[0][0, unit].numpy())
        region = np.asarray(small.resize((224, 224), PIL.Image.Resampling.BILINEAR)) > threshold
        pixels = np.asarray(image.resize((224, 224)))
        masked = np.where(region[..., None], pixels, pixels // 4)
        written = io.BytesIO()
        PIL.Image.fromarray(masked).save(written, "PNG")
        return activation, base64.b64encode(written.getvalue()).decode()

    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        images = np.load(asked["images"], mmap_mode="r")
        texts = []
        for row in asked["rows"]:
            written = io.BytesIO()
            PIL.Image.fromarray(images[row]).save(written, "PNG")
            texts.append(base64.b64encode(written.getvalue()).decode())
        start = time.perf_counter()
        outcomes = [call_unit(text, asked["layer"], asked["unit"], asked["threshold"]) for text in texts]
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "activations": [value for value, _ in outcomes]}), flush=True)


if __name__ == "__main__":
    main()
