"""`maia layers`: the parts of a network whose units can be studied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actors.vision.readout.base import LayerInfo
from experiments.setup.selection import Selection


async def list_layers(
    selection: Selection, model: str, notify: Callable[[str], None] = lambda text: None
) -> list[LayerInfo]:
    """Return every layer of a network, in the order of the forward pass.

    A network that an earlier command loaded is not loaded again, unless a file of weights may change it.
    Layers need no weights, so that none are fetched; `notify` gets what was taken from a file of weights.
    """
    selected = selection.load()
    profile = selected.profile
    from_file = "@" in model or profile.vision.checkpoint is not None
    if not from_file and (known := selected.known_network(model)) is not None:
        return list(known.layers.values())
    from experiments.setup.workbench import network_alone

    notify(f"loading {model}" if profile.ray.in_process else f"starting Ray and loading {model}")
    bare = profile.vision.model_copy(update={"pretrained": False})
    profile = profile.model_copy(update={"vision": bare})
    async with network_alone(profile, selected.cache, model, notify) as vision:
        return list(await vision.layers())


def table(model: str, layers: Sequence[LayerInfo]) -> Any:
    """Return the layers as a table for a terminal."""
    from rich.table import Table

    from experiments.setup.console import counted

    shown = Table(title=f"{model}: {counted(len(layers), 'layer')}", title_justify="left", box=None)
    for column in ("layer", "units", "kind", "positions", "also", "module"):
        shown.add_column(column, justify="right" if column == "units" else "left")
    for layer in layers:
        positions = "x".join(map(str, layer.shape)) or "-"
        also = " ".join(f"@{word}" for word in layer.places.words())
        shown.add_row(layer.name, str(layer.n_units), layer.kind, positions, also, layer.module)
    return shown
