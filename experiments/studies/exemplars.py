"""`maia exemplars`: the strongest data-set images of every unit of some layers, in one pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import UsageError
from actors.vision.data.distinct import DistinctDataset, name_of
from actors.vision.data.reserve import split
from actors.vision.networks.layer_cache import recall
from actors.vision.networks.zoo import check_name
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.units import Readout
from actors.vision.sweep.exemplars import LayerExemplars
from agents.records.journal import slug
from agents.records.store import Store
from experiments.setup import config as configuration
from experiments.setup.console import Console
from experiments.setup.preflight import check_out, open_images


async def find_exemplars(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    model: str,
    layers: str,
    *,
    data: str | None,
    k: int,
    out: Path | None,
    few_images: bool = False,
) -> dict[str, Any]:
    """Sweep the data set once for all units of all layers, and write a table a layer.

    Each line of `<layer>.jsonl` is a unit: its exemplars (index, where it came from, activation), the
    quantiles of its activation over positions, mean, standard deviation and maximum over images. A pass that
    was interrupted goes on at its last finished chunk.

    Raises:
        UsageError: If there is no such network, layer or data set, or the folder cannot be written.
    """
    from experiments.setup.workbench import network_alone

    loaded = configuration.load(config)
    profile = loaded.profile(profile_name).given(data, few_images=few_images)
    names = [name.strip() for name in layers.split(",") if name.strip()]
    if not names:
        raise UsageError("--layers names no layer.", "Give them with commas: --layers blocks.5,blocks.6")
    if (network := recall(loaded.cache, model, profile.vision)) is not None:
        for name in names:
            network.layer(name)
    run = out or Path("runs") / slug(f"exemplars {model} {' '.join(names)}")
    check_out(profile.dataset, run)
    store = Store.open(run)
    check_name(model)
    dataset = await open_images(profile, loaded.cache, console.say)
    await asyncio.to_thread(_say_split, console, dataset, profile.vision.reserve)
    async with network_alone(profile, loaded.cache, model) as vision:
        units = [await vision.unit(Unit(name, 0)) for name in names]
        readouts = [Readout.of(unit) for unit in units]
        with console.progress("images") as progress:
            found = await vision.layer_exemplars(
                readouts, dataset, k, lambda swept: progress(swept.done, swept.total)
            )
    files = {}
    for name, readout in zip(names, readouts, strict=True):
        path = run / f"{slug(name)}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(found[readout], dataset, k)))
        files[name] = str(path)
    first = found[readouts[0]]
    skipped = tell_skipped(console, dataset, first.skipped)
    summary = {
        "model": model,
        "network": vision.fingerprint,
        "dataset": dataset.fingerprint,
        "images": first.n_images,
        "skipped": skipped,
        "units": {name: len(found[readout].indices) for name, readout in zip(names, readouts, strict=True)},
        "files": files,
        "run": str(store.root),
    }
    (run / "exemplars.json").write_text(json.dumps(summary, indent=1))
    return summary


def _say_split(console: Console, dataset: ImageDataset, reserve: float) -> None:
    n, n_reserved = len(dataset), len(split(dataset, reserve)[1])
    held = (
        f", of which {n_reserved:,} ({n_reserved / n:.0%}) are held back for confirmation"
        if n_reserved
        else ""
    )
    console.say(f"{n:,} distinct images in {dataset.name}{held}")


def rows(found: LayerExemplars, dataset: ImageDataset, k: int) -> Any:
    """Yield each unit of a layer as plain JSON values; an exemplar's `index` is into the whole data set,
    copies too.
    """
    whole = dataset.firsts if isinstance(dataset, DistinctDataset) else np.arange(len(dataset))
    for index in range(len(found.indices)):
        unit = found.of(Unit(found.readout.layer, index, found.readout.kind, found.readout.source), k)
        yield {
            "layer": unit.unit.layer,
            "unit": index,
            "exemplars": [
                {"index": int(whole[i]), "image": name_of(dataset, int(i)), "activation": float(a)}
                for i, a in zip(unit.indices, unit.activations, strict=True)
            ],
            "quantiles": {str(level): value for level, value in unit.quantiles.items()},
            "mean": unit.mean,
            "std": unit.std,
            "maximum": unit.maximum,
            "dead": bool(np.isclose(unit.maximum, 0.0) and np.isclose(unit.std, 0.0)),
        }


def tell_skipped(
    console: Console, dataset: ImageDataset, unread: Mapping[int, str], more: str = ""
) -> dict[str, str]:
    """Warn of images that could not be read, and return each one's reason by its name; `more` says where all
    are named.
    """
    skipped = dict(dataset.unreadable) if isinstance(dataset, DistinctDataset) else {}
    skipped |= {name_of(dataset, index): reason for index, reason in unread.items()}
    for image, reason in list(skipped.items())[:5]:
        console.warn(f"{image} was skipped: {reason}")
    if len(skipped) > 5:
        console.warn(f"{len(skipped)} images were skipped in all" + (f"; {more} names them" if more else ""))
    return skipped
