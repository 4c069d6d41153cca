"""`maia diff`: what changed between two runs over the same units: labels, verdicts, scores.

Units are matched by their ids; where the networks differ (another checkpoint, another model of the same
layers) by layer and number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.evidence.verdict import verdict_of
from experiments.records.exports.run import Run
from experiments.records.names import UnitName


@dataclass(frozen=True, slots=True)
class LabeledResult:
    """What one run says of a unit, as far as it is compared."""

    labels: list[str]
    verdict: str
    auroc: float | None
    auroc_interval: list[float] | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> LabeledResult:
        """Return what a row of `results.jsonl` says."""
        evidence = row.get("evidence") or {}
        return cls(
            list(row.get("labels") or ()),
            verdict_of(row),
            evidence.get("auroc"),
            evidence.get("auroc_interval"),
        )


@dataclass(frozen=True, slots=True)
class UnitDifference:
    """A unit in two runs."""

    unit: str
    changed: list[str]
    """Of "label", "verdict" and "auroc", what is not the same."""
    before: LabeledResult
    after: LabeledResult


@dataclass(frozen=True, slots=True)
class RunDifference:
    """The differences between two runs over the units that both have."""

    runs: list[str]
    units: int
    same: int
    relabeled: int
    verdict_changed: int
    score_changed: int
    only_in_first: list[str]
    only_in_second: list[str]
    changed: list[UnitDifference]
    """The most changed units first."""


def diff(first: Path, second: Path) -> RunDifference:
    """Return the differences between two runs.

    A score counts as changed when the two intervals do not overlap; smaller differences are chance.

    Raises:
        UsageError: If one of them is no run, or has no result, or if they have no unit in common.
    """
    runs = [_units(Run.open(path)) for path in (first, second)]
    if not runs[0].keys() & runs[1].keys():
        runs = [{UnitName.parse(unit).short: row for unit, row in run.items()} for run in runs]
    both = sorted(runs[0].keys() & runs[1].keys())
    if not both:
        raise UsageError(
            f"{first} ({_extent(runs[0])}) and {second} ({_extent(runs[1])}) have no unit in common.",
            "Name the units (--units 3,17), or keep the --seed: sample:N draws others with another.",
        )
    units = [_compare(unit, runs[0][unit], runs[1][unit]) for unit in both]
    changed = sorted(
        (unit for unit in units if unit.changed), key=lambda unit: (-len(unit.changed), unit.unit)
    )
    return RunDifference(
        runs=[str(first), str(second)],
        units=len(units),
        same=len(units) - len(changed),
        relabeled=sum("label" in unit.changed for unit in changed),
        verdict_changed=sum("verdict" in unit.changed for unit in changed),
        score_changed=sum("auroc" in unit.changed for unit in changed),
        only_in_first=sorted(runs[0].keys() - runs[1].keys()),
        only_in_second=sorted(runs[1].keys() - runs[0].keys()),
        changed=changed,
    )


def _extent(units: Iterable[str]) -> str:
    """Return how many units there are of each layer, in words."""
    from experiments.setup.console import counted

    layers = Counter(UnitName.parse(unit).layer for unit in units)
    return ", ".join(f"{counted(number, 'unit')} of {layer}" for layer, number in layers.items())


def _units(run: Run) -> dict[str, dict[str, Any]]:
    return {row["unit"]: row for row in run.rows()}


def _compare(unit: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> UnitDifference:
    before, after = LabeledResult.of(first), LabeledResult.of(second)
    changed = []
    if _words(before.labels) != _words(after.labels):
        changed.append("label")
    if before.verdict != after.verdict:
        changed.append("verdict")
    old, new = before.auroc_interval, after.auroc_interval
    if old and new and (old[1] < new[0] or new[1] < old[0]):
        changed.append("auroc")
    return UnitDifference(unit, changed, before, after)


def _words(labels: Iterable[str]) -> set[str]:
    return {" ".join(label.lower().split()) for label in labels}


def summary(difference: RunDifference) -> str:
    """Return in words how many units both runs have and how many of them changed, and how many one of them
    has alone.
    """
    from experiments.setup.console import counted

    counts = (
        f"{counted(difference.units, 'unit')} in both runs: {difference.same} the same, "
        f"{difference.relabeled} relabeled, {difference.verdict_changed} with another verdict, "
        f"{difference.score_changed} with another score"
    )
    alone = (difference.only_in_first, difference.only_in_second)
    only = [
        f"{counted(len(units), 'unit')} only in {name}"
        for name, units in zip(difference.runs, alone, strict=True)
        if units
    ]
    return f"{counts}\n{', '.join(only) or 'no unit is in one of them only'}"


def table(difference: RunDifference) -> Any:
    """Return the differences as a table for a terminal."""
    from rich.table import Table

    def label(side: LabeledResult) -> str:
        return " OR ".join(side.labels) or "–"

    def score(side: LabeledResult) -> str:
        return "–" if side.auroc is None else f"{side.auroc:.2f}"

    title = summary(difference)
    if not difference.changed:
        from experiments.setup.console import plain

        return plain(title)
    shown = Table(title=title, title_justify="left", title_style="", box=None)
    for column in ("unit", "label before", "after", "verdict before", "after", "AUROC before", "after"):
        shown.add_column(column, no_wrap=column == "unit")
    for unit in difference.changed:
        before, after = unit.before, unit.after
        shown.add_row(
            UnitName.parse(unit.unit).short,
            *(label(before), label(after)),
            *(before.verdict, after.verdict),
            *(score(before), score(after)),
        )
    return shown
