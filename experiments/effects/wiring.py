"""`maia wiring`: which units of an earlier layer drive a unit on its exemplars, and which of a later one it
drives.

A driver is a unit whose ablation changes the unit; what it drives is changed by the unit's own. Units that
each suffice hide each other: neither alone makes a difference. So all drivers are ablated at once, too, and
compared with the whole layer; where they explain too little, units that only matter together are searched
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from actors.errors import UsageError
from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.edits import Edit
from actors.vision.readout.places import Place, split_place
from actors.vision.readout.units import OUTPUT, Readout, parse_readout, parse_unit
from agents.evidence.effects import LEAST_IMAGES, EffectFigures, mean_effects
from agents.records.store import Store
from experiments.audit import real_images
from experiments.effects.network_run import NetworkRun
from experiments.effects.new_values import number_of
from experiments.effects.reach import reaches_output
from experiments.effects.redundancy import redundant_units
from experiments.setup.console import Console
from experiments.setup.selection import Selection
from experiments.studies.ablation import FIRST, MOST, AblatedLayer, LayerAblation, UnitScreen

FILE = "wiring.json"
_VALUES = "zero, mean or a number"


@dataclass(frozen=True, slots=True)
class WiringRequest:
    """A unit, and the layers that may drive it or be driven by it: at least one of `before` and `after`."""

    model: str
    layer: str
    unit: str
    """As in `maia describe`."""
    before: str | None
    """LAYER, LAYER:latent:PATH or LAYER:direction:FILE."""
    after: str | None
    selection: Selection
    value: str
    """What an ablated unit is set to: "zero", "mean" (of its map over the data set), or a number."""
    k: int
    """Exemplars."""
    exact: bool
    """Ablate every unit on every exemplar."""
    out: Path


@dataclass(frozen=True, slots=True)
class Edge:
    """What one unit adds to another, in the mean over the exemplars.

    `effect` is in the units of the unit that changes, `deviations` in its standard deviations over the data
    set (None if it never varies there). `interval` is Student's at 95%, of `effect`; `q` the smallest
    false-discovery rate over the layer at which it would be claimed, and `sure` that it is, at 5%.
    """

    index: int
    name: str
    effect: float
    interval: tuple[float, float]
    deviations: float | None
    q: float
    sure: bool


@dataclass(frozen=True, slots=True)
class Drivers:
    """The units of an earlier layer that were ablated on all exemplars, strongest first.

    `together` is the effect of ablating all sure ones at once, `whole` that of the whole layer (None of
    latents and directions), in the units of the studied unit. `redundant` are units that change it only
    together, given that the drivers are ablated.
    """

    layer: str
    units: int
    floor: float
    edges: list[Edge]
    together: float
    whole: float | None
    redundant: list[int]
    passes: int


@dataclass(frozen=True, slots=True)
class DrivenUnits:
    """The units of a later layer that the unit drives: all sure ones, and the strongest, strongest first."""

    layer: str
    units: int
    edges: list[Edge]
    passes: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """One step of a circuit; kept as `wiring.json`."""

    model: str
    network: str
    """Fingerprint of the network."""
    dataset: str
    unit: str
    value: str
    images: int
    """Exemplars that were used."""
    activation: float
    """The unit's mean on them."""
    drivers: Drivers | None
    driven: DrivenUnits | None
    screened: bool
    """Whether units were left out after the first images."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class WiringEnds:
    """A unit, and the units that may drive it or be driven by it, as the network knows them."""

    unit: Unit
    before: Readout | None
    after: Readout | None


@dataclass(frozen=True, slots=True)
class _Study:
    """A unit with its exemplars; `deviation` is its standard deviation over the data set."""

    console: Console
    request: WiringRequest
    vision: PoolVisionClient
    store: Store
    unit: Unit
    images: Sequence[Image]
    deviation: float
    dataset: ImageDataset

    async def values(self, readout: Readout) -> np.ndarray:
        """Return what each unit of a readout is set to, float64 (U,)."""
        if self.request.value != "mean":
            return np.full(await self.vision.count_units(readout), number_of(self.request.value, _VALUES))
        means = (await self.vision.layer_exemplars([readout], self.dataset))[readout].map_mean.astype(float)
        for index in np.flatnonzero(~np.isfinite(means)).tolist():
            means[index] = await self.vision.map_mean(readout.unit(index), self.dataset)
        return means


async def find_wiring(console: Console, request: WiringRequest) -> Wiring:
    """Ablate units in front of a unit and the unit itself, and write `wiring.json`; an interrupted run is
    resumed.

    Raises:
        UsageError: If there is no such network, layer or unit, a layer does not lie on its side of the unit,
            or the folder cannot be written or holds another run.
    """
    if request.before is None and request.after is None:
        raise UsageError(
            "no layer is named that the unit is wired to.", "Give --from LAYER, --to LAYER, or both."
        )
    if request.value != "mean":
        number_of(request.value, _VALUES)
    run = await NetworkRun.open(
        console,
        request.selection,
        request.out,
        "wiring",
        model=request.model,
        layer=request.layer,
        which=request.unit,
        before=request.before,
        after=request.after,
        value=request.value,
        k=request.k,
        exact=request.exact,
    )
    async with run.network() as vision:
        ends = await ends_of(vision, request)
        run.claim(vision)
        result = await wire(console, request, vision, run.dataset, ends, run.store)
    run.store.replace_json(FILE, result)
    return result


async def ends_of(vision: PoolVisionClient, request: WiringRequest) -> WiringEnds:
    """Return what a request names, checked.

    Raises:
        UsageError: If there is no such layer or unit, or a layer does not lie on its side of the unit.
    """
    unit = await vision.unit(parse_unit(request.layer, request.unit, await vision.class_names()))
    before = await _before(vision, unit, request.before)
    return WiringEnds(unit, before, await _after(vision, unit, request.after))


async def wire(
    console: Console,
    request: WiringRequest,
    vision: PoolVisionClient,
    dataset: ImageDataset,
    ends: WiringEnds,
    store: Store,
) -> Wiring:
    """Return what the exemplars of a unit show; ablations are kept in `store`.

    Raises:
        UsageError: If the unit is the same on all images.
    """
    study, spread = await _study(console, request, vision, store, dataset, ends)
    drivers = None if ends.before is None else await _drivers(study, ends.before)
    driven = None if ends.after is None or spread is None else await _driven(study, ends.after, spread)
    return Wiring(
        request.model,
        vision.fingerprint,
        dataset.name,
        str(ends.unit),
        request.value,
        len(study.images),
        float((await vision.activations([ends.unit], study.images)).mean()),
        drivers,
        driven,
        drivers is not None and len(drivers.edges) < drivers.units,
    )


async def _before(vision: PoolVisionClient, unit: Unit, text: str | None) -> Readout | None:
    """Return the units that may drive a unit, checked."""
    if text is None:
        return None
    readout = Readout.of(await vision.unit(parse_readout(text)))
    if await _in_order(vision, unit.layer, readout.layer):
        raise _misplaced(f"--from {text} must lie before {unit.layer}, and the pass computes it no earlier.")
    units = [readout.unit(index) for index in range(await vision.count_units(readout))]
    if not await reaches_output(vision, units, Readout(unit.layer)):
        raise _unconnected(readout.layer, unit.layer, "--from")
    return readout


async def _after(vision: PoolVisionClient, unit: Unit, text: str | None) -> Readout | None:
    """Return the units that a unit may drive, checked."""
    if text is None:
        return None
    readout = Readout.of(await vision.unit(parse_readout(text)))
    if await _in_order(vision, readout.layer, unit.layer):
        raise _misplaced(f"--to {text} must lie behind {unit.layer}, and the pass computes it no later.")
    if not await reaches_output(vision, [unit], readout):
        raise _unconnected(unit.layer, readout.layer, "--to")
    return readout


async def _in_order(vision: PoolVisionClient, first: str, second: str) -> bool:
    """Return whether the output of a layer is surely computed before that of another, or is the same one.

    Of inputs and heads this is not known beforehand: an edit that lies behind what is read is refused later.
    """
    order = [layer.name for layer in await vision.layers()]
    parts = [(name, Place()) if name in order else split_place(name) for name in (first, second)]
    if any(place.site for _, place in parts):
        return False
    return order.index(parts[0][0]) <= order.index(parts[1][0])


def _misplaced(rule: str) -> UsageError:
    return UsageError(rule, "`maia layers` lists layers in the order of the pass.")


def _unconnected(first: str, second: str, option: str) -> UsageError:
    return UsageError(
        f"no unit of {first!r} changes {second!r}, whatever its value: they lie in branches of their own, or "
        "what is edited is not read.",
        f"Name another layer with {option}. Edits change a map's positions, and of tokens the patches.",
    )


async def _study(
    console: Console,
    request: WiringRequest,
    vision: PoolVisionClient,
    store: Store,
    dataset: ImageDataset,
    ends: WiringEnds,
) -> tuple[_Study, np.ndarray | None]:
    """Return the unit with its exemplars, and the later units' deviations over the data set, (U,): one
    pass.
    """
    unit, after = ends.unit, ends.after
    own = Readout.of(unit)
    swept_too = [after, ends.before if request.value == "mean" else None]
    with console.progress("exemplars") as progress:
        found = await vision.layer_exemplars(
            [own, *(each for each in swept_too if each is not None)],
            dataset,
            request.k,
            lambda swept: progress(swept.done, swept.total),
        )
    exemplars = found[own].of(unit, request.k)
    loaded = await asyncio.to_thread(real_images.load, dataset, exemplars.indices.tolist())
    images = [image for image in loaded if image is not None]
    if len(images) < LEAST_IMAGES or not exemplars.std > 0:
        raise UsageError(
            f"{unit} is the same on every image of {dataset.name!r}, or there are fewer than {LEAST_IMAGES} "
            "of them: no image tells what drives it.",
            "Choose a unit that varies, or other images with --data.",
        )
    study = _Study(console, request, vision, store, unit, images, exemplars.std, dataset)
    return study, None if after is None else found[after].std


async def _drivers(study: _Study, before: Readout) -> Drivers:
    """Return the units that drive the unit."""
    vision, index, n_units = study.vision, study.unit.index, await study.vision.count_units(before)
    layer = AblatedLayer(
        vision,
        before,
        await study.values(before),
        Readout.of(study.unit),
        lambda table: table[:, index],
    )
    n = len(study.images)
    screen = UnitScreen(
        tuple(np.unique(np.linspace(0, n - 1, FIRST).astype(int)).tolist()),
        lambda effects: np.abs(effects.mean(1)),
        None if study.request.exact else MOST,
    )
    with study.console.progress("images") as progress:
        found = await LayerAblation(layer, study.images, study.store, "drivers", progress).table(screen)
    figures = mean_effects(found.effects, found.floor, n_units)
    edges = _edges(figures, found.units, np.full(len(found.units), study.deviation), ())
    sure = [edge.index for edge in edges if edge.sure]
    clean = found.clean
    together = float((clean - await layer.together(study.images, sure)).mean()) if sure else 0.0
    whole, redundant = None, []
    if before.kind == "channel":
        whole = float((clean - await layer.together(study.images, range(n_units))).mean())
        if abs(whole - together) > found.floor:
            redundant = await redundant_units(layer, study.images[:FIRST], sure, whole)
    return Drivers(_words(before), n_units, found.floor, edges, together, whole, redundant, found.passes)


async def _driven(study: _Study, after: Readout, spread: np.ndarray) -> DrivenUnits:
    """Return the units that the unit drives."""
    own = Readout.of(study.unit)
    value = float((await study.values(own))[study.unit.index])
    edit = Edit(own, study.unit.index, "set", value)
    clean, without, placebo = [
        (await study.vision.outputs(after, study.images, edits, priority=Priority.CONFIRMATION)).T.astype(
            float
        )
        for edits in ((), (edit,), (edit.placebo,))
    ]
    floor = np.abs(placebo - clean).max(1)
    floor = np.maximum(floor, np.finfo(np.float32).eps * np.abs(clean).max(1))
    figures = mean_effects(clean - without, floor)
    names = await study.vision.class_names() if after.layer == OUTPUT else ()
    edges = _edges(figures, np.arange(len(clean)), spread, names)
    kept = [edge for place, edge in enumerate(edges) if edge.sure or place < MOST]
    return DrivenUnits(_words(after), len(clean), kept, 2 * len(study.images))


def _edges(figures: EffectFigures, units: np.ndarray, spread: np.ndarray, names: Sequence[str]) -> list[Edge]:
    """Return the edges of units with finite effects, strongest first; those that never vary come last."""
    scale = np.where(spread > 0, spread, np.nan)
    deviations = figures.mean / scale
    order = np.argsort(-np.nan_to_num(np.abs(deviations), nan=-1.0), kind="stable")
    return [
        Edge(
            int(units[place]),
            names[units[place]] if units[place] < len(names) else "",
            float(figures.mean[place]),
            figures.interval(place),
            float(deviations[place]) if np.isfinite(deviations[place]) else None,
            float(figures.q[place]),
            bool(figures.sure[place]),
        )
        for place in order
        if np.isfinite([figures.mean[place], figures.low[place], figures.high[place]]).all()
    ]


def _words(readout: Readout) -> str:
    return f"{readout.layer}:{readout.kind}:{readout.source}" if readout.source else readout.layer


def tables(result: Wiring, most: int = 20) -> list[Table]:
    """Return what was found for a terminal: the sure edges of each side, strongest first."""
    found = []
    for title, side in (("driven by", result.drivers), ("drives", result.driven)):
        if side is None:
            continue
        table = Table(
            f"{title} {side.layer}", "effect", "95% interval", "deviations", "q", box=None, pad_edge=False
        )
        for edge in [edge for edge in side.edges if edge.sure][:most]:
            low, high = edge.interval
            table.add_row(
                f"{edge.index} {edge.name.split(',')[0]}".strip(),
                f"{edge.effect:+.3g}",
                f"{low:+.3g} to {high:+.3g}",
                "" if edge.deviations is None else f"{edge.deviations:+.2f}",
                f"{edge.q:.2g}",
            )
        found.append(table)
    return found


def lines(result: Wiring) -> list[str]:
    """Return the summary as lines for a terminal."""
    said = [f"unit: {result.unit}, {result.activation:.3g} in the mean of its {result.images} exemplars"]
    if (drivers := result.drivers) is not None:
        sure = sum(edge.sure for edge in drivers.edges)
        rule = f"{len(drivers.edges)} on all exemplars, chosen on {FIRST}" if result.screened else "all"
        said.append(f"drivers: {sure} of {drivers.units} units ({rule}); {drivers.passes:,} edited images")
        whole = "" if drivers.whole is None else f", the whole layer {drivers.whole:+.3g}"
        said.append(f"together they add {drivers.together:+.3g}{whole}")
        if drivers.redundant:
            units = ", ".join(map(str, drivers.redundant))
            said.append(f"units {units} change it only together: without one of them, the others suffice")
    if (driven := result.driven) is not None:
        sure = sum(edge.sure for edge in driven.edges)
        said.append(f"driven: {sure} of {driven.units} units; {driven.passes:,} edited images")
    return said
