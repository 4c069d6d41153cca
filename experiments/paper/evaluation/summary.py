"""Means of an evaluation's measures by layer and method, and paired differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from agents.evidence.statistics import bootstrap_interval

EvaluatedRow: TypeAlias = Mapping[str, Any]
"""A unit's measures as `evaluation.json` holds them: `methods` by name, or the `error` that it met."""
MEASURES = (
    "positive", "negative", "auroc", "margin", "cosy_auc", "cosy_mad", "pearson", "auprc", "f1", "iou"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MethodSummary:
    """The means of a method's measures over the `n` units of a layer; None where nothing was measured."""

    layer: str
    method: str
    n: int
    positive: float | None
    negative: float | None
    auroc: float | None
    margin: float | None
    cosy_auc: float | None
    cosy_mad: float | None
    pearson: float | None
    auprc: float | None
    f1: float | None
    iou: float | None

    def measures(self, names: Sequence[str] = MEASURES) -> list[float | None]:
        """Return the means of some measures."""
        return [getattr(self, name) for name in names]


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """The mean of `n` paired differences with its 95% bootstrap interval."""

    mean: float
    interval: tuple[float, float]
    n: int

    @classmethod
    def of(cls, differences: np.ndarray, seed: int = 0) -> MeanDifference:
        """Return the mean of differences, float (n,)."""
        low, high = bootstrap_interval(differences, 4000, seed)
        mean = float(differences.mean())
        return cls(mean, (min(low, mean), max(high, mean)), len(differences))

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:+.2f} (of one unit)"
        return "{:+.2f} ({:+.2f} to {:+.2f})".format(self.mean, *self.interval)


def summarize(rows: Sequence[EvaluatedRow]) -> list[MethodSummary]:
    """Return the means by layer and method, layers in order of the rows and then all together.

    Activations of units of different scale are averaged as in the paper; the other measures have no scale.
    """
    measured = [row for row in rows if "methods" in row]
    layers = list(dict.fromkeys(row["layer"] for row in measured))
    groups = [(layer, [row for row in measured if row["layer"] == layer]) for layer in layers]
    if len(layers) > 1:
        groups.append(("average", measured))
    return [
        _summary_of(layer, method, [row["methods"][method] for row in group if method in row["methods"]])
        for layer, group in groups
        for method in dict.fromkeys(name for row in group for name in row["methods"])
    ]


def _summary_of(layer: str, method: str, measured: Sequence[Mapping[str, Any]]) -> MethodSummary:
    means: dict[str, float | None] = {}
    for name in MEASURES:
        values = [measures[name] for measures in measured if measures[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return MethodSummary(layer, method, len(measured), **means)


def difference(
    rows: Sequence[EvaluatedRow], first: str, second: str, measure: str, seed: int = 0
) -> MeanDifference | None:
    """Return the mean paired difference of two methods over units, None without pairs."""
    pairs = [
        (row["methods"][first][measure], row["methods"][second][measure])
        for row in rows
        if "methods" in row and first in row["methods"] and second in row["methods"]
    ]
    values = np.array([a - b for a, b in pairs if a is not None and b is not None])
    return MeanDifference.of(values, seed) if len(values) else None
