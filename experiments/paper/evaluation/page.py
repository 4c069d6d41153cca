"""An evaluation on a page of the report and in a terminal: Table A3's form, with the paper's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.paper.evaluation.run_labels import OURS
from experiments.paper.evaluation.summary import (
    MEASURES,
    EvaluatedRow,
    MeanDifference,
    MethodSummary,
    difference,
)
from experiments.paper.published import TABLE_A3
from experiments.report.schema import Bar, Bars, Cell, DataTable, Estimate, Page, columns

_COMPARED = ("auroc", "margin", "cosy_auc", "pearson")
_UNIT_COLUMNS = (*columns("layer", "method"), *columns("units", digits=0))


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluation.json` holds."""

    model: str | None
    prompts: str
    """Who wrote the prompts."""
    seed: int
    left_out: list[str]
    rows: list[EvaluatedRow]
    summary: list[MethodSummary]
    experiment: str = field(default="evaluation", kw_only=True)


def page(result: EvaluationResult) -> Page:
    """Return the page of an evaluation, with the paper's rows where it studied this network."""
    sentences = [
        f"Prompts by {result.prompts}; every label of a unit is paired with the pooled prompts of all "
        "methods",
        *(line[0].upper() + line[1:] for line in result.left_out),
    ]
    return Page(
        title="Predictive evaluation",
        summary=". ".join(sentences) + ".",
        blocks=(
            _table_a3(result),
            _activation_bars(result.summary),
            _other_measures(result.summary),
            _differences(result),
        ),
    )


def _table_a3(result: EvaluationResult) -> DataTable:
    paper = TABLE_A3.get(str(result.model), {})
    rows: list[tuple[Cell, ...]] = [
        (row.layer, row.method, row.n, row.positive, row.negative, None, None) for row in result.summary
    ]
    rows += [
        (layer, f"{method} (the paper's)", None, None, None, up, down)
        for layer, methods in paper.items()
        for method, (up, down) in methods.items()
    ]
    return DataTable(
        title="Table A3",
        columns=(*_UNIT_COLUMNS, *columns("+", "−", source="ours"), *columns("+", "−", source="paper")),
        rows=tuple(rows),
        note="The paper's rows are of its own units, images and prompts."
        if paper
        else "The paper did not study this network: its figures for others are in "
        "experiments/paper/published.py.",
    )


def _activation_bars(summary: Sequence[MethodSummary]) -> Bars:
    bars = tuple(
        Bar(name=row.layer, series=f"{row.method}, {sign}", value=value)
        for row in summary
        for sign, value in (("+", row.positive), ("−", row.negative))
        if value is not None
    )
    return Bars(title="Mean activation by layer", axis="activation", bars=bars)


def _other_measures(summary: Sequence[MethodSummary]) -> DataTable:
    names = MEASURES[2:]
    return DataTable(
        title="Other measures",
        columns=(*_UNIT_COLUMNS, *columns(*names, source="ours")),
        rows=tuple((row.layer, row.method, row.n, *row.measures(names)) for row in summary),
        note="cosy_auc and cosy_mad pass neither of the two known sanity checks, pearson, auprc, f1 and iou "
        "both.",
    )


def _differences(result: EvaluationResult) -> DataTable:
    methods = dict.fromkeys(row.method for row in result.summary if row.method != OURS)
    return DataTable(
        title="Ahead of the others, unit by unit",
        columns=(
            *columns("other method", "measure"),
            *columns("difference", source="ours"),
            *columns("units", digits=0),
        ),
        rows=tuple(
            (method, measure, measured(lead), lead.n)
            for method in methods
            for measure in _COMPARED
            if (lead := difference(result.rows, OURS, method, measure)) is not None
        ),
        note="Mean paired difference with a 95% bootstrap interval over units.",
    )


def measured(lead: MeanDifference) -> Estimate:
    """Return a mean with its interval; resampling a single unit gives none."""
    low, high = lead.interval if lead.n > 1 else (None, None)
    return Estimate(value=lead.mean, low=low, high=high)


def table(result: EvaluationResult) -> str:
    """Return the summary in lines for a terminal."""
    lines = ["", f"prompts: {result.prompts}"]
    lines.append(f"{'layer':20} {'method':22} {'units':>5} " + " ".join(f"{name:>9}" for name in MEASURES))
    for row in result.summary:
        cells = " ".join(f"{'–':>9}" if value is None else f"{value:9.2f}" for value in row.measures())
        lines.append(f"{row.layer[:20]:20} {row.method[:22]:22} {row.n:5d} {cells}")
    failed = [row for row in result.rows if "error" in row]
    if failed:
        lines.append(f"{len(failed)} units could not be evaluated: {failed[0]['error']['message']}")
    return "\n".join(lines)
