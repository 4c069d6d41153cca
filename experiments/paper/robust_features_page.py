"""Table 2 and the judgement's own figures, on a page of the report and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.paper.gym import logistic
from experiments.paper.robust_rows import RobustSummary, SummaryRow, Training
from experiments.report.schema import Bar, Bars, Cell, DataTable, Estimate, Page, Text, columns


@dataclass(frozen=True)
class RobustResult:
    """What `robust_features.json` holds. `summary` is None before the first training is done."""

    set: str
    classes: list[str]
    places: list[str]
    finished: bool
    trainings: list[Training]
    summary: RobustSummary | None
    experiment: str = field(default="robust-features", kw_only=True)


def page(result: RobustResult, summary: RobustSummary) -> Page:
    """Return the experiment's page: Table 2 with the paper's figures, and each training by itself."""
    text = (
        f"Over {summary.n} trainings the agent's units beat L1 of the same size in {summary.beats_l1}, and "
        f"the 95th percentile of random sets in {summary.beats_random_95}; with one ridge for all choices, "
        f"in {summary.ridge_beats_l1} and {summary.ridge_beats_random_95}. Without training, with what it "
        f"calls SPURIOUS at zero in the network, in {summary.edited_beats_l1} and "
        f"{summary.edited_beats_random_95}; with all units at zero that it does not keep, in "
        f"{summary.alone_beats_l1} and {summary.alone_beats_random_95}."
    )
    origin = (f"Set: {result.set}; classes {', '.join(result.classes)}; places {', '.join(result.places)}.",)
    bars = tuple(
        Bar(name=row.method, series=f"training {training.seed}", value=row.accuracy)
        for training in result.trainings
        for row in training.rows
        if row.accuracy is not None
    )
    return Page(
        title="Robust features",
        summary=text,
        blocks=(
            _table_2(summary),
            _judgement_table(result.trainings),
            Bars(title="Each training", axis="accuracy on the test set", bars=bars),
            Text(title="How it was made", paragraphs=origin),
        ),
    )


def _table_2(summary: RobustSummary) -> DataTable:
    return DataTable(
        title="Table 2",
        columns=(
            *columns("subset", "method"),
            *columns("units", digits=0),
            *columns("paper: units", digits=0, source="paper"),
            *columns("balanced data"),
            *columns("test accuracy", "validation accuracy", digits=3, source="ours"),
            *columns("paper: test accuracy", digits=3, source="paper"),
        ),
        rows=tuple(
            (
                row.subset,
                row.method,
                row.units,
                row.paper_units,
                "yes" if row.balanced else "no",
                _measured(row),
                row.validation,
                row.paper_accuracy,
            )
            for row in summary.rows
        ),
        note="Mean over trainings, with the standard deviation over them as the interval. The paper's "
        "figures are of one training on Spawrious and are not comparable one by one. Rows without a figure "
        "of the paper are ours. Validation accuracy is on the unbalanced set that all rows but the first "
        "and the balanced ones are fitted to, with its wrong labels. Rows with ridge have one read-out for "
        f"every choice, of inverse strength {logistic.RIDGE}. In edited rows the network keeps its own last "
        "layer: the units that the agent calls SPURIOUS are set to zero in it, against as many that L1 drops "
        "first or that are drawn from the subset at random. In rows that say alone, so are all units outside "
        "the subset, which no agent judged.",
    )


def _measured(row: SummaryRow) -> Estimate | None:
    if row.accuracy is None:
        return None
    if row.spread is None:
        return Estimate(value=row.accuracy)
    return Estimate.of(row.accuracy, (row.accuracy - row.spread, row.accuracy + row.spread))


def _judgement_table(trainings: Sequence[Training]) -> DataTable:
    """Return what the agent's judgement is worth by itself: no read-out decides these figures."""
    rows: list[tuple[Cell, ...]] = []
    for training in trainings:
        if (judged := training.judgement) is None:
            continue
        for name, group, area in (("kept", judged.kept, judged.auroc), ("dropped", judged.dropped, None)):
            rows.append((training.seed, name, group.n, group.by_class, group.by_place, area))
    return DataTable(
        title="The judgement itself",
        columns=(
            *columns("training", digits=0),
            *columns("units"),
            *columns("number", digits=0),
            *columns("variance between classes", "between places", "AUROC", digits=2, source="ours"),
        ),
        rows=tuple(rows),
        note="Parts of a unit's variance over images of every class in every place, equally many of each, "
        "that neither the agent nor any fit has seen; means over the units. AUROC: the probability that "
        "the part between classes less the part between places is larger in a kept unit than in a dropped "
        "one.",
    )


def table(result: RobustResult) -> str:
    """Return Table 2 in lines for a terminal."""
    if (summary := result.summary) is None:
        return "interrupted before the first training was judged; repeat the command to resume it"
    judged = summary.judgement
    shares = ", ".join(
        f"{_figure(group.by_class)} and {_figure(group.by_place)} of the {name} units'"
        for name, group in (("kept", judged.kept), ("dropped", judged.dropped))
    )
    return "\n".join(
        [
            "",
            f"{'subset':10} {'method':22} {'units':>6} {'balanced':>8} {'test accuracy':>16} "
            f"{'validation':>10} {'paper':>6}",
            *map(_line, summary.rows),
            f"agent ahead of L1 in {summary.beats_l1} of {summary.n} trainings, of the 95th percentile of "
            f"random sets in {summary.beats_random_95}; with one ridge for all choices "
            f"{summary.ridge_beats_l1} and {summary.ridge_beats_random_95}; in the edited network "
            f"{summary.edited_beats_l1} and {summary.edited_beats_random_95}, with its units alone "
            f"{summary.alone_beats_l1} and {summary.alone_beats_random_95}",
            f"classes and places explain {shares} variance on balanced images; AUROC of the judgement "
            f"{_figure(judged.auroc)}",
        ]
    )


def _line(row: SummaryRow) -> str:
    spread = "" if row.spread is None else f" ± {row.spread:.3f}"
    value = "not possible" if row.accuracy is None else f"{row.accuracy:.3f}{spread}"
    return (
        f"{row.subset:10} {row.method:22} {row.units:6.0f} {'yes' if row.balanced else 'no':>8} "
        f"{value:>16} {_figure(row.validation, 3):>10} {_figure(row.paper_accuracy, 3):>6}"
    )


def _figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
