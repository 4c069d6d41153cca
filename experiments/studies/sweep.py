"""`maia sweep`: whole layers. One pass for all exemplars, a screening of the units, then agents for the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.vision.networks.layer_cache import KnownNetwork, recall
from actors.vision.readout.units import Readout, parse_unit
from agents.records.journal import slug
from agents.records.manifest import claim, widen
from agents.records.store import Store, finite, parse
from agents.records.work import WorkItem, extend_plan, read_plan, write_plan
from experiments.records import cross_unit as crosswise
from experiments.runs.campaign import Campaign, Closing, check_items, check_known
from experiments.setup import config as configuration
from experiments.setup.console import Console, counted
from experiments.setup.preflight import check_out
from experiments.setup.science import science
from experiments.studies.exemplars import tell_skipped
from experiments.studies.unit_selection import check, choose, screen

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

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
    class_names: Path | None = None
    retry_failed: bool = False
    few_images: bool = False
    repeat: int = 1


async def sweep(
    console: Console, config: Path | None, profile_name: str | None, asked: Sweep, *, out: Path | None = None
) -> dict[str, Any]:
    """Study the units of one or more layers and return a summary; goes on with what an earlier run left.

    Raises:
        UsageError: If anything that was asked for does not exist, or another process works on the directory.
    """
    check(asked.units)
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name).given(asked.data, asked.class_names, asked.few_images)
    network = recall(loaded.cache, asked.model, profile.vision)
    units = [] if network is None else ids_of(network, wanted_of(network, asked))
    run = out or Path("runs") / slug(f"{asked.model} {','.join(asked.layers)} {asked.units}")
    check_out(profile.dataset, run)
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
    } | ({"repeat": asked.repeat} if asked.repeat > 1 else {})
    check_known(store, manifest, network, units)
    campaign = Campaign(console, loaded, profile, store, manifest, asked.retry_failed)
    closing = Closing(lambda: crosswise.read(store) is not None, partial(_compare, store))
    finished = await campaign.run(partial(_plan, console, store, manifest, asked), closing)
    screened = parse(store.get(SCREENING) or b"{}", run / SCREENING)
    verdicts = [row["verdict"] for table in screened.values() for row in table]
    return finished.summary() | {
        "screened": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "skipped_images": parse(store.get(SKIPPED) or b"{}", run / SKIPPED),
    }


def wanted_of(network: KnownNetwork, asked: Sweep) -> dict[Readout, list[int]]:
    """Return the units that are asked for by layer.

    Raises:
        UsageError: If there is no such layer or unit.
    """
    found: dict[Readout, list[int]] = {}
    for text in asked.layers:
        first = parse_unit(text, "0", network.class_names)
        layer = network.layer(first.layer)
        found[Readout(layer, first.kind)] = choose(asked.units, network.layers[layer], asked.seed, layer)
    return found


def ids_of(network: KnownNetwork, wanted: Mapping[Readout, Sequence[int]]) -> list[str]:
    return [f"{network.name}/{readout.unit(index)}" for readout, units in wanted.items() for index in units]


async def _compare(store: Store, bench: Workbench, plan: list[WorkItem]) -> None:
    await crosswise.compare(bench.vision, store, plan)


async def _plan(
    console: Console, store: Store, manifest: dict[str, Any], asked: Sweep, bench: Workbench
) -> list[WorkItem]:
    """Return the work of the run: from its directory, or from a pass over the data set for what is not
    planned yet.
    """
    vision = bench.vision
    wanted = wanted_of(vision.known, asked)
    for readout in wanted:
        await vision.check(readout.unit(0))
    ids = ids_of(vision.known, wanted)
    manifest = manifest | {"units": ids}
    claim(store, manifest)
    plan = read_plan(store)
    planned = {
        (item := _item(vision.name, readout, index, asked)).unit: item
        for readout, units in wanted.items()
        for index in units
    }
    check_items(store, plan or (), planned)
    screened: dict[str, list[dict[str, Any]]] = (
        {} if plan is None else parse(store.get(SCREENING) or b"{}", store.root / SCREENING)
    )
    seen = {layer: [row["unit"] for row in rows] for layer, rows in screened.items()}
    new = {
        readout: sorted(set(units) - set(seen.get(readout.layer, ()))) for readout, units in wanted.items()
    }
    n_new = sum(map(len, new.values()))
    if plan is not None and not n_new:
        widen(store, manifest)
        return plan
    added = "" if plan is None else f", which are added to the {len(ids) - n_new} of this run"
    console.say(f"searching the data set for the exemplars of {counted(n_new, 'unit')}{added}")
    with console.progress("exemplars") as progress:
        found = await vision.layer_exemplars(
            list(wanted), bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
        )
    unread = next(iter(found.values())).skipped
    if (n_images := next(iter(found.values())).n_images) < FEW:
        console.warn(
            f"exemplars are the strongest of {counted(n_images, 'image')} only: what is dead, constant or a "
            "duplicate among so few may be neither among more"
        )
    skipped = tell_skipped(console, bench.dataset, unread, str(store.root / SKIPPED))
    store.put(SKIPPED, json.dumps(skipped, indent=1, ensure_ascii=False).encode())
    items: list[WorkItem] = []
    for readout, units in new.items():
        before = screened.get(readout.layer, [])
        # Units that are studied come first: one that does the same is the duplicate, whatever its number.
        order = sorted(before, key=lambda row: row["verdict"] == "duplicate")
        rows = await asyncio.to_thread(screen, found[readout], [row["unit"] for row in order] + units)
        rows = rows[len(before) :]
        screened[readout.layer] = sorted(before + rows, key=lambda row: int(row["unit"]))
        items += [
            planned[f"{vision.name}/{readout.unit(row['unit'])}"] for row in rows if row["verdict"] == "alive"
        ]
    console.say(
        f"{counted(len(items), 'unit')} worth an agent, {n_new - len(items)} dead, constant, duplicates or "
        "not finite"
    )
    if plan is None:
        store.rewrite(SCREENING, _encode(screened))
        plan = write_plan(store, items)
    else:
        # Every label is compared with all others: with more of them, all are compared again.
        crosswise.forget(store)
        # The plan before the screening, the words of the command last: what is cut short is begun again by
        # the same command.
        known = {item.unit for item in plan}
        plan = extend_plan(store, [*plan, *(item for item in items if item.unit not in known)])
        store.rewrite(SCREENING, _encode(screened))
    widen(store, manifest)
    return plan


def _item(network: str, readout: Readout, index: int, asked: Sweep) -> WorkItem:
    unit = f"{network}/{readout.unit(index)}"
    return WorkItem(unit, readout.layer, str(index), seed=asked.seed, repeats=asked.repeat)


def _encode(screened: dict[str, list[dict[str, Any]]]) -> bytes:
    return json.dumps(finite(screened), indent=1, allow_nan=False).encode()
