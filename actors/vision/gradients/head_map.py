"""Where an attention head looks: its weights over the patches, from the token at which its unit is largest.

Shapes: H heads; T tokens; h x w patches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from actors.errors import UsageError
from actors.vision.gradients.differentiable import DifferentiableNetwork
from actors.vision.readout.places import split_place
from actors.vision.readout.units import Readout

if TYPE_CHECKING:
    import torch


def of_attention(
    network: DifferentiableNetwork, pixels: torch.Tensor, unit: tuple[Readout, int]
) -> tuple[np.ndarray, float]:
    """Return what `where_it_looks` does, the map and the value.

    Raises:
        UsageError: If the unit is read at no head, or its attention has no weights between all tokens.
    """
    found, value = where_it_looks(network, pixels, unit)
    if found is None:
        name, _ = split_place(network.layer(unit[0].layer))
        raise UsageError(
            f"{name!r} has no weights between all tokens of the image: it attends in windows, to fewer "
            "keys, or in another way.",
            "Choose another --method.",
        )
    return found, value


def where_it_looks(
    network: DifferentiableNetwork, pixels: torch.Tensor, unit: tuple[Readout, int]
) -> tuple[np.ndarray | None, float]:
    """Return the weights, float32 (h, w) in 0..1, that a unit's head gives to the patches, and the unit's
    value.

    They are those of the token at which the unit is largest; of a mean over patches, the mean of their
    weights; None if its attention has no weights between all tokens. `pixels` are RGB, float32 (1, 3, H, W)
    in 0..255, of the input's size.

    Raises:
        UsageError: If the unit is read at no head.
    """
    import torch

    from actors.vision.readout.modules.weights import seeing

    readout, index = unit
    layer = network.layer(readout.layer)
    name, place = split_place(layer)
    tap, whole = network.tapped.tap(layer), network.tapped.tap(name)
    if place.site != "head":
        raise UsageError(
            f"{readout.layer!r} is no head of an attention.",
            "Name one, such as blocks.9.attn@head3, or choose another --method.",
        )
    n_tokens = whole.recorded.shape[1]
    module = network.tapped.module
    projection = module.get_submodule(tap.recorded.module)
    with seeing(module.get_submodule(name), projection) as seen:
        values = network.unit(pixels, readout, index)[0]
        table = seen.weights(whole.info.places.heads, n_tokens)
    if table is None or whole.layout.grid is None:
        return None, float(values.max())
    tokens = torch.arange(n_tokens, device=table.device)[None, :, None]
    image_hw = (pixels.shape[2], pixels.shape[3])
    of_unit = replace(tap.layout, channels=None, pooled=False).maps(tokens, image_hw).flatten()
    if not tap.layout.pooled:
        of_unit = of_unit[values.flatten().argmax()][None]
    looked_at = table[place.head, of_unit].mean(0)
    maps = whole.layout.maps(looked_at[None, :, None], image_hw)[0, 0]
    return maps.cpu().numpy(), float(values.max())
