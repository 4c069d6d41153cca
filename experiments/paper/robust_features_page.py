"""How `maia robust-features` is told: Table 2 and the judgement's own figures, on a page of the report and in
a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper.gym import logistic
from experiments.report.schema import Bar, Bars, DataTable, Estimate, Page, TableColumn, Text


def page(result: Mapping[str, Any]) -> Page:
    """Return the experiment's page: Table 2 beside the paper's figures, and each training by itself."""
    summary = result["summary"]
    columns = (
        TableColumn(name="subset"), TableColumn(name="method"), TableColumn(name="units", digits=0),
        TableColumn(name="paper: units", digits=0, source="paper"), TableColumn(name="balanced data"),
        TableColumn(name="test accuracy", digits=3, source="ours"),
        TableColumn(name="validation accuracy", digits=3, source="ours"),
        TableColumn(name="paper: test accuracy", digits=3, source="paper"),
    )  # fmt: skip
    rows = tuple(
        (
            row["subset"], row["method"], row["units"], row["paper_units"], "yes" if row["balanced"] else "no",
            _measured(row), row["validation"], row["paper_accuracy"],
        )
        for row in summary["rows"]
    )  # fmt: skip
    bars = [
        Bar(name=row["method"], series=f"training {training['seed']}", value=row["accuracy"])
        for training in result["trainings"]
        for row in training["rows"]
        if row["accuracy"] is not None
    ]
    told = (
        f"Over {summary['n']} trainings the agent's units beat L1 of the same size in {summary['beats_l1']}, and the 95th "
        f"percentile of random sets in {summary['beats_random_95']}; with one ridge for all choices, in "
        f"{summary['ridge_beats_l1']} and {summary['ridge_beats_random_95']}."
    )
    return Page(
        title="Robust features",
        summary=told,
        blocks=(
            DataTable(
                title="Table 2", columns=columns, rows=rows,
                note="Mean over trainings, with the standard deviation over them as the interval. The paper's figures are "
                "of one training on Spawrious and are not comparable one by one. Rows without a figure of the paper are ours. "
                "Validation accuracy is on the unbalanced set that all rows but the first and the balanced ones are fitted to, "
                f"with its wrong labels. Rows with ridge have one read-out for every choice, of inverse strength {logistic.RIDGE}.",
            ),
            _judgement_table(result["trainings"]),
            Bars(title="Each training", axis="accuracy on the test set", bars=tuple(bars)),
            Text(
                title="How it was made",
                paragraphs=(
                    f"Set: {result['set']}; classes {', '.join(result['classes'])}; places {', '.join(result['places'])}.",
                ),
            ),
        ),
    )  # fmt: skip


def _judgement_table(trainings: Sequence[Mapping[str, Any]]) -> DataTable:
    """Return what the agent's judgement is worth by itself: no read-out decides these figures."""
    rows = []
    for training in trainings:
        judged = training.get("judgement") or {}
        for group in ("kept", "dropped") if judged else ():
            found = judged[group]
            told = judged["auroc"] if group == "kept" else None
            rows.append((training["seed"], group, found["n"], found["by_class"], found["by_place"], told))
    columns = (
        TableColumn(name="training", digits=0), TableColumn(name="units"), TableColumn(name="number", digits=0),
        TableColumn(name="variance between classes", digits=2, source="ours"),
        TableColumn(name="between places", digits=2, source="ours"), TableColumn(name="AUROC", digits=2, source="ours"),
    )  # fmt: skip
    return DataTable(
        title="The judgement itself", columns=columns, rows=tuple(rows),
        note="Parts of a unit's variance over images of every class in every place, equally many of each, that neither the agent "
        "nor any fit has seen; means over the units. AUROC: the probability that the part between classes less the part "
        "between places is larger in a kept unit than in a dropped one.",
    )  # fmt: skip


def _measured(row: Mapping[str, Any]) -> Estimate | None:
    if row["accuracy"] is None:
        return None
    if row["spread"] is None:
        return Estimate(value=row["accuracy"])
    return Estimate(
        value=row["accuracy"], low=row["accuracy"] - row["spread"], high=row["accuracy"] + row["spread"]
    )


def table(result: Mapping[str, Any]) -> str:
    """Return Table 2 in lines for a terminal."""
    if result["summary"] is None:
        return "interrupted before the first training was judged; repeat the command to go on"
    lines = [
        "",
        f"{'subset':10} {'method':22} {'units':>6} {'balanced':>8} {'test accuracy':>16} {'validation':>10} {'paper':>6}",
    ]
    for row in result["summary"]["rows"]:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.3f}"
        value = "not possible" if row["accuracy"] is None else f"{row['accuracy']:.3f}{spread}"
        paper = "" if row["paper_accuracy"] is None else f"{row['paper_accuracy']:.3f}"
        lines.append(
            f"{row['subset']:10} {row['method']:22} {row['units']:6.0f} {'yes' if row['balanced'] else 'no':>8} "
            f"{value:>16} {_figure(row['validation'], 3):>10} {paper:>6}"
        )
    summary = result["summary"]
    lines.append(
        f"agent ahead of L1 in {summary['beats_l1']} of {summary['n']} trainings, of the 95th percentile of random sets in "
        f"{summary['beats_random_95']}; with one ridge for all choices {summary['ridge_beats_l1']} and "
        f"{summary['ridge_beats_random_95']}"
    )
    judged = summary["judgement"]
    told = [
        f"{_figure(judged[group]['by_class'])} and {_figure(judged[group]['by_place'])} of the {group} units'"
        for group in ("kept", "dropped")
    ]
    lines.append(
        f"classes and places explain {', '.join(told)} variance on balanced images; AUROC of the judgement "
        f"{_figure(judged['auroc'])}"
    )
    return "\n".join(lines)


def _figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
