"""`maia diff`: what changed between two runs over the same units: labels, verdicts, scores.

Units are matched by their ids; where the networks differ (another checkpoint, another model of the same
layers) by layer and number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.evidence.verdict import verdict_of
from experiments.records.export import Run
from experiments.records.names import UnitName


def diff(first: Path, second: Path) -> dict[str, Any]:
    """Return the differences between two runs, the most changed units first.

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
    changed = [each for each in units if each["changed"]]
    changed.sort(key=lambda each: (-len(each["changed"]), each["unit"]))
    return {
        "runs": [str(first), str(second)],
        "units": len(units),
        "same": len(units) - len(changed),
        "relabelled": sum("label" in each["changed"] for each in changed),
        "verdict_changed": sum("verdict" in each["changed"] for each in changed),
        "score_changed": sum("auroc" in each["changed"] for each in changed),
        "only_in_first": sorted(runs[0].keys() - runs[1].keys()),
        "only_in_second": sorted(runs[1].keys() - runs[0].keys()),
        "changed": changed,
    }


def _extent(units: Iterable[str]) -> str:
    """Return how many units there are of each layer, in words."""
    from experiments.setup.console import counted

    layers = Counter(UnitName.parse(unit).layer for unit in units)
    return ", ".join(f"{counted(number, 'unit')} of {layer}" for layer, number in layers.items())


def _units(run: Run) -> dict[str, dict[str, Any]]:
    return {row["unit"]: row for row in run.rows()}


def _compare(unit: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    pair = [_facts(before), _facts(after)]
    labels = [{" ".join(label.lower().split()) for label in each["labels"]} for each in pair]
    changed = []
    if labels[0] != labels[1]:
        changed.append("label")
    if pair[0]["verdict"] != pair[1]["verdict"]:
        changed.append("verdict")
    intervals = [each["auroc_interval"] for each in pair]
    if all(intervals) and (intervals[0][1] < intervals[1][0] or intervals[1][1] < intervals[0][0]):
        changed.append("auroc")
    return {"unit": unit, "changed": changed, "before": pair[0], "after": pair[1]}


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    evidence = row.get("evidence") or {}
    return {
        "labels": list(row.get("labels") or ()),
        "verdict": verdict_of(row),
        "auroc": evidence.get("auroc"),
        "auroc_interval": evidence.get("auroc_interval"),
    }


def summary(found: dict[str, Any]) -> str:
    """Return in words how many units both runs have and how many of them changed, and how many one of them
    has alone.
    """
    from experiments.setup.console import counted

    told = f"{counted(found['units'], 'unit')} in both runs: " + ", ".join(
        (
            f"{found['same']} the same",
            f"{found['relabelled']} relabelled",
            f"{found['verdict_changed']} with another verdict",
            f"{found['score_changed']} with another score",
        )
    )
    alone = (found["only_in_first"], found["only_in_second"])
    only = [
        f"{counted(len(units), 'unit')} only in {name}"
        for name, units in zip(found["runs"], alone, strict=True)
        if units
    ]
    return "\n".join((told, ", ".join(only) or "no unit is in one of them only"))


def table(found: dict[str, Any]) -> Any:
    """Return the differences as a table for a terminal."""
    from rich.table import Table

    from experiments.setup.console import plain

    def label(side: dict[str, Any]) -> str:
        return plain(" OR ".join(side["labels"]) or "–")

    def score(side: dict[str, Any]) -> str:
        return "–" if side["auroc"] is None else f"{side['auroc']:.2f}"

    title = plain(summary(found))
    if not found["changed"]:
        return title
    shown = Table(title=title, title_justify="left", title_style="", box=None)
    for column in ("unit", "label before", "after", "verdict before", "after", "AUROC before", "after"):
        shown.add_column(column, no_wrap=column == "unit")
    for each in found["changed"]:
        before, after = each["before"], each["after"]
        shown.add_row(
            *(
                plain(UnitName.parse(each["unit"]).short),
                label(before),
                label(after),
                before["verdict"],
                after["verdict"],
            ),
            *(score(before), score(after)),
        )
    return shown
