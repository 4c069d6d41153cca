"""Whether edits of units can be made, and reach the network's outputs: asked with one image at first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import Unit
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import OUTPUT, Readout

SCORES = Readout(OUTPUT, "logit")
_TRIED = 8
_LARGE = 100.0


async def reaches_output(vision: PoolVisionClient, units: Sequence[Unit], read: Readout = SCORES) -> bool:
    """Return whether a large value of any of a few of these units changes what is read on an image of noise.

    Raises:
        UsageError: If one of the units cannot be edited, or lies behind what is read.
    """
    image = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    clean = await vision.outputs(read, [image])
    for unit in units[:: max(1, len(units) // _TRIED)][:_TRIED]:
        edited = await vision.outputs(read, [image], (Edit(Readout.of(unit), unit.index, "set", _LARGE),))
        if not np.array_equal(clean, edited):
            return True
    return False
