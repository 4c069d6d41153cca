"""The units of the paper's evaluation: how many of which layers of its three networks (Table A3).

The paper drew them uniformly at random, more from later layers. The same counts can be drawn again with a
seed; layers are given by the names that the paper's readers use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from actors.errors import UsageError
from actors.vision.networks.zoo import LAYER_ALIASES
from actors.vision.readout.base import LayerInfo, Unit

UNIT_COUNTS: Mapping[str, Mapping[str, int]] = {
    "resnet152": {"conv1": 10, "layer1": 15, "layer2": 20, "layer3": 25, "layer4": 30},
    "dino_vits8": {
        "blocks.1.mlp.fc1": 5,
        "blocks.3.mlp.fc1": 5,
        "blocks.5.mlp.fc1": 20,
        "blocks.7.mlp.fc1": 20,
        "blocks.9.mlp.fc1": 25,
        "blocks.11.mlp.fc1": 25,
    },
    "clip-RN50": {"layer1": 10, "layer2": 20, "layer3": 30, "layer4": 40},
}


def sample_units(model: str, layers: Iterable[LayerInfo], seed: int = 0) -> list[Unit]:
    """Return the 100 units of one of the paper's networks, drawn with `seed`, in the order of the table.

    `layers` are the network's own, from which the number of units of each layer is read. A layer's draw
    does not depend on the others'.

    Raises:
        UsageError: If the paper did not study `model`.
    """
    if model not in UNIT_COUNTS:
        raise UsageError(f"the paper's table has no network {model!r}.", f"It has {', '.join(UNIT_COUNTS)}.")
    n_units = {layer.name: layer.n_units for layer in layers}
    units = []
    for place, (name, count) in enumerate(UNIT_COUNTS[model].items()):
        layer = LAYER_ALIASES.get(model, {}).get(name, name)
        if layer not in n_units:
            raise UsageError(f"the network given as {model!r} has no layer {layer!r}.")
        draw = np.random.default_rng([seed, place]).choice(n_units[layer], size=count, replace=False)
        units += [Unit(layer, int(index)) for index in np.sort(draw)]
    return units
