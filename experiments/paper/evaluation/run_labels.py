"""The labels of a run's units, and those that other methods give the same units."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actors.errors import UsageError
from agents.critic.stimuli import share_words
from agents.records.record_types import Manifest, StudyResult
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan
from agents.tasks.describe_unit import NOT_INTERPRETABLE
from experiments.records.lookup import finished_studies, read_manifest

OURS = "maia"
NULL = "another unit's label"
_LAYERS_OF_SYNTHETIC = "synthetic"
_FORM = 'Write {"layer:unit": "label"}.'


@dataclass(frozen=True)
class LabeledUnit:
    """One unit with each method's label. `name` is how the subject is asked for."""

    unit: str
    layer: str
    name: str
    labels: dict[str, str]


def manifest_of(run: Path) -> Manifest:
    """Return the manifest of a run whose units have labels.

    Raises:
        UsageError: If it is another kind of run.
    """
    manifest = read_manifest(run)
    if not manifest.model:
        command = manifest.command or "another version"
        raise UsageError(f"{run} is a run of {command!r}, which has no units with labels.")
    return manifest


def gather(run: Path, against: Mapping[str, Path]) -> list[LabeledUnit]:
    """Return the units of a run that have a label by it and by every other method.

    Raises:
        UsageError: If a method has no label for any of them.
    """
    records = records_of(run)
    others = {method: _read_labels(path) for method, path in against.items()}
    labeled = []
    for item, record in records:
        labels = {OURS: label_of(record)}
        for method, known in others.items():
            labels[method] = known.get(item.unit) or known.get(f"{item.layer}:{item.name}", "")
        if all(labels.values()):
            labeled.append(LabeledUnit(item.unit, item.layer, item.name, labels))
    if records and not labeled and others:
        method, known = next(iter(others.items()))
        raise UsageError(f"{method} ({len(known)} labels) and {run} have no labeled unit in common.")
    return labeled


def left_out(run: Path, labeled: Sequence[LabeledUnit]) -> list[str]:
    """Return in sentences how many studied units are not among the `labeled` ones, and why."""
    damaged: list[str] = []
    records = records_of(run, damaged)
    total = len(records)
    unlabeled = sum(not label_of(record) for _, record in records)
    incomplete = total - unlabeled - len(labeled)
    lines = [f"left out: {problem}" for problem in damaged]
    if unlabeled:
        lines.append(f"left out, for their studies ended without a label: {unlabeled} of {total} units")
    if incomplete:
        lines.append(f"left out, for not every other method has a label: {incomplete} of {total} units")
    return lines


def records_of(run: Path, problems: list[str] | None = None) -> list[tuple[WorkItem, StudyResult]]:
    """Return the items of a run with their results; what is wrong with a damaged one goes to `problems`."""
    store, manifest = Store(run), manifest_of(run)
    finished = finished_studies(store, [] if problems is None else problems)
    records = {record.unit: record for record in finished}
    plan = read_plan(store) or [
        WorkItem(unit, manifest.layer or _LAYERS_OF_SYNTHETIC, manifest.unit) for unit in records
    ]
    return [(item, records[item.unit]) for item in plan if item.unit in records]


def label_of(record: StudyResult) -> str:
    """Return a unit's label, "" where its study ended without one or asked for something else."""
    if record.task != "describe":
        return ""
    if all(NOT_INTERPRETABLE in label.lower() or label.lower() == "dead" for label in record.labels):
        return ""
    return " OR ".join(record.labels)


def _read_labels(path: Path) -> dict[str, str]:
    """Return labels by unit of another run, or of a JSON file."""
    if path.is_dir():
        return {item.unit: label for item, record in records_of(path) if (label := label_of(record))}
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path} cannot be read as labels: {reason}.", _FORM) from error
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise UsageError(f"{path} must hold one object of labels by unit.", _FORM)
    return labels


def with_null(units: Sequence[LabeledUnit], seed: int) -> list[LabeledUnit]:
    """Return the units with a control: the label of another unit of the layer that names something else.

    A unit for which there is none goes without.
    """
    rng = np.random.default_rng((seed, 83))
    first = [next(iter(unit.labels.values())) for unit in units]
    result = []
    for unit, own in zip(units, first, strict=True):
        others = [
            label
            for other, label in zip(units, first, strict=True)
            if other.layer == unit.layer and not share_words(label, own)
        ]
        null = {NULL: str(rng.choice(others))} if others else {}
        result.append(replace(unit, labels={**unit.labels, **null}))
    return result
