"""`maia sweep`: whole layers. One pass for all exemplars, a screening of the units, then agents for the rest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.vision.known import recall
from actors.vision.units import Readout, parse_unit
from agents.journal import slug
from agents.manifest import claim
from agents.store import Store, finite, parse
from agents.work import WorkItem, read_plan, write_plan
from experiments import config as configuration
from experiments import crosswise
from experiments.campaign import Campaign, Closing
from experiments.console import Console
from experiments.describe import science
from experiments.exemplars import tell_skipped
from experiments.units import check, choose, screen

if TYPE_CHECKING:
    from experiments.workbench import Workbench

SCREENING = "screening.json"
FEW = 15
"""Fewer images than this are not even enough for a unit's exemplars."""
SKIPPED = "skipped_images.json"
"""Images of the data set that could not be read, with the reason."""


@dataclass(frozen=True)
class Sweep:
    """What a command line asks for."""

    model: str
    layers: tuple[str, ...]
    units: str = "all"
    seed: int = 0
    data: str | None = None
    retry_failed: bool = False


async def sweep(
    console: Console, config: Path | None, profile_name: str | None, asked: Sweep, *, out: Path | None = None
) -> dict[str, Any]:
    """Study the units of one or more layers and return a summary; goes on with what an earlier run left.

    Raises:
        UsageError: If anything that was asked for does not exist, or another process works on the directory.
    """
    check(asked.units)
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    if asked.data is not None:
        profile = profile.model_copy(update={"dataset": asked.data})
    if (network := recall(loaded.cache, asked.model)) is not None:
        for layer in asked.layers:
            choose(asked.units, network.layers[network.layer(layer)], asked.seed)
    run = out or Path("runs") / slug(f"{asked.model} {','.join(asked.layers)} {asked.units}")
    store = Store.open(run)
    manifest = {
        "command": "sweep",
        "model": asked.model,
        "layers": list(asked.layers),
        "asked": asked.units,
        "seed": asked.seed,
        "profile": profile_name or loaded.default_profile,
        "config": loaded.named_file,
        "settings": science(profile),
    }
    campaign = Campaign(console, loaded, profile, store, manifest, asked.retry_failed)
    closing = Closing(crosswise.KEY, partial(_compare, store))
    finished = await campaign.run(partial(_plan, console, store, manifest, asked), closing)
    screened = parse(store.get(SCREENING) or b"{}", run / SCREENING)
    verdicts = [row["verdict"] for table in screened.values() for row in table]
    return finished.summary() | {
        "screened": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "skipped_images": parse(store.get(SKIPPED) or b"{}", run / SKIPPED),
    }


async def _compare(store: Store, bench: Workbench, plan: list[WorkItem]) -> None:
    await crosswise.compare(bench.vision, store, plan)


async def _plan(
    console: Console, store: Store, manifest: dict[str, Any], asked: Sweep, bench: Workbench
) -> list[WorkItem]:
    """Return the work of the run: from its directory, or from a pass over the data set."""
    vision = bench.vision
    sizes = {layer.name: layer.n_units for layer in await vision.layers()}
    names = await vision.class_names()
    wanted: dict[Readout, list[int]] = {}
    for layer in asked.layers:
        first = await vision.unit(parse_unit(layer, "0", names))
        wanted[Readout.of(first)] = choose(asked.units, sizes[first.layer], asked.seed)
    ids = [f"{vision.name}/{readout.unit(index)}" for readout, units in wanted.items() for index in units]
    claim(store, manifest | {"units": ids})
    if (plan := read_plan(store)) is not None:
        return plan
    console.say(f"searching the data set for the exemplars of {len(ids)} units")
    with console.progress("exemplars") as progress:
        found = await vision.layer_exemplars(
            list(wanted), bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
        )
    unread = next(iter(found.values())).skipped
    if (n_images := next(iter(found.values())).n_images) < FEW:
        console.warn(
            f"exemplars are the strongest of {n_images} images only: what is dead, constant or a duplicate among so few "
            "may be neither among more"
        )
    skipped = tell_skipped(console, bench.dataset, unread, str(store.root / SKIPPED))
    store.put(SKIPPED, json.dumps(skipped, indent=1, ensure_ascii=False).encode())
    screened: dict[str, list[dict[str, Any]]] = {}
    items: list[WorkItem] = []
    for readout, units in wanted.items():
        rows = screened[readout.layer] = await asyncio.to_thread(screen, found[readout], units)
        items += [
            WorkItem(
                f"{vision.name}/{readout.unit(row['unit'])}", readout.layer, str(row["unit"]), seed=asked.seed
            )
            for row in rows
            if row["verdict"] == "alive"
        ]
    console.say(
        f"{len(items)} units are worth an agent, {len(ids) - len(items)} are dead, constant, duplicates or not finite"
    )
    store.put(SCREENING, json.dumps(finite(screened), indent=1, allow_nan=False).encode())
    return write_plan(store, items)
