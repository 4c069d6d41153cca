"""The rows of Table 2, of one training and over several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter, ValidationError

from agents.records.run_files import damaged
from agents.records.store import Store
from experiments.paper.gym.selectivity import GroupShares, SelectivityJudgement

PAPER: Mapping[str, tuple[int, float]] = {
    "original model": (512, 0.731),
    "all": (50, 0.779),
    "random": (22, 0.705),
    "L1 top n": (22, 0.757),
    "agent": (22, 0.837),
    "balanced L1, tuned": (147, 0.830),
    "balanced L1 top n": (22, 0.865),
}
"""Units and test accuracy of Table 2. The spread of the random sets is given as 0.05."""
PLAIN: Mapping[str, str] = {
    "all": "all, no penalty",
    "random": "random",
    "L1 top n": "L1 top n, no penalty",
    "agent": "agent",
}
"""Names of the rows of choices that are fitted anew without a penalty, as the paper does for two of them."""
RIDGE: Mapping[str, str] = {name: f"{name}, ridge" for name in PLAIN}
"""Names of the rows in which every choice has the same regularized read-out."""
EDITED: Mapping[str, str] = {name: f"{name}, edited" for name in ("random", "L1 top n", "agent")}
"""Names of the rows in which the network keeps its own last layer, and the other units of the subset are set
to zero in it.
"""
ALONE: Mapping[str, str] = {name: f"{name}, alone" for name in EDITED}
"""Names of the rows in which all other units of the network are set to zero, too."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of Table 2; `validation` is the accuracy on the whole validation set, wrong labels included.

    An accuracy that could not be computed is None.
    """

    subset: str
    method: str
    units: int
    balanced: bool
    accuracy: float | None
    validation: float | None = None
    spread: float | None = None
    paper_units: int | None = None
    paper_accuracy: float | None = None


def table_row(
    subset: str,
    method: str,
    units: int,
    accuracies: tuple[float | None, float | None],
    *,
    balanced: bool = False,
    spread: float | None = None,
) -> TableRow:
    """Return a row with the paper's figures of its method; `accuracies` are on the test and validation
    sets.
    """
    paper_units, paper_accuracy = PAPER.get(method, (None, None))
    test, validation = accuracies
    return TableRow(subset, method, units, balanced, test, validation, spread, paper_units, paper_accuracy)


@dataclass(frozen=True)
class Training:
    """One training: the units that the agent judged, kept or gave no answer for, and its rows of Table 2.

    `percentile` is the share of random sets that do worse than the agent's choice, `random_95` their 95th
    percentile; `ridge_`, `edited_` and `alone_` are the same for these rows. Runs of earlier versions have no
    ridge, no judgement, and no edited network.
    """

    seed: int
    judged: list[int]
    kept: list[int]
    unanswered: list[int]
    rows: list[TableRow]
    percentile: float | None = None
    random_95: float | None = None
    ridge_percentile: float | None = None
    ridge_random_95: float | None = None
    judgement: SelectivityJudgement | None = None
    edited_percentile: float | None = None
    edited_random_95: float | None = None
    alone_percentile: float | None = None
    alone_random_95: float | None = None

    def accuracy(self, method: str) -> float | None:
        """Return a row's test accuracy; None if there is no such row, or it could not be computed."""
        return next((row.accuracy for row in self.rows if row.method == method), None)


_TRAINING = TypeAdapter(Training)


def read_training(store: Store, key: str) -> Training | None:
    """Return a training that was finished before, None if there is none.

    Raises:
        RecordError: If its record is damaged.
    """
    record = store.read_object(key)
    try:
        return None if record is None else _TRAINING.validate_python(record)
    except ValidationError as error:
        raise damaged(store.root / key, error) from error


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """A row's means over `n` trainings; `spread` is their standard deviation."""

    subset: str
    method: str
    balanced: bool
    paper_units: int | None
    paper_accuracy: float | None
    units: float
    accuracy: float | None
    spread: float | None
    validation: float | None
    n: int

    @classmethod
    def of(cls, rows: Sequence[TableRow]) -> SummaryRow:
        values = [row.accuracy for row in rows if row.accuracy is not None]
        first = rows[0]
        return cls(
            first.subset,
            first.method,
            first.balanced,
            first.paper_units,
            first.paper_accuracy,
            units=float(np.mean([row.units for row in rows])),
            accuracy=float(np.mean(values)) if values else None,
            spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            validation=_mean([row.validation for row in rows]),
            n=len(values),
        )


@dataclass(frozen=True)
class RobustSummary:
    """Means over trainings, and in how many of these the agent's choice came out ahead.

    What could not be computed is never ahead.
    """

    rows: list[SummaryRow]
    n: int
    beats_l1: int
    beats_l1_no_penalty: int
    beats_random_95: int
    ridge_beats_l1: int
    ridge_beats_random_95: int
    edited_beats_l1: int
    edited_beats_random_95: int
    alone_beats_l1: int
    alone_beats_random_95: int
    judgement: SelectivityJudgement


def summarize(trainings: Sequence[Training]) -> RobustSummary:
    """Return the means and wins over the trainings."""
    by_method: dict[str, list[TableRow]] = {}
    for training in trainings:
        for row in training.rows:
            by_method.setdefault(row.method, []).append(row)

    def wins(method: str, limit: Callable[[Training], float | None]) -> int:
        pairs = [(training.accuracy(method), limit(training)) for training in trainings]
        return sum(ours is not None and other is not None and ours > other for ours, other in pairs)

    ridge, edited, alone = RIDGE["agent"], EDITED["agent"], ALONE["agent"]
    return RobustSummary(
        rows=[SummaryRow.of(rows) for rows in by_method.values()],
        n=len(trainings),
        beats_l1=wins("agent", lambda training: training.accuracy("L1 top n")),
        beats_l1_no_penalty=wins("agent", lambda training: training.accuracy(PLAIN["L1 top n"])),
        beats_random_95=wins("agent", lambda training: training.random_95),
        ridge_beats_l1=wins(ridge, lambda training: training.accuracy(RIDGE["L1 top n"])),
        ridge_beats_random_95=wins(ridge, lambda training: training.ridge_random_95),
        edited_beats_l1=wins(edited, lambda training: training.accuracy(EDITED["L1 top n"])),
        edited_beats_random_95=wins(edited, lambda training: training.edited_random_95),
        alone_beats_l1=wins(alone, lambda training: training.accuracy(ALONE["L1 top n"])),
        alone_beats_random_95=wins(alone, lambda training: training.alone_random_95),
        judgement=_mean_judgement(trainings),
    )


def _mean_judgement(trainings: Sequence[Training]) -> SelectivityJudgement:
    """Return the means over the trainings that measured what kept and dropped units follow."""
    judged = [training.judgement for training in trainings if training.judgement is not None]

    def mean_of(groups: Sequence[GroupShares]) -> GroupShares:
        return GroupShares(
            _mean([group.n for group in groups]),
            _mean([group.by_class for group in groups]),
            _mean([group.by_place for group in groups]),
        )

    return SelectivityJudgement(
        mean_of([judgement.kept for judgement in judged]),
        mean_of([judgement.dropped for judgement in judged]),
        _mean([judgement.auroc for judgement in judged]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what was measured."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
