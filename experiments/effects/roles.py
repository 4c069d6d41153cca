"""`maia roles`: what each unit of a layer does to the network's outputs on the images that drive it most.

A unit's exemplars pass clean and with the unit ablated. One sweep finds the exemplars of all units, and
images that several units share pass clean once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anyio
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from actors.errors import UsageError
from actors.images import Image
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.units import Readout
from actors.vision.sweep.exemplars import LayerExemplars
from agents.evidence.effects import RATE
from agents.evidence.role import Role, name_of, rates_among
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.unit_role import NoRoleError, RoleImages, RoleSettings, measure_role
from experiments.audit import real_images
from experiments.effects.network_run import NetworkRun
from experiments.effects.reach import reaches_output
from experiments.records.roles import brief
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.studies import unit_selection
from tools.subject import NetworkUnit

FILE = "roles.jsonl"
SUMMARY = "roles.json"
_AT_ONCE = 16
"""Units whose images are in memory and on their way at a time."""


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """Units of a layer, and the data set on whose images their roles are found."""

    model: str
    layer: str
    units: str
    """As in `maia sweep --units`."""
    selection: Selection
    k: int
    """Exemplars of each unit."""
    controls: int
    """Random changes that each unit's largest effect is compared with."""
    seed: int
    out: Path


@dataclass(frozen=True, slots=True)
class UnitRole:
    """A line of `roles.jsonl`. `role` None: there is none, for the `reason`.

    `shown`: the class that the network sees in most of the exemplars, by number, and `shown_name`.
    """

    unit: str
    index: int
    role: Role | None
    shown: int | None
    shown_name: str | None
    reason: str = ""
    q: float | None = None
    """The smallest false-discovery rate over the units at which it would be said to do more than random
    changes.
    """


@dataclass(frozen=True, slots=True)
class Roles:
    """A layer's roles in figures; kept as `roles.json`."""

    model: str
    network: str
    """Fingerprint of the network."""
    dataset: str
    layer: str
    units: int
    known: int
    """Units whose role is known."""
    with_effect: int
    """Units that change the outputs more than random changes of the same size, at a false-discovery rate of
    5% over the units.
    """
    agreeing: int
    """Units that surely raise an output, and most the class that the network sees in most of their exemplars.
    """
    raising: int
    """Units that surely raise an output."""
    passes: int
    """Images that were sent through the network edited."""
    files: list[str]
    version: int = 1


async def find_roles(console: Console, request: RoleRequest) -> tuple[Roles, list[UnitRole]]:
    """Ablate each unit on its exemplars, and write `roles.jsonl` and `roles.json`; an interrupted run is
    resumed.

    Raises:
        UsageError: If there is no such network, layer or unit, the network has no vector of outputs, or the
            folder cannot be written or holds another run.
    """
    unit_selection.check(request.units)
    run = await NetworkRun.open(
        console,
        request.selection,
        request.out,
        "roles",
        model=request.model,
        layer=request.layer,
        k=request.k,
        controls=request.controls,
        seed=request.seed,
        which=request.units,
    )
    store, dataset = run.store, run.dataset
    async with run.network() as vision:
        first = await vision.unit(Unit(request.layer, 0))
        await NetworkUnit(vision, first, dataset).named_outputs()
        n_units = vision.known.info(first.layer).n_units
        units = unit_selection.choose(request.units, n_units, request.seed, request.layer)
        readout = Readout.of(first)
        if not await reaches_output(vision, [readout.unit(index) for index in units]):
            raise UsageError(
                f"no unit of {request.layer!r} changes the outputs, whatever its value.",
                "Edits change a map's positions, and of tokens the patches: choose a layer that the outputs "
                "are computed from, or its class token, as in blocks.11@cls.",
            )
        run.claim(vision)
        with console.progress("images") as progress:
            found = await vision.layer_exemplars(
                [readout], dataset, request.k, lambda swept: progress(swept.done, swept.total)
            )
        layer = _Layer(vision, dataset, found[readout], request.k, RoleSettings(controls=request.controls))
        rows = _with_rates(await _roles(console, store, layer, units))
        result = _summary(request, layer, rows)
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    store.replace(FILE, lines.encode())
    store.replace_json(SUMMARY, result)
    return result, rows


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of a network with its units' exemplars."""

    vision: PoolVisionClient
    dataset: ImageDataset
    exemplars: LayerExemplars
    k: int
    settings: RoleSettings

    async def role_of(self, index: int) -> UnitRole:
        """Return a unit's role."""
        unit = self.exemplars.readout.unit(index)
        subject = NetworkUnit(self.vision, unit, self.dataset)
        images = await self._images(unit)
        try:
            found = await measure_role(subject, RoleImages(images), self.settings)
        except NoRoleError as none:
            return UnitRole(str(unit), index, None, None, None, none.message)
        if not found.named:
            return UnitRole(str(unit), index, found, None, None)
        seen = (await subject.outputs(images)).argmax(1)  # known: no pass
        most = Counter(seen.tolist()).most_common(1)[0][0]
        name = name_of(most, await self.vision.class_names())
        return UnitRole(str(unit), index, found, most, name)

    async def _images(self, unit: Unit) -> list[Image]:
        indices = self.exemplars.of(unit, self.k).indices.tolist()
        loaded = await asyncio.to_thread(real_images.load, self.dataset, indices)
        return [image for image in loaded if image is not None]


async def _roles(console: Console, store: Store, layer: _Layer, units: Sequence[int]) -> list[UnitRole]:
    """Return the units' roles, in order; those that the folder holds are read."""
    known: dict[int, UnitRole] = {}
    limiter = anyio.CapacityLimiter(_AT_ONCE)
    with console.progress("units") as progress:

        async def study(index: int) -> None:
            key = f"units/{index}.json"
            row = await asyncio.to_thread(_read, store, key)
            if row is None:
                async with limiter:
                    row = await layer.role_of(index)
                await asyncio.to_thread(
                    store.replace, key, json.dumps(asdict(row), ensure_ascii=False).encode()
                )
            known[index] = row
            progress(len(known), len(units))

        async with anyio.create_task_group() as group:
            for index in units:
                group.start_soon(study, index)
    return [known[index] for index in units]


def _read(store: Store, key: str) -> UnitRole | None:
    """Return a unit's role as it was written, None if there is none that can be read."""
    try:
        record = store.read_object(key)
        known = None if record is None else TypeAdapter(UnitRole).validate_python(record)
    except (RecordError, ValidationError):
        return None
    random = None if known is None or known.role is None else known.role.random
    # An earlier version kept nothing by which units can be compared with each other: measured again.
    return None if random is not None and not random.others else known


def _with_rates(rows: Sequence[UnitRole]) -> list[UnitRole]:
    """Return the roles with their false-discovery rates over all of them, where changes were compared."""
    compared = {
        row.index: row.role.random
        for row in rows
        if row.role is not None and row.role.random is not None and row.role.random.others
    }
    rates = dict(zip(compared, rates_among(list(compared.values())).tolist(), strict=True))
    return [replace(row, q=rates.get(row.index)) for row in rows]


def _more_than_random(row: UnitRole) -> bool:
    """Return whether a unit changes the outputs more than random changes, at 5% over the units."""
    if row.role is None or not row.role.affects:
        return False
    return row.role.random is None or (row.q is not None and row.q <= RATE)


def _summary(request: RoleRequest, layer: _Layer, rows: Sequence[UnitRole]) -> Roles:
    known = [row.role for row in rows if row.role is not None]
    raising = [row for row in rows if row.role is not None and row.role.raised]
    return Roles(
        request.model,
        layer.vision.fingerprint,
        layer.dataset.name,
        request.layer,
        len(rows),
        len(known),
        sum(map(_more_than_random, rows)),
        sum(row.role is not None and row.role.raised[0].output == row.shown for row in raising),
        len(raising),
        sum(each.edited for each in known),
        [str(request.out / FILE)],
    )


def table(result: Roles, rows: Sequence[UnitRole], most: int = 20) -> Table:
    """Return the units with the strongest effects for a terminal."""

    def strongest(row: UnitRole) -> float:
        if row.role is None:
            return -1.0
        effects = (*row.role.raised, *row.role.lowered)
        return max((abs(each.effect) for each in effects), default=0.0 if row.role.named else row.role.norm)

    lines = Table("unit", "role", "changes first output", "q", box=None, pad_edge=False)
    for row in sorted(rows, key=lambda row: -strongest(row))[:most]:
        if row.role is not None:
            words = brief(row.role, 3, _more_than_random(row))
            q = "" if row.q is None else f"{row.q:.2g}"
            lines.add_row(str(row.index), words, f"{row.role.flips} of {row.role.n}", q)
    return lines


def figures(result: Roles) -> Mapping[str, str]:
    """Return the summary as lines for a terminal."""
    return {
        "units": f"{result.known} of {result.units} measured",
        "effect": f"{result.with_effect} change the outputs more than random changes do (q <= 0.05 over the "
        "units)",
        "agreement": f"of {result.raising} that raise one, {result.agreeing} raise most the class seen "
        "in most of their exemplars",
        "passes": f"{result.passes:,} edited images",
    }
