"""`transformers serve`, also beside a torch built for the CPU, where torchvision's compiled parts do not
load.

Pillow then stands in for torchvision's decoder of images. Run as a program with the arguments of
`transformers`.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from actors.vision_libraries import import_torchvision


def decode(data: Any, mode: Any = None, **_: Any) -> Any:
    """Return the image in a tensor of bytes as RGB: uint8 of shape (3, height, width)."""
    import numpy as np
    import PIL.Image
    import torch

    image = PIL.Image.open(io.BytesIO(bytes(data.tolist()))).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


if __name__ == "__main__":
    import_torchvision()
    import torch
    import torchvision.io

    if not hasattr(torch.ops.image, "decode_image"):
        torchvision.io.decode_image = decode
    from transformers.cli.transformers import main

    sys.argv[0] = "transformers"
    main()
