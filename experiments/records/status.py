"""How far a run is, from its directory alone: also while another process works on it, and after it died."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.chat.reply import Usage
from actors.errors import UsageError
from agents.evidence.verdict import TESTED
from agents.records import lease
from agents.records.journal import (
    Journal,
    failures,
    images_tested,
    read_result,
    read_stop,
    read_survey,
    repeats_of,
    unit_folder,
)
from agents.records.record_types import MEASURED, FailureRecord, LeaseClaim
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import KEY as PLAN
from agents.records.work import WorkItem, read_plan, settled
from experiments.records.lookup import finished_studies, is_run, no_run, read_manifest, runs_below
from experiments.records.reuse import ReuseRate, reuse
from experiments.records.tiers import read_tiers

_DEEPEST = 2
"""Levels of runs in runs that are read: an ablation holds its variants, and a study of studies holds
those.
"""
_WOULD_FAIL_AGAIN = {"UndrawableError", "RecordError"}
"""Types of failures that another try with the same models cannot mend."""


_NAMED = {*TESTED, "untested"} - {"not confirmed"}
"""Verdicts on labels that no test has refuted."""


@dataclass(frozen=True, slots=True)
class FailedStudy:
    """The error that ended a study."""

    type: str
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class RunOwner:
    """The process that works on a run."""

    host: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is."""

    run: str
    state: str
    """"preparing", "running", "stopping", "interrupted", "finished" or "finished with failures"."""
    owner: RunOwner | None
    units: int = 0
    done: int = 0
    failed: int = 0
    begun: int = 0
    waiting: int = 0
    rounds: int = 0
    images: int = 0
    tokens: int = 0
    dollars: float = 0.0
    """US dollars of what has a known price."""
    unpriced: int = 0
    """Requests whose price is unknown."""
    units_an_hour: float | None = None
    reuse: dict[str, ReuseRate] = field(default_factory=dict)
    """By role."""
    failures: dict[str, FailedStudy] = field(default_factory=dict)
    """By unit."""
    out_of_budget: dict[str, FailedStudy] = field(default_factory=dict)
    """What stopped the units, among those that are begun, whose own budget is spent."""
    tiers: dict[str, int] = field(default_factory=dict)
    """Units by what named them: "agent", "embedding" or "none"; of a run in which all have agents, empty."""
    parts: list[str] = field(default_factory=list)
    """Runs in this one, of which these are the sums."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values; of `parts`, `tiers` and `out_of_budget` those that there are."""
        rare = ("parts", "tiers", "out_of_budget")
        return {key: value for key, value in asdict(self).items() if value or key not in rare}


_UNRECORDED = "single studies do not record which process works on them; if none does"
_SUMS = ("units", "done", "failed", "begun", "waiting", "rounds", "images", "tokens", "dollars", "unpriced")
"""Fields of a run's status that a run of runs sums up."""


@dataclass(frozen=True, slots=True)
class _UnitState:
    """What a unit's folder says: `state` is "waiting", "begun", "failed" or the result's status."""

    state: str
    rounds: int = 0
    images: int = 0
    tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    finished_at: float = 0.0
    error: FailedStudy | None = None
    """Of a study that failed, why."""
    stopped: FailedStudy | None = None
    """Of a study whose own budget is spent, which limit."""
    named_by: str = "none"
    """The tier of a label that stands, or was put to no conclusive test."""


def status(run: Path, *, below: int = _DEEPEST) -> RunStatus:
    """Return the state of a run; a unit with a damaged record is a failure that names it.

    Runs in it are read `below` levels deep.

    Raises:
        UsageError: If there is no run in the directory, or one of `maia label`, which studies nothing.
        RecordError: If its plan is damaged.
    """
    if not is_run(run) and not (run / "leases").exists():
        raise no_run(run)
    store = Store(run)
    plan = read_plan(store)
    if plan is None and _is_of_labels(run):
        raise UsageError(
            f"{run} holds labels of units by embeddings, and no studies.",
            "They are in labels.jsonl; `maia sweep --agents` gives agents to units that they leave in doubt.",
        )
    problems: list[str] = []
    ids = (
        [item.unit for item in plan]
        if plan is not None
        else [record.unit for record in finished_studies(store, problems)]
    )
    if not ids and not problems and below and (parts := runs_below(run)):
        return _of_parts(run, parts, below)
    items = {item.unit: item for item in plan or ()}
    units = {unit: _unit(store, unit, items.get(unit)) for unit in ids}
    tiers = _tiers(store, units)
    units |= {
        problem: _UnitState("failed", error=FailedStudy("RecordError", problem)) for problem in problems
    }
    states = [unit.state for unit in units.values()]
    owner = lease.owner(store)
    begun, failed, waiting = (states.count(state) for state in ("begun", "failed", "waiting"))
    finished_at = [unit.finished_at for unit in units.values() if unit.finished_at]
    return RunStatus(
        run=str(run),
        state=_state(store, owner, waiting + begun, failed, planned=bool(units)),
        owner=_owner(owner),
        units=len(units),
        done=len(units) - begun - failed - waiting,
        failed=failed,
        begun=begun,
        waiting=waiting,
        rounds=sum(unit.rounds for unit in units.values()),
        images=sum(unit.images for unit in units.values()),
        tokens=sum(unit.tokens for unit in units.values()),
        dollars=round(sum(unit.dollars for unit in units.values()), 4),
        unpriced=sum(unit.unpriced for unit in units.values()),
        units_an_hour=_rate(finished_at, _worked_since(run)),
        reuse=reuse(store),
        failures={name: unit.error for name, unit in units.items() if unit.error is not None},
        out_of_budget={name: unit.stopped for name, unit in units.items() if unit.stopped is not None},
        tiers=tiers,
    )


def _is_of_labels(run: Path) -> bool:
    with suppress(UsageError, RecordError):
        return read_manifest(run).command == "label"
    return False


def _tiers(store: Store, units: Mapping[str, _UnitState]) -> dict[str, int]:
    try:
        given = [tier.unit for tier in read_tiers(store)]
    except RecordError:
        return {}
    return dict(Counter(units[unit].named_by if unit in units else "none" for unit in given))


def _owner(claim: LeaseClaim | None) -> RunOwner | None:
    return None if claim is None else RunOwner(claim.host, claim.pid)


def _of_parts(run: Path, parts: list[Path], below: int) -> RunStatus:
    """Return the state of a run of runs: their sums, at an end when its result is there."""
    statuses = [status(part, below=below - 1) for part in parts]
    store = Store(run)
    owner = lease.owner(store)
    state = "finished with failures" if any(part.failed for part in statuses) else "finished"
    if owner is not None:
        state = "running"
    elif not any(key.endswith(".json") for key in store.keys("experiments")) or any(
        part.begun + part.waiting for part in statuses
    ):
        state = "interrupted"
    return RunStatus(
        run=str(run),
        state=state,
        owner=_owner(owner),
        failures={unit: error for part in statuses for unit, error in part.failures.items()},
        out_of_budget={unit: why for part in statuses for unit, why in part.out_of_budget.items()},
        parts=[part.relative_to(run).as_posix() for part in parts],
        **{name: sum(getattr(part, name) for part in statuses) for name in _SUMS},
    )


def _state(store: Store, owner: LeaseClaim | None, unfinished: int, failed: int, *, planned: bool) -> str:
    if owner is not None:
        cancelled = store.has(f"leases/{lease.newest(store):04d}/cancel")
        return "stopping" if cancelled else "running" if planned else "preparing"
    if not planned or unfinished:
        return "interrupted"
    return "finished with failures" if failed else "finished"


def _unit(store: Store, unit: str, item: WorkItem | None) -> _UnitState:
    try:
        return _read_unit(store, unit, item)
    except RecordError as error:
        return _UnitState("failed", error=FailedStudy(type(error).__name__, error.message, error.fix))


def _read_unit(store: Store, unit: str, item: WorkItem | None) -> _UnitState:
    folder = unit_folder(unit)
    taken = read_survey(store, unit)
    surveyed = 0 if taken is None else taken.images
    record = read_result(store, unit)
    if record is not None and (item is None or settled(store, item)):
        usage = record.total_usage()
        finished = store.status(f"{folder}/done.json")
        return _UnitState(
            record.status,
            record.rounds + sum(repeat.rounds for repeat in record.repeats),
            record.images_made + record.images_tested + (0 if record.status == MEASURED else surveyed),
            usage.prompt_tokens + usage.completion_tokens,
            usage.dollars,
            usage.unpriced,
            finished.st_mtime if finished else 0.0,
            named_by=record.tier if record.verdict in _NAMED else "none",
        )
    journals = [Journal(store, unit), *repeats_of(store, unit)]
    studies = [journal.rounds() for journal in journals]
    usages = [record.reply.usage.usage() for records in studies for record in records]
    usage = sum([*usages, *(journal.image_charges() for journal in journals)], Usage())
    failed = failures(store, unit)
    stopped = None if failed else read_stop(store, unit)
    return _UnitState(
        "failed" if failed else "begun" if store.folder_state(folder)[0] else "waiting",
        sum(map(len, studies)),
        surveyed
        + sum(records[-1].toolbox.images_made for records in studies if records)
        + sum(map(images_tested, studies)),
        usage.prompt_tokens + usage.completion_tokens,
        usage.dollars,
        usage.unpriced,
        error=_failure(failed[-1]) if failed else None,
        stopped=None if stopped is None else _failure(stopped),
    )


def _failure(record: FailureRecord) -> FailedStudy:
    return FailedStudy(record.error.type, record.error.message, record.error.fix)


def _worked_since(run: Path) -> list[float]:
    """Return when commands began on the run's studies, the plan first; nothing for a run without a plan."""
    store = Store(run)
    plan = store.status(PLAN)
    if plan is None:
        return []
    planned = plan.st_mtime
    files = [store.status(key) for key in store.keys("leases") if key.endswith("/claim.json")]
    claims = [file.st_mtime for file in files if file is not None]
    return [planned, *(at for at in claims if at > planned)]


def _rate(times: list[float], since: list[float]) -> float | None:
    """Return units an hour over the last hour of results, or since a command began; None where that cannot be
    told.

    The time between two commands does not count.
    """
    last = max(times, default=0.0)
    begun = [at for at in since if at < last]
    if not begun:
        return None
    start = max(*begun, last - 3600)
    return round(3600 * sum(at > start for at in times) / (last - start), 1)


def card(run: RunStatus) -> str:
    """Return a run's state in a few lines for a terminal."""
    from experiments.setup.console import money, plain

    by = f" by process {run.owner.pid} on {plain(str(run.owner.host))}" if run.owner else ""
    if run.state == "preparing":
        return (
            f"[bold]preparing[/bold]{by}: models are loaded and the data set is searched; no unit is "
            "planned yet"
        )
    pace = f", {run.units_an_hour:,.0f} units per hour" if run.units_an_hour else ""
    recorded = (Path(run.run) / "leases").is_dir() or bool(run.parts)
    state = "unfinished" if run.state == "interrupted" and not recorded else run.state
    lines = [
        f"[bold]{state}[/bold]{by}: {run.done:,} of {run.units:,} units done, {run.begun:,} "
        f"begun, {run.waiting:,} waiting, {run.failed:,} failed",
        f"{run.rounds:,} rounds, {run.images:,} images made and tested, {run.tokens:,} tokens, "
        f"{money(run.dollars, run.unpriced)}{pace}",
    ]
    if run.tiers:
        named = {name: run.tiers.get(name, 0) for name in ("agent", "embedding", "none")}
        lines.append(
            f"named by agents: {named['agent']} units; by embeddings, tested without an agent: "
            f"{named['embedding']}; not named: {named['none']}"
        )
    if vision := run.reuse.get("vision"):
        lines.append(f"{vision.rate:.0%} of {vision.asked:,} measurements needed no pass of their own")
    if run.parts:
        lines.append(plain(f"its runs, each with a status of its own: {', '.join(run.parts)}"))
    for unit, error in list(run.failures.items())[:10]:
        lines.append(f"[red]failed[/red] {plain(unit)}: {error.type}: {plain(error.message)}")
    for unit, why in list(run.out_of_budget.items())[:10]:
        lines.append(f"[yellow]out of budget[/yellow] {plain(unit)}: {plain(why.message)} {plain(why.fix)}")
    types = {error.type for error in run.failures.values()}
    if types - _WOULD_FAIL_AGAIN:
        lines.append("try the failed ones again by repeating the command with --retry-failed")
    elif run.state == "interrupted":
        lines.append("repeat the command to resume it" if recorded else f"{_UNRECORDED}, repeat the command")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """What came of asking a run to stop."""

    run: str
    asked: bool
    """Whether a process works on it."""
    at: str
    """The time of day."""
    state: str
    """The run's state before."""


def cancel(run: Path) -> CancelRequest:
    """Ask the process that works on a run to stop gracefully.

    Raises:
        UsageError: If there is no run in the directory.
    """
    before = status(run)
    return CancelRequest(str(run), lease.cancel(Store(run)), time.strftime("%H:%M:%S"), before.state)
