"""`maia exemplars`: the strongest data-set images of every unit of some layers, in one pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.vision.data.distinct import DistinctDataset, image_name
from actors.vision.data.held_out import HeldOutShare, split
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.units import Readout
from actors.vision.sweep.exemplars import LayerExemplars
from agents.records.journal import slug
from agents.records.store import Store
from experiments.setup.console import Console
from experiments.setup.preflight import open_images
from experiments.setup.run_folder import check_output_folder
from experiments.setup.selection import Selected, Selection


@dataclass(frozen=True, slots=True)
class ExemplarRequest:
    """Layers of a network whose units' exemplars are wanted."""

    model: str
    layers: str
    """Names with commas between them."""
    selection: Selection
    k: int
    """Exemplars of each unit."""
    out: Path

    def names(self) -> list[str]:
        """Return the names of the layers.

        Raises:
            UsageError: If there are none.
        """
        names = [name.strip() for name in self.layers.split(",") if name.strip()]
        if not names:
            raise UsageError("--layers names no layer.", "Give them with commas: --layers blocks.5,blocks.6")
        return names


@dataclass(frozen=True, slots=True)
class ExemplarTables:
    """What a pass over the data set has written; kept as `exemplars.json`."""

    model: str
    network: str
    dataset: str
    images: int
    skipped: dict[str, str]
    """Images that could not be read, with the reason."""
    units: dict[str, int]
    """Units by layer."""
    files: dict[str, str]
    """Tables by layer."""
    run: str


async def find_exemplars(console: Console, request: ExemplarRequest) -> ExemplarTables:
    """Sweep the data set once for all units of all layers, and write a table per layer.

    Each line of `<layer>.jsonl` is a unit: its exemplars (index, source, activation), the quantiles of its
    activation over positions, mean, standard deviation and maximum over images. An interrupted pass is
    resumed at its last finished chunk.

    Raises:
        UsageError: If there is no such network, layer or data set, or the folder cannot be written.
    """
    selected, names = request.selection.load(), request.names()
    if (network := selected.known_network(request.model)) is not None:
        for name in names:
            network.layer(name)
    run = request.out
    check_output_folder(selected.profile.dataset, run)
    store = Store.open(run)
    check_name(request.model)
    dataset = await open_images(selected.profile, selected.cache, console.say)
    await asyncio.to_thread(_say_split, console, dataset, selected.profile.vision.held_out)
    network_id, exemplars = await _search(console, request, selected, names, dataset)
    files = {}
    for name, layer in exemplars.items():
        path = run / f"{slug(name)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(layer, dataset, request.k)))
        files[name] = str(path)
    first = exemplars[names[0]]
    tables = ExemplarTables(
        model=request.model,
        network=network_id,
        dataset=dataset.fingerprint,
        images=first.n_images,
        skipped=warn_of_skipped(console, dataset, first.skipped),
        units={name: len(layer.indices) for name, layer in exemplars.items()},
        files=files,
        run=str(store.root),
    )
    (run / "exemplars.json").write_text(json.dumps(asdict(tables), indent=1))
    return tables


async def _search(
    console: Console, request: ExemplarRequest, selected: Selected, names: list[str], dataset: ImageDataset
) -> tuple[str, dict[str, LayerExemplars]]:
    """Return the network's fingerprint, and each layer's exemplars by its name."""
    from experiments.setup.workbench import network_alone

    async with network_alone(selected.profile, selected.cache, request.model, console.say) as vision:
        readouts = {name: Readout.of(await vision.unit(Unit(name, 0))) for name in names}
        with console.progress("images") as progress:
            exemplars = await vision.layer_exemplars(
                list(readouts.values()), dataset, request.k, lambda swept: progress(swept.done, swept.total)
            )
        return vision.fingerprint, {name: exemplars[readout] for name, readout in readouts.items()}


def _say_split(console: Console, dataset: ImageDataset, share: HeldOutShare) -> None:
    n, n_held_out = len(dataset), len(split(dataset, share)[1])
    held_out = f", of which {n_held_out:,} ({n_held_out / n:.0%}) are held out for confirmation"
    console.say(f"{n:,} distinct images in {dataset.name}{held_out if n_held_out else ''}")


def rows(layer: LayerExemplars, dataset: ImageDataset, k: int) -> Iterator[dict[str, Any]]:
    """Yield each unit of a layer as plain JSON values; an exemplar's `index` is into the whole data set,
    copies too.
    """
    whole = dataset.firsts if isinstance(dataset, DistinctDataset) else np.arange(len(dataset))
    for index in range(len(layer.indices)):
        unit = layer.of(layer.readout.unit(index), k)
        yield {
            "layer": unit.unit.layer,
            "unit": index,
            "exemplars": [
                {"index": int(whole[i]), "image": image_name(dataset, int(i)), "activation": float(a)}
                for i, a in zip(unit.indices, unit.activations, strict=True)
            ],
            "quantiles": {str(level): value for level, value in unit.quantiles.items()},
            "mean": unit.mean,
            "std": unit.std,
            "maximum": unit.maximum,
            "dead": bool(np.isclose(unit.maximum, 0.0) and np.isclose(unit.std, 0.0)),
        }


def warn_of_skipped(
    console: Console, dataset: ImageDataset, unread: Mapping[int, str], more: str = ""
) -> dict[str, str]:
    """Warn of images that could not be read, and return each one's reason by its name; `more` says where all
    are named.
    """
    skipped = dict(dataset.unreadable) if isinstance(dataset, DistinctDataset) else {}
    skipped |= {image_name(dataset, index): reason for index, reason in unread.items()}
    for image, reason in list(skipped.items())[:5]:
        console.warn(f"{image} was skipped: {reason}")
    if len(skipped) > 5:
        console.warn(f"{len(skipped)} images were skipped in all" + (f"; {more} names them" if more else ""))
    return skipped
