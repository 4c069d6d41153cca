"""What an ablation found, on a page of the report and in a terminal, in the form of the paper's Table A5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.paper.evaluation.page import measured
from experiments.paper.evaluation.summary import EvaluatedRow, MeanDifference, MethodSummary
from experiments.paper.published import TABLE_A5
from experiments.report.schema import Block, Cell, DataTable, Estimate, Page, columns

_UNIT_COLUMNS = (*columns("variant"), *columns("units", digits=0))


@dataclass(frozen=True, slots=True)
class TruthScore:
    """A variant's labels against the truth: the shares of right ones, and the mean concept F1.

    `lead` is the paired lead of the whole system in F1, None for the whole system itself.
    """

    n: int
    right: float
    f1: float
    lead: MeanDifference | None


@dataclass(frozen=True)
class AblationResult:
    """What `ablation.json` holds. `differences` are the whole system's leads by variant and measure."""

    model: str
    prompts: str
    """Who wrote the prompts."""
    seed: int
    variants: list[str]
    rows: list[EvaluatedRow]
    summary: list[MethodSummary]
    differences: dict[str, dict[str, MeanDifference]]
    truth: dict[str, TruthScore] | None
    experiment: str = field(default="ablation", kw_only=True)

    def lead(self, variant: str, measure: str) -> MeanDifference | None:
        """Return the whole system's lead over a variant, None where it was not measured."""
        return self.differences.get(variant, {}).get(measure)


def page(result: AblationResult) -> Page:
    """Return the page of an ablation."""
    blocks: list[Block] = [_table_a5(result)]
    if result.truth:
        blocks.append(_truth_table(result.truth))
    return Page(
        title="Ablations",
        summary=f"{len(result.variants)} variants on {len(result.rows)} units; prompts by {result.prompts}.",
        blocks=tuple(blocks),
    )


def _table_a5(result: AblationResult) -> DataTable:
    def lead(variant: str, measure: str) -> Estimate | None:
        difference = result.lead(variant, measure)
        return None if difference is None else measured(difference)

    rows: list[tuple[Cell, ...]] = [
        (row.method, row.n, row.positive, row.negative, row.auroc,
         lead(row.method, "positive"), lead(row.method, "auroc"), None, None)
        for row in result.summary
    ]  # fmt: skip
    rows += [
        (f"the paper's {model}: {name}", None, None, None, None, None, None, up, down)
        for model, variants in TABLE_A5.items()
        for name, (up, down) in variants.items()
    ]
    return DataTable(
        title="Table A5",
        columns=(
            *_UNIT_COLUMNS,
            *columns("+", "−", "AUROC", source="ours"),
            *columns("lead of the whole system: +", "lead of the whole system: AUROC", source="ours"),
            *columns("+", "−", source="paper"),
        ),
        rows=tuple(rows),
        note="Leads are mean paired differences over units with 95% bootstrap intervals. The paper's "
        "table is of its own networks and units, and does not say which of its columns is the whole system.",
    )


def _truth_table(truth: Mapping[str, TruthScore]) -> DataTable:
    return DataTable(
        title="Against the truth",
        columns=(
            *_UNIT_COLUMNS,
            *columns("right", "concept F1", "lead of the whole system: F1", source="ours"),
        ),
        rows=tuple(
            (name, score.n, score.right, score.f1, score.lead and measured(score.lead))
            for name, score in truth.items()
        ),
    )


def table(result: AblationResult) -> str:
    """Return the comparison in lines for a terminal."""
    lines = [
        "",
        f"{'variant':24} {'units':>5} {'+':>7} {'−':>7} {'AUROC':>6}  lead of the whole system in AUROC",
    ]
    for row in result.summary:
        cells = " ".join(
            f"{value:{width}.2f}" for value, width in ((row.positive, 7), (row.negative, 7), (row.auroc, 6))
        )
        lines.append(f"{row.method[:24]:24} {row.n:5d} {cells}  {result.lead(row.method, 'auroc') or ''}")
    for name, score in (result.truth or {}).items():
        lead = f", lead {score.lead}" if score.lead else ""
        lines.append(f"truth: {name}: {score.right:.2f} right, F1 {score.f1:.2f} of {score.n}{lead}")
    return "\n".join(lines)
