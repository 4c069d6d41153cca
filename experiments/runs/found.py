"""What a run has found, as a table for a terminal: of a large run the best units, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from agents.evidence.verdict import HOLDING, VERDICTS, Verdict, verdict_of
from agents.records.journal import failures, read_result
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan
from experiments.records.headline import headline
from experiments.records.names import UnitName
from experiments.setup.console import counted, printable

if TYPE_CHECKING:
    from experiments.report.schema import Contrast

ALL = 20
"""Units of a run that are all shown."""
BEST = 10
"""Units that are shown of a larger run."""
_TASK = "describe"
"""The question whose answers are shown: audits have tables of their own."""
_LABEL = 60
"""Characters of a label that are shown."""


@dataclass(frozen=True, slots=True)
class FoundUnit:
    """What became of one unit."""

    unit: str
    """Its name within the run."""
    label: str
    """Or what was found in place of one."""
    verdict: Verdict
    auroc: float | None

    @property
    def rank(self) -> tuple[int, float]:
        """Return what the best units have the least of."""
        return VERDICTS.index(self.verdict), -(self.auroc or 0.0)


def found_units(run: Path) -> list[FoundUnit]:
    """Return the units of a run that have come to an end, in the order of its plan; audits have tables of
    their own.

    Raises:
        RecordError: If the plan is damaged.
    """
    store = Store(run)
    return list(filter(None, (_found(store, item) for item in read_plan(store) or ())))


def _found(store: Store, item: WorkItem) -> FoundUnit | None:
    name = UnitName.parse(item.unit).short
    try:
        record = read_result(store, item.unit)
        if record is None:
            error = [failure.error for failure in failures(store, item.unit)][-1:]
            return FoundUnit(name, error[0].message, "failed", None) if error else None
    except RecordError as error:
        return FoundUnit(name, error.message, "failed", None)
    if record.task != _TASK:
        return None
    if named := record.facts.get("class_name"):
        name = f"{named} ({name})"
    evidence = record.evidence
    auroc = None if evidence is None else evidence.auroc
    values = record.to_json()
    return FoundUnit(name, headline(values), verdict_of(values), auroc)


def table(units: list[FoundUnit]) -> Iterator[Any]:
    """Yield a table of units, best first where there are many, and how many have which verdict."""
    if not units:
        return
    shown = units if len(units) <= ALL else sorted(units, key=lambda unit: unit.rank)[:BEST]
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("unit", "label", "verdict"):
        rows.add_column(name, overflow="fold")
    rows.add_column("AUROC", justify="right")
    for unit in shown:
        label = printable(unit.label)
        rows.add_row(
            Text(printable(unit.unit)),
            Text(label if len(label) <= _LABEL else f"{label[: _LABEL - 1].rstrip()}…") if label else "–",
            Text(unit.verdict, "green" if unit.verdict in HOLDING else "yellow"),
            "–" if unit.auroc is None else f"{unit.auroc:.2f}",
        )
    counts = Counter(unit.verdict for unit in units)
    tally = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS if counts[verdict])
    which = f"the best {BEST} of {counted(len(units), 'unit')}: " if len(units) > ALL else ""
    yield Group(rows, Text(f"{which}{tally}"), Text())


def experiments_table(run: Path) -> Iterator[Any]:
    """Yield what each experiment or audit of a run came to, by the pages that it wrote: its summary, and its
    largest findings.
    """
    if not (run / "experiments").is_dir():
        return
    from experiments.report import experiment_page
    from experiments.report.records import RunDirectory
    from experiments.report.schema import Contrast

    opened = RunDirectory(run)
    for key in experiment_page.keys(opened):
        try:
            page, _ = experiment_page.read(experiment_page.stored(opened, key))
        except RecordError:  # its page says what is wrong with it
            continue
        if page is None:
            continue
        findings = [block for block in page.blocks if isinstance(block, Contrast)]
        yield Group(
            *_findings(findings), Text(printable(": ".join(filter(None, [page.title, page.summary])))), Text()
        )


def _findings(contrasts: Sequence[Contrast]) -> Iterator[Any]:
    """Yield the largest differences as a table."""
    if not contrasts:
        return
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("finding", overflow="fold")
    for name in ("difference", "means"):
        rows.add_column(name, justify="right")
    checks = list(dict.fromkeys(check.name for each in contrasts for check in each.checks))
    for name in checks:
        rows.add_column(Text(printable(name.lower())), overflow="fold")
    for each in sorted(contrasts, key=lambda each: -abs(each.difference.value))[:ALL]:
        said = {check.name: check.words for check in each.checks}
        means = " and ".join(f"{side.mean.value:.2f}" for side in each.sides)
        words = (printable(said.get(name, "–")) for name in checks)
        rows.add_row(Text(printable(each.title)), f"{each.difference.value:+.2f}", means, *map(Text, words))
    yield rows
    if (more := len(contrasts) - ALL) > 0:
        yield Text(f"... and {counted(more, 'more finding')} on its page")
