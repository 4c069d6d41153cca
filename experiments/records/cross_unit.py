"""Whose label is it? Each unit of a layer is shown the images of the other units' labels as well as its own.

The images are those of the confirmations. One pass of an image has left what it did to every unit of the
layer in the stimulus bank, so that comparing all labels with all units costs reading, and no forward passes.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import Unit
from actors.vision.readout.units import parse_unit
from agents.records.journal import Blobs, read_result
from agents.records.run_files import RecordError, parse_json
from agents.records.store import Store
from agents.records.work import WorkItem

KEY = "crosswise.json"
IMAGES = 8
"""Images of each label that other units are shown."""
LABELS = 250
"""Labels of a layer at most that units are compared with: as many are chosen at random where there are more.
"""
_AT_ONCE = 64
_NEAREST = 3


@dataclass(frozen=True)
class ComparedUnit:
    """A unit whose label was put to the test: what it did on the label's images, and which these were."""

    id: str
    unit: Unit
    labels: tuple[str, ...]
    activations: tuple[float, ...]
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NearLabel:
    """Another unit's label that activates a unit strongly."""

    unit: str
    label: str
    mean: float
    """The unit's mean activation over the label's images."""
    share: float | None
    """How far that gets from the lowest label's mean to the own label's; None where these are the same."""


@dataclass(frozen=True, slots=True)
class LabelRank:
    """How a unit's own label compares with those of others."""

    percentile: float
    """Share of the other labels whose mean is below that of the unit's own, ties counted half."""
    n: int
    """Labels that it was compared with."""
    nearest: list[NearLabel]
    """The other labels that activate the unit most."""


def read(store: Store) -> dict[str, Any] | None:
    """Return what was compared, None if the labels of the run as it is now have not been."""
    data = store.get(KEY)
    comparison: Any = None if data is None else parse_json(data, store.root / KEY)
    if comparison is not None and not isinstance(comparison, dict):
        raise RecordError(
            f"{store.root / KEY} is damaged: it holds no object.", "Remove it: it is made again."
        )
    return comparison


def forget(store: Store) -> None:
    """Have all labels compared again. Not removed: the copy of a run at a URL keeps every file that it once
    had.
    """
    if store.has(KEY):
        store.replace(KEY, b"null", synced=True)


async def compare(vision: PoolVisionClient, store: Store, plan: Sequence[WorkItem]) -> None:
    """Write `crosswise.json`: each tested unit with the share of other labels that drive it less than its
    own.

    Raises:
        MaiaError: If the network cannot be asked, or an image of the run is missing.
    """
    tested = await asyncio.to_thread(_tested, store, plan, await vision.class_names())
    by_layer: dict[str, list[ComparedUnit]] = defaultdict(list)
    for unit in tested:
        by_layer[unit.unit.layer].append(unit)
    ranks: dict[str, LabelRank] = {}
    for units in by_layer.values():
        chosen = sample(units)
        if len(chosen) > 1:
            ranks |= percentiles(units, chosen, await _means(vision, store, units, chosen))
    values = {unit: asdict(rank) for unit, rank in ranks.items()}
    store.replace_json(KEY, values)


def sample(units: Sequence[ComparedUnit]) -> list[ComparedUnit]:
    """Return the units whose labels the others are compared with: all, or always the same ones of many."""
    return list(units) if len(units) <= LABELS else random.Random(0).sample(list(units), LABELS)


def percentiles(
    units: Sequence[ComparedUnit], chosen: Sequence[ComparedUnit], means: np.ndarray
) -> dict[str, LabelRank]:
    """Return for each unit how its own label compares with those of others, where there are any.

    `means`, float (units, chosen), is the mean activation of each unit over the images of each chosen unit's
    label; where that is not finite, the label is not compared with. Labels in the same words are not others.
    """
    ranks = {}
    for row, unit in enumerate(units):
        columns = [
            column
            for column, other in enumerate(chosen)
            if not _words(unit) & _words(other) and np.isfinite(means[row, column])
        ]
        if columns:
            others = [chosen[column] for column in columns]
            ranks[unit.id] = _rank(float(np.mean(unit.activations)), others, means[row, columns])
    return ranks


def _rank(own: float, others: Sequence[ComparedUnit], values: np.ndarray) -> LabelRank:
    """Return how the mean of a unit's `own` label compares with the `values` of other labels."""
    low = float(values.min())
    order = np.argsort(-values, kind="stable")[:_NEAREST]
    nearest = [
        NearLabel(
            unit=others[index].id,
            label=" OR ".join(others[index].labels),
            mean=float(values[index]),
            share=(float(values[index]) - low) / (own - low) if own > low else None,
        )
        for index in order
    ]
    return LabelRank(float(((values < own) + 0.5 * (values == own)).mean()), len(others), nearest)


def _tested(store: Store, plan: Sequence[WorkItem], class_names: Sequence[str]) -> list[ComparedUnit]:
    tested = []
    for item in plan:
        try:
            record = read_result(store, item.unit)
        except RecordError:  # the run names it as failed
            continue
        if record is None or record.evidence is None or not (record.evidence.positives and record.labels):
            continue
        positives = record.evidence.positives
        tested.append(
            ComparedUnit(
                item.unit,
                parse_unit(item.layer, item.name, class_names),
                tuple(record.labels),
                tuple(trial.activation for trial in positives),
                tuple(dict.fromkeys(trial.image for trial in positives))[:IMAGES],
            )
        )
    return tested


async def _means(
    vision: PoolVisionClient, store: Store, units: Sequence[ComparedUnit], chosen: Sequence[ComparedUnit]
) -> np.ndarray:
    """Return float64 (units, chosen): each unit's mean activation over the images of each chosen unit's
    label.
    """
    ids = list(dict.fromkeys(image for unit in chosen for image in unit.images))
    blobs = Blobs(store)
    table = np.empty((len(units), len(ids)), np.float64)
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        images = await asyncio.to_thread(_load, blobs, part)
        table[:, start : start + len(part)] = await vision.activations(
            [unit.unit for unit in units], images, agent=KEY, priority=Priority.CONFIRMATION
        )
    place = {image: column for column, image in enumerate(ids)}
    return np.stack(
        [table[:, [place[image] for image in unit.images]].mean(axis=1) for unit in chosen], axis=1
    )


def _load(blobs: Blobs, ids: Sequence[str]) -> list[Image]:
    return [blobs.get(image) for image in ids]


def _words(unit: ComparedUnit) -> set[str]:
    return {" ".join(label.lower().split()) for label in unit.labels}
