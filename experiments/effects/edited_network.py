"""`maia edit`: a classifier's accuracy with some units given other values, beside its accuracy as it is.

The same labeled images pass twice, clean and edited, so every difference is that of pairs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

from actors.errors import UsageError
from actors.vision.client import PoolVisionClient
from actors.vision.data.labels import Labels, labels_of
from actors.vision.readout.base import ImageDataset, Unit
from actors.vision.readout.units import parse_unit
from agents.evidence.role import Interval
from agents.evidence.statistics import bootstrap_interval, wilson_interval
from experiments.audit import real_images
from experiments.audit.real_images import EditsOf
from experiments.audit.subgroups import FEW
from experiments.effects.network_run import NetworkRun
from experiments.effects.new_values import NewValue, PlannedEdits
from experiments.effects.reach import reaches_output
from experiments.setup.console import Console, counted
from experiments.setup.selection import Selection
from experiments.studies import unit_selection

FILE = "edit.json"
_HOW_TO_NAME_UNITS = "Name units as LAYER:UNITS, such as layer4:3,17 or layer4:0-63."


_NAMED = 8
"""Classes of the data set at most that a warning names."""


@dataclass(frozen=True, slots=True)
class EditedNetworkRequest:
    """Which units of a network get which value, and the labeled images that it is tried on."""

    model: str
    units: Sequence[str]
    """`LAYER:UNITS` each, UNITS as in `maia sweep --units`."""
    to: str
    """One of `new_values.FORMS`."""
    selection: Selection
    label_names: Mapping[str, str]
    per_class: int
    seed: int
    out: Path


@dataclass(frozen=True, slots=True)
class GroupEffect:
    """What the edit does to images of a class, or of a class with one value of an attribute.

    Accuracies are shares of the `n` images, with Wilson's 95% interval. `change` is after minus before, with
    the bootstrap's interval over images, and `p` that of McNemar's exact test of the images that changed
    sides. `probability`: of the image's own class, in the mean.
    """

    name: str
    n: int
    accuracy: float
    accuracy_interval: Interval
    edited_accuracy: float
    edited_interval: Interval
    change: float
    change_interval: Interval
    p: float
    probability: float
    edited_probability: float


@dataclass(frozen=True, slots=True)
class EditedNetwork:
    """A network with and without some units; kept as `edit.json`."""

    model: str
    network: str
    """Fingerprint of the network."""
    dataset: str
    units: list[str]
    to: str
    values: dict[str, float]
    """The value that each unit was given, where it is the same on all images."""
    images: int
    unreadable: int
    overall: GroupEffect
    classes: list[GroupEffect]
    groups: list[GroupEffect]
    """Of a class and a value of an attribute, where there are at least 25 images."""
    worst: GroupEffect | None
    """The group with the least accuracy before the edit."""
    worst_edited: GroupEffect | None
    """The group with the least accuracy after it."""
    seed: int
    version: int = 1


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Of each image (n,): its class's probability, whether it is recognized, before and after."""

    probability: np.ndarray
    edited_probability: np.ndarray
    correct: np.ndarray
    edited_correct: np.ndarray

    def effect(self, name: str, rows: np.ndarray) -> GroupEffect:
        """Return the effect on the images `rows`, bool (n,), of which there is at least one."""
        n = int(rows.sum())
        before, after = self.correct[rows], self.edited_correct[rows]
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        difference = after.astype(float) - before
        return GroupEffect(
            name,
            n,
            float(before.mean()),
            wilson_interval(int(before.sum()), n),
            float(after.mean()),
            wilson_interval(int(after.sum()), n),
            float(difference.mean()),
            bootstrap_interval(difference),
            float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0,
            float(self.probability[rows].mean()),
            float(self.edited_probability[rows].mean()),
        )


async def edit_network(console: Console, request: EditedNetworkRequest) -> EditedNetwork:
    """Measure a classifier on labeled images, as it is and with the units edited, and write `edit.json`.

    Raises:
        UsageError: If there is no such network, unit or data set, the images have no labels that the network
            has classes for, or the folder cannot be written.
    """
    given = NewValue.of(request.to)
    named = [parse_units(text) for text in request.units]
    run = await NetworkRun.open(
        console,
        request.selection,
        request.out,
        "edit",
        model=request.model,
        edited=list(request.units),
        to=request.to,
        label_names=dict(request.label_names),
        per_class=request.per_class,
        seed=request.seed,
    )
    dataset = run.dataset
    labels = await asyncio.to_thread(labels_of, dataset, run.selected.profile.columns)
    async with run.network() as vision:
        units = [unit async for unit in _units(vision, named, request.seed)]
        if not await reaches_output(vision, units):
            console.warn("none of these units changed the outputs on a test image, whatever its value")
        edits = await given.planned(vision, dataset, units, request.seed)
        drawn, names = _draw(console, labels, vision, request)
        run.claim(vision)
        outcomes, read = await _measured(console, vision, dataset, drawn, edits.of)
        result = _result(
            request,
            vision,
            dataset,
            edits,
            _LabeledOutcomes(labels, drawn, names, outcomes, read),
        )
    run.store.replace_json(FILE, result)
    return result


def parse_units(text: str) -> tuple[str, str]:
    """Return the layer and the units of `LAYER:UNITS`.

    Raises:
        UsageError: If it is of another form.
    """
    layer, colon, units = text.partition(":")
    if not (colon and layer and units):
        raise UsageError(f"{text!r} names no units of a layer.", _HOW_TO_NAME_UNITS)
    if ":" not in units:
        unit_selection.check(units)
    return layer, units


async def _units(
    vision: PoolVisionClient, named: Sequence[tuple[str, str]], seed: int
) -> AsyncIterator[Unit]:
    """Yield the units that are named, checked, each once."""
    given: set[Unit] = set()
    for layer, text in named:
        if ":" in text:  # direction:FILE:ROW, latent:PATH:INDEX
            units = [await vision.unit(parse_unit(layer, text))]
        else:
            info = vision.known.info(layer)
            units = [
                Unit(info.name, index) for index in unit_selection.choose(text, info.n_units, seed, layer)
            ]
        for unit in units:
            if unit not in given:
                given.add(unit)
                yield unit


def _draw(
    console: Console, labels: Labels, vision: PoolVisionClient, request: EditedNetworkRequest
) -> tuple[real_images.DrawnImages, dict[int, str]]:
    """Return the images to measure, and the data set's name of each of the network's classes among them."""
    matches = real_images.match(labels, vision.known.class_names, request.label_names)
    names = {match.index: match.name for match in matches if match.index is not None}
    drawn = real_images.draw(labels, matches, names, seed=request.seed, per_class=request.per_class)
    if not len(drawn.indices):
        raise UsageError(
            "no class of the data set is a class of the network.",
            "Name its classes with --label-names LABEL=CLASS,...",
        )
    if unknown := [match for match in matches if match.index is None]:
        images = counted(sum(match.images for match in unknown), "image")
        named = ", ".join(match.name for match in unknown[:_NAMED])
        named += ", ..." if len(unknown) > _NAMED else ""
        console.warn(
            f"{images} are left out, of classes that are none of the network's: {named}. "
            "Name them with --label-names LABEL=CLASS,..."
        )
    return drawn, names


async def _measured(
    console: Console,
    vision: PoolVisionClient,
    dataset: ImageDataset,
    drawn: real_images.DrawnImages,
    edits: EditsOf,
) -> tuple[_Outcomes, np.ndarray]:
    with console.progress("images") as progress:
        clean = await real_images.measure(vision, dataset, drawn, progress)
    with console.progress("edited") as progress:
        edited = await real_images.measure(vision, dataset, drawn, progress, edits)
    return _Outcomes(clean[0], edited[0], clean[1], edited[1]), clean[2] & edited[2]


@dataclass(frozen=True, slots=True)
class _LabeledOutcomes:
    """The images that were drawn: labels, classes by the data set's names, outcomes, and which were read."""

    labels: Labels
    drawn: real_images.DrawnImages
    names: Mapping[int, str]
    outcomes: _Outcomes
    read: np.ndarray

    def classes(self) -> Iterator[GroupEffect]:
        for index, name in sorted(self.names.items()):
            if (rows := self.read & (self.drawn.targets == index)).any():
                yield self.outcomes.effect(name, rows)

    def groups(self) -> Iterator[GroupEffect]:
        for attribute, column in self.labels.attributes.items():
            values = column.take(self.drawn.indices).values
            for index, name in sorted(self.names.items()):
                for place, level in enumerate(column.levels):
                    rows = self.read & (self.drawn.targets == index) & (values == place)
                    if rows.sum() >= FEW:
                        yield self.outcomes.effect(f"{name}, {attribute}={level}", rows)


def _result(
    request: EditedNetworkRequest,
    vision: PoolVisionClient,
    dataset: ImageDataset,
    edits: PlannedEdits,
    table: _LabeledOutcomes,
) -> EditedNetwork:
    if not table.read.any():
        raise UsageError(f"no labeled image of {dataset.name!r} could be read.", "Look at the images.")
    groups = list(table.groups())
    return EditedNetwork(
        request.model,
        vision.fingerprint,
        dataset.name,
        [str(unit) for unit in edits.units],
        request.to,
        {str(unit): value for unit, value in edits.values.items()},
        int(table.read.sum()),
        int((~table.read).sum()),
        table.outcomes.effect("all images", table.read),
        list(table.classes()),
        groups,
        min(groups, key=lambda group: group.accuracy, default=None),
        min(groups, key=lambda group: group.edited_accuracy, default=None),
        request.seed,
    )


def summary(result: EditedNetwork, most: int = 20) -> Table:
    """Return the result for a terminal: all images, the classes that change most, the worst groups."""
    table = Table("images", "n", "accuracy", "edited", "change", "p", box=None, pad_edge=False)
    classes = sorted(result.classes, key=lambda each: -abs(each.change))[:most]
    worst = [group for group in (result.worst, result.worst_edited) if group is not None]
    for each in (result.overall, *classes, *dict.fromkeys(worst)):
        low, high = each.change_interval
        table.add_row(
            each.name,
            f"{each.n:,}",
            f"{each.accuracy:.3f}",
            f"{each.edited_accuracy:.3f}",
            f"{each.change:+.3f} ({low:+.3f} to {high:+.3f})",
            f"{each.p:.2g}",
        )
    return table
