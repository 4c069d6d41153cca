"""Whose label is it? Each unit of a layer is shown the images of the other units' labels as well as its own.

The images are those of the confirmations. One pass of an image has left what it did to every unit of the
layer in the stimulus bank, so that comparing all labels with all units costs reading, and no forward passes.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.images import Image
from actors.serving.backend import Priority
from actors.vision.readout.base import Unit, VisionClient
from actors.vision.readout.units import parse_unit
from agents.records.journal import Blobs, slug
from agents.records.record_types import StudyResult, read_record
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
class LabelledUnit:
    """A unit whose label was put to the test: what it did on the label's images, and which these were."""

    id: str
    unit: Unit
    labels: tuple[str, ...]
    activations: tuple[float, ...]
    images: tuple[str, ...]


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


async def compare(vision: VisionClient, store: Store, plan: Sequence[WorkItem]) -> None:
    """Write `crosswise.json`: each tested unit with the share of other labels that drive it less than its
    own.

    Raises:
        MaiaError: If the network cannot be asked, or an image of the run is missing.
    """
    tested = await asyncio.to_thread(_tested, store, plan, await vision.class_names())
    by_layer: dict[str, list[LabelledUnit]] = defaultdict(list)
    for unit in tested:
        by_layer[unit.unit.layer].append(unit)
    comparison: dict[str, Any] = {}
    for units in by_layer.values():
        chosen = sample(units)
        if len(chosen) > 1:
            comparison |= percentiles(units, chosen, await _means(vision, store, units, chosen))
    store.replace(KEY, json.dumps(comparison, indent=1, ensure_ascii=False).encode())


def sample(units: Sequence[LabelledUnit]) -> list[LabelledUnit]:
    """Return the units whose labels the others are compared with: all, or always the same ones of many."""
    return list(units) if len(units) <= LABELS else random.Random(0).sample(list(units), LABELS)


def percentiles(
    units: Sequence[LabelledUnit], chosen: Sequence[LabelledUnit], means: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return for each unit how its own label compares with those of others, where there are any.

    `means`, float (units, chosen), is the mean activation of each unit over the images of each chosen unit's
    label; where that is not finite, the label is not compared with. `percentile` is the share of the other
    labels whose mean is below that of the unit's own, ties counted half; labels in the same words are not
    others. `nearest` are the other labels that drive the unit most, with the `share` of the own label's mean
    that they reach above the lowest label.
    """
    comparison = {}
    for row, unit in enumerate(units):
        own = float(np.mean(unit.activations))
        columns = [
            i
            for i, other in enumerate(chosen)
            if not _words(unit) & _words(other) and np.isfinite(means[row, i])
        ]
        if not columns:
            continue
        values = means[row, columns]
        low = float(values.min())
        order = np.argsort(-values, kind="stable")[:_NEAREST]
        comparison[unit.id] = {
            "percentile": float(((values < own) + 0.5 * (values == own)).mean()),
            "n": len(columns),
            "nearest": [
                {
                    "unit": chosen[columns[place]].id,
                    "label": " OR ".join(chosen[columns[place]].labels),
                    "mean": float(values[place]),
                    "share": (float(values[place]) - low) / (own - low) if own > low else None,
                }
                for place in order
            ],
        }
    return comparison


def _tested(store: Store, plan: Sequence[WorkItem], class_names: Sequence[str]) -> list[LabelledUnit]:
    tested = []
    for item in plan:
        try:
            record = read_record(store, f"units/{slug(item.unit)}/done.json", StudyResult) or {}
        except RecordError:  # the run names it as failed
            continue
        positives = (record.get("evidence") or {}).get("positives") or ()
        labels = tuple(record.get("labels") or ())
        if positives and labels:
            tested.append(
                LabelledUnit(
                    item.unit,
                    parse_unit(item.layer, item.name, class_names),
                    labels,
                    tuple(trial["activation"] for trial in positives),
                    tuple(dict.fromkeys(trial["image"] for trial in positives))[:IMAGES],
                )
            )
    return tested


async def _means(
    vision: VisionClient, store: Store, units: Sequence[LabelledUnit], chosen: Sequence[LabelledUnit]
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


def _words(each: LabelledUnit) -> set[str]:
    return {" ".join(label.lower().split()) for label in each.labels}
