"""`maia sweep`: whole layers. One pass for all exemplars, a screening of the units, agents for the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.base import Unit
from actors.vision.readout.units import Readout, parse_unit
from actors.vision.sweep.exemplars import LayerExemplars
from agents.records.manifest import claim, recorded, widen
from agents.records.record_types import Manifest
from agents.records.run_files import RecordError, damaged, parse_json
from agents.records.store import Store, finite
from agents.records.work import WorkItem, extend_plan, read_plan, write_plan
from agents.tasks.describe_unit import DescribeUnit
from experiments.records import cross_unit
from experiments.records.tiers import ALL, GIVEN, UnitTier, given_by, write_tiers
from experiments.records.tiers import KEY as TIERS
from experiments.runs.campaign import Campaign, Closing, RunSummary, check_items, check_known
from experiments.setup.console import Console, counted
from experiments.setup.run_folder import check_output_folder
from experiments.setup.selection import Selection
from experiments.studies.exemplars import warn_of_skipped
from experiments.studies.unit_selection import check, choose, screen

if TYPE_CHECKING:
    from actors.vision.client import PoolVisionClient
    from experiments.setup.workbench import Workbench

SCREENING = "screening.json"
FEW = 15
"""Fewer images than this are not even enough for a unit's exemplars."""
SKIPPED = "skipped_images.json"
"""Images of the data set that could not be read, with the reason."""


class TierPolicy(Protocol):
    """Decides which units of a sweep are given agents, by labels that were made without any."""

    @property
    def text(self) -> str:
        """The words of the command line."""

    async def prepare(
        self, console: Console, selection: Selection, model: str, layers: Sequence[str], run: Path
    ) -> None:
        """Make what it decides by, before the models of the run are started.

        Raises:
            UsageError: If it cannot be made.
        """

    def decide(
        self, store: Store, network: KnownNetwork, fingerprint: str, units: Sequence[str]
    ) -> list[UnitTier]:
        """Return what each unit is given, in order; what that rests on is written into the run.

        Raises:
            UsageError: If what it decides by is of another network, or of other layers.
        """


@dataclass(frozen=True)
class Sweep:
    """What a command line asks for."""

    model: str
    layers: tuple[str, ...]
    units: str = "all"
    seed: int = 0
    retry_failed: bool = False
    repeat: int = 1
    tiers: TierPolicy | None = None
    """Which units are given agents; None gives all of them one."""


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """How a sweep left its run."""

    run: RunSummary
    screened: dict[str, int]
    """Units by the verdict of the screening."""
    skipped_images: dict[str, str]
    """Images that could not be read, with the reason."""

    def as_json(self) -> dict[str, Any]:
        more = {"screened": self.screened, "skipped_images": self.skipped_images}
        return self.run.as_json() | more


async def sweep(console: Console, selection: Selection, request: Sweep, *, out: Path) -> SweepSummary:
    """Study the units of one or more layers and return a summary; an existing run is resumed.

    Raises:
        UsageError: If anything that was asked for does not exist, or another process works on the directory.
    """
    check(request.units)
    selected = selection.load()
    network = selected.known_network(request.model)
    units = [] if network is None else ids_of(network, wanted_of(network, request))
    check_output_folder(selected.profile.dataset, out)
    store = Store.open(out)
    more: dict[str, Any] = {"repeat": request.repeat} if request.repeat > 1 else {}
    tiers = request.tiers
    if tiers is not None or recorded(store).agents is not None:
        more["agents"] = ALL if tiers is None else tiers.text
    manifest = selected.manifest(
        "sweep",
        model=request.model,
        layers=list(request.layers),
        asked=request.units,
        seed=request.seed,
        **more,
    )
    check_known(store, manifest, network, units)
    campaign = Campaign(
        console, selected.configuration, selected.profile, store, manifest, request.retry_failed
    )
    closing = Closing(lambda: cross_unit.read(store) is not None, partial(_compare, store))
    if tiers is not None:
        await tiers.prepare(console, selection, request.model, request.layers, out)
    planner = _Planner(console, store, manifest, request)
    finished = await campaign.run(planner.plan, closing)
    verdicts = [row["verdict"] for table in read_screening(store).values() for row in table]
    return SweepSummary(
        run=finished.summary(),
        screened={verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        skipped_images=_skipped(console, store),
    )


def _skipped(console: Console, store: Store) -> dict[str, str]:
    """Return the images that were left out and why; a damaged record is reported, and is none."""
    try:
        skipped: dict[str, str] = _read(store, SKIPPED, _REASONS)
    except RecordError as error:
        console.warn(error.message)
        return {}
    return skipped


def wanted_of(network: KnownNetwork, request: Sweep) -> dict[Readout, list[int]]:
    """Return the units that are asked for by layer.

    Raises:
        UsageError: If there is no such layer or unit.
    """
    wanted: dict[Readout, list[int]] = {}
    for text in request.layers:
        first = parse_unit(text, "0", network.class_names)
        layer = network.layer(first.layer)
        units = choose(request.units, network.info(layer).n_units, request.seed, layer)
        wanted[Readout(layer, first.kind)] = units
    return wanted


def ids_of(network: KnownNetwork, wanted: Mapping[Readout, Sequence[int]]) -> list[str]:
    return [f"{network.name}/{readout.unit(index)}" for readout, units in wanted.items() for index in units]


async def _compare(store: Store, bench: Workbench, plan: list[WorkItem]) -> None:
    await cross_unit.compare(bench.vision, store, plan)


Screening = dict[str, list[dict[str, Any]]]
"""By layer, a row for each unit that was screened (`unit_selection.screen`), as `screening.json` has them."""


class _ScreenedUnit(BaseModel):
    """What every row says, among other things."""

    unit: int
    verdict: str


_SCREENED = TypeAdapter(dict[str, list[_ScreenedUnit]])
_REASONS = TypeAdapter(dict[str, str])


def read_screening(store: Store) -> Screening:
    """Return the rows of `screening.json`, nothing before there are any.

    Raises:
        RecordError: If they are damaged.
    """
    screening: Screening = _read(store, SCREENING, _SCREENED)
    return screening


def _read(store: Store, key: str, kind: TypeAdapter[Any]) -> Any:
    """Return a record as it was written, {} where there is none; RecordError if it is not of its kind."""
    value = parse_json(store.get(key) or b"{}", store.root / key)
    try:
        kind.validate_python(value, strict=True)
    except ValidationError as error:
        raise damaged(store.root / key, error) from error
    return value


@dataclass(frozen=True)
class _Planner:
    """Plans the work of a sweep."""

    console: Console
    store: Store
    manifest: Manifest
    request: Sweep

    async def plan(self, bench: Workbench) -> list[WorkItem]:
        """Return the work of the run: from its directory, or from a pass over the data set for what is not
        planned yet.
        """
        vision, store = bench.vision, self.store
        wanted = wanted_of(vision.known, self.request)
        for readout in wanted:
            await vision.check(readout.unit(0))
        ids = ids_of(vision.known, wanted)
        manifest = self.manifest.of_units(ids)
        claim(store, manifest)
        plan = read_plan(store)
        items = self._items(vision.name, wanted)
        check_items(store, [by_agent(item) for item in plan or ()], items)
        screening = {} if plan is None else read_screening(store)
        new = _unscreened(wanted, screening)
        n_new = sum(map(len, new.values()))
        asked = recorded(store).agents or ALL if plan is not None else None
        if plan is None or n_new:
            added = "" if plan is None else f", which are added to the {len(ids) - n_new} of this run"
            self.console.say(f"searching the data set for the exemplars of {counted(n_new, 'unit')}{added}")
            exemplars = await self._exemplars(bench, list(wanted))
            chosen = await asyncio.to_thread(_screen_new, new, screening, exemplars)
            self.console.say(
                f"{counted(len(chosen), 'unit')} worth a study, {n_new - len(chosen)} dead, constant, "
                "duplicates or not finite"
            )
        if plan is None or n_new or asked != (manifest.agents or ALL):
            planned = await asyncio.to_thread(self._given, _alive(screening, items), plan or (), vision)
            plan = _write_plan(store, plan, planned, screening)
        widen(store, manifest)
        return plan

    def _given(
        self, items: Mapping[str, WorkItem], plan: Sequence[WorkItem], vision: PoolVisionClient
    ) -> list[WorkItem]:
        """Return what there is to do on the units, of which `items` is what an agent alone would do: none is
        given less than it had.
        """
        policy, store = self.request.tiers, self.store
        if policy is not None:
            tiers = policy.decide(store, vision.known, vision.fingerprint, list(items))
        elif store.has(TIERS):
            tiers = [UnitTier(unit, "agent", "all units are given agents") for unit in items]
        else:
            return list(items.values())
        known = {item.unit: item for item in plan}
        planned = []
        for place, tier in enumerate(tiers):
            item, before = tier.item(items[tier.unit]), known.get(tier.unit)
            if before is not None and GIVEN.index(given_by(before)) >= GIVEN.index(tier.given):
                item = before
                tiers[place] = replace(tier, given=given_by(before), why=before.why or "it had one before")
            if item is not None:
                planned.append(item)
        write_tiers(store, tiers)
        return planned

    def _items(self, network: str, wanted: Mapping[Readout, Sequence[int]]) -> dict[str, WorkItem]:
        """Return the work on each unit that is asked for, by its id."""
        return {
            (unit := f"{network}/{readout.unit(index)}"): WorkItem(
                unit, readout.layer, str(index), seed=self.request.seed, repeats=self.request.repeat
            )
            for readout, units in wanted.items()
            for index in units
        }

    async def _exemplars(self, bench: Workbench, readouts: list[Readout]) -> Mapping[Readout, LayerExemplars]:
        """Return the exemplars of all units of some layers, from one pass over the data set."""
        with self.console.progress("exemplars") as progress:
            exemplars = await bench.vision.layer_exemplars(
                readouts, bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
            )
        first = exemplars[readouts[0]]
        if first.n_images < FEW:
            self.console.warn(
                f"exemplars are the strongest of {counted(first.n_images, 'image')} only: what is dead, "
                "constant or a duplicate among so few may be neither among more"
            )
        skipped = warn_of_skipped(self.console, bench.dataset, first.skipped, str(self.store.root / SKIPPED))
        self.store.put(SKIPPED, json.dumps(skipped, indent=1, ensure_ascii=False).encode())
        return exemplars


def _unscreened(wanted: Mapping[Readout, Sequence[int]], screening: Screening) -> dict[Readout, list[int]]:
    """Return the units of each layer that have not been screened yet."""
    return {
        readout: sorted(set(units) - {row["unit"] for row in screening.get(readout.layer, ())})
        for readout, units in wanted.items()
    }


def _alive(screening: Screening, items: Mapping[str, WorkItem]) -> dict[str, WorkItem]:
    """Return the items of units that the screening found worth a study."""
    alive = {
        (layer, str(row["unit"]))
        for layer, rows in screening.items()
        for row in rows
        if row["verdict"] == "alive"
    }
    return {unit: item for unit, item in items.items() if (item.layer, item.name) in alive}


def by_agent(item: WorkItem) -> WorkItem:
    """Return an item as it would be for an agent alone, to which no labels are given."""
    arguments = {key: value for key, value in item.arguments.items() if key != "hypotheses"}
    item = replace(item, arguments=arguments)
    if item.proposed and item.task in ("", DescribeUnit.name):
        item = replace(item, task=DescribeUnit.name, proposed=[])
    return replace(item, why="")


def _screen_new(
    new: Mapping[Readout, list[int]], screening: Screening, exemplars: Mapping[Readout, LayerExemplars]
) -> list[Unit]:
    """Add the rows of new units to `screening`, and return those of them that are worth an agent."""
    chosen = []
    for readout, units in new.items():
        known = screening.get(readout.layer, [])
        # Units that are studied come first: one that does the same is the duplicate, whatever its number.
        order = sorted(known, key=lambda row: row["verdict"] == "duplicate")
        rows = screen(exemplars[readout], [row["unit"] for row in order] + units)[len(known) :]
        new_rows = [row.to_json() for row in rows]
        screening[readout.layer] = sorted(known + new_rows, key=lambda row: int(row["unit"]))
        chosen += [readout.unit(row.unit) for row in rows if row.verdict == "alive"]
    return chosen


def _write_plan(
    store: Store, plan: list[WorkItem] | None, new: Sequence[WorkItem], screening: Screening
) -> list[WorkItem]:
    """Write the screening and the plan with the `new` items, also in the place of others of the same units,
    and return the plan.
    """
    encoded = json.dumps(finite(screening), indent=1, allow_nan=False).encode()
    if plan is None:
        store.replace(SCREENING, encoded, synced=True)
        return write_plan(store, new)
    # Every label is compared with all others: with more of them, all are compared again.
    cross_unit.forget(store)
    # The plan before the screening: what is cut short in between is done again by the same command.
    items = {item.unit: item for item in plan} | {item.unit: item for item in new}
    plan = extend_plan(store, list(items.values()))
    store.replace(SCREENING, encoded, synced=True)
    return plan
