"""How far a run is, told from its directory alone: also while another process works on it, and after it died."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.chat.base import Usage
from agents.orchestration.orchestrator import failures
from agents.records import lease
from agents.records.journal import Journal, repeats_of, slug
from agents.records.record_types import LeaseClaim, StudyResult, load_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import KEY as PLAN
from agents.records.work import read_plan
from agents.study import survey
from agents.study.interpreter import images_tested
from agents.study.survey import MEASURED
from experiments.records.lookup import finished_studies, is_run, no_run, runs_below
from experiments.records.results import damage
from experiments.records.reuse import reuse

_DEEPEST = 2
"""Levels of runs in runs that are looked at: an ablation holds its variants, and a study of studies holds
those.
"""
_WOULD_FAIL_AGAIN = {"UndrawableError", "RecordError"}
"""Types of failures that another try with the same models cannot mend."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What a unit's folder says: `state` is "waiting", "begun", "failed" or the result's status."""

    state: str
    rounds: int = 0
    images: int = 0
    tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0
    finished_at: float = 0.0
    error: dict[str, Any] | None = None
    """Of a study that failed, why."""


def status(run: Path, *, below: int = _DEEPEST) -> dict[str, Any]:
    """Return the state of a run as plain values; of a unit with a damaged record, a failure that names it.

    Runs in it are looked at `below` levels deep.

    Raises:
        UsageError: If there is no run in the directory.
        RecordError: If its plan is damaged.
    """
    if not is_run(run) and not (run / "leases").exists():
        raise no_run(run)
    store = Store(run)
    plan = read_plan(store)
    problems: list[str] = []
    units = (
        [item.unit for item in plan]
        if plan is not None
        else [record["unit"] for record in finished_studies(store, problems)]
    )
    if not units and not problems and below and (parts := runs_below(run)):
        return _of_parts(run, parts, below)
    each = {unit: _unit(store, unit) for unit in units}
    each |= {
        problem: _Unit("failed", error={"type": "RecordError", "message": problem, "fix": ""})
        for problem in problems
    }
    units = list(each)
    states = [unit.state for unit in each.values()]
    owner = lease.owner(store)
    begun, failed = states.count("begun"), states.count("failed")
    waiting = states.count("waiting")
    return {
        "run": str(run),
        "state": _state(store, owner, waiting + begun, failed, planned=bool(units)),
        "owner": _who(owner),
        "units": len(units),
        "done": len(units) - begun - failed - waiting,
        "failed": failed,
        "begun": begun,
        "waiting": waiting,
        "rounds": sum(unit.rounds for unit in each.values()),
        "images": sum(unit.images for unit in each.values()),
        "tokens": sum(unit.tokens for unit in each.values()),
        "dollars": round(sum(unit.dollars for unit in each.values()), 4),
        "unpriced": sum(unit.unpriced for unit in each.values()),
        "units_an_hour": _rate(
            [unit.finished_at for unit in each.values() if unit.finished_at], _worked_since(run)
        ),
        "reuse": reuse(store),
        "failures": {unit: found.error for unit, found in each.items() if found.state == "failed"},
    }


def _who(owner: LeaseClaim | None) -> dict[str, Any] | None:
    return None if owner is None else {"host": owner.host, "pid": owner.pid}


def _of_parts(run: Path, parts: list[Path], below: int) -> dict[str, Any]:
    """Return the state of a run of runs: their sums, at an end when its result is there."""
    found = [status(part, below=below - 1) for part in parts]
    owner = lease.owner(Store(run))
    failed = sum(each["failed"] for each in found)
    state = "finished with failures" if failed else "finished"
    if owner is not None:
        state = "running"
    elif not any(key.endswith(".json") for key in Store(run).keys("experiments")) or any(
        each["begun"] + each["waiting"] for each in found
    ):
        state = "interrupted"
    sums = (
        "units",
        "done",
        "failed",
        "begun",
        "waiting",
        "rounds",
        "images",
        "tokens",
        "dollars",
        "unpriced",
    )
    return {
        "run": str(run),
        "state": state,
        "owner": _who(owner),
        **{name: sum(each[name] for each in found) for name in sums},
        "units_an_hour": None,
        "reuse": {},
        "failures": {unit: error for each in found for unit, error in each["failures"].items()},
        "parts": [part.relative_to(run).as_posix() for part in parts],
    }


def _state(store: Store, owner: LeaseClaim | None, open_: int, failed: int, *, planned: bool) -> str:
    if owner is not None:
        cancelled = store.has(f"leases/{lease.newest(store):04d}/cancel")
        return "stopping" if cancelled else "running" if planned else "preparing"
    if not planned or open_:
        return "interrupted"
    return "finished with failures" if failed else "finished"


def _unit(store: Store, unit: str) -> _Unit:
    try:
        return _read_unit(store, unit)
    except RecordError as error:
        return _Unit("failed", error=damage(error)["error"])


def _read_unit(store: Store, unit: str) -> _Unit:
    folder = f"units/{slug(unit)}"
    taken = survey.read(store, unit)
    surveyed = 0 if taken is None else taken.images
    if (record := load_record(store, f"{folder}/done.json", StudyResult)) is not None:
        usage = record.total_usage()
        finished = store.status(f"{folder}/done.json")
        return _Unit(
            record.status,
            record.rounds + sum(repeat.rounds for repeat in record.repeats),
            record.images_made + record.images_tested + (0 if record.status == MEASURED else surveyed),
            usage.prompt_tokens + usage.completion_tokens,
            usage.dollars,
            usage.unpriced,
            finished.st_mtime if finished else 0.0,
        )
    journals = [Journal(store, unit), *repeats_of(store, unit)]
    studies = [journal.rounds() for journal in journals]
    usages = [record.reply.usage.usage() for records in studies for record in records]
    usage = sum([*usages, *(journal.image_charges() for journal in journals)], Usage())
    failed = failures(store, unit)
    return _Unit(
        "failed" if failed else "begun" if store.folder_state(folder)[0] else "waiting",
        sum(map(len, studies)),
        surveyed
        + sum(records[-1].toolbox.images_made for records in studies if records)
        + sum(map(images_tested, studies)),
        usage.prompt_tokens + usage.completion_tokens,
        usage.dollars,
        usage.unpriced,
        error=failed[-1].error.to_json() if failed else None,
    )


def _worked_since(run: Path) -> list[float]:
    """Return when commands began on the run's studies, the plan first; nothing for a run without a plan."""
    store = Store(run)
    plan = store.status(PLAN)
    if plan is None:
        return []
    planned = plan.st_mtime
    found = [store.status(key) for key in store.keys("leases") if key.endswith("/claim.json")]
    claims = [each.st_mtime for each in found if each is not None]
    return [planned, *(at for at in claims if at > planned)]


def _rate(times: list[float], since: list[float]) -> float | None:
    """Return units an hour over the last hour of results, or since a command began; None where that cannot be
    told.

    The time between two commands is nobody's pace.
    """
    last = max(times, default=0.0)
    begun = [at for at in since if at < last]
    if not begun:
        return None
    start = max(*begun, last - 3600)
    return round(3600 * sum(at > start for at in times) / (last - start), 1)


def card(found: dict[str, Any]) -> str:
    """Return a run's state in a few lines for a terminal."""
    from experiments.setup.console import money, plain

    owner = found.get("owner")
    by = f" by process {owner['pid']} on {plain(str(owner['host']))}" if owner else ""
    if found["state"] == "preparing":
        return (
            f"[bold]preparing[/bold]{by}: models are loaded and the data set is searched; no unit is "
            "planned yet"
        )
    lines = [
        f"[bold]{found['state']}[/bold]{by}: {found['done']} of {found['units']} units done, "
        f"{found['begun']} begun, {found['waiting']} waiting, {found['failed']} failed",
        f"{found['rounds']} rounds, {found['images']} images made and tested, {found['tokens']:,} tokens, "
        f"{money(found['dollars'], found['unpriced'])}"
        + (f", {found['units_an_hour']:.0f} units an hour" if found["units_an_hour"] else ""),
    ]
    if vision := found["reuse"].get("vision"):
        lines.append(f"{vision['rate']:.0%} of {vision['asked']:,} measurements needed no pass of their own")
    if parts := found.get("parts"):
        lines.append(plain(f"its runs, each with a status of its own: {', '.join(parts)}"))
    for unit, error in list(found["failures"].items())[:10]:
        lines.append(f"[red]failed[/red] {plain(unit)}: {error['type']}: {plain(error['message'])}")
    types = {error["type"] for error in found["failures"].values()}
    if types - _WOULD_FAIL_AGAIN:
        lines.append("try the failed ones again by repeating the command with --retry-failed")
    elif found["state"] == "interrupted":
        lines.append("repeat the command to go on")
    return "\n".join(lines)


def cancel(run: Path) -> dict[str, Any]:
    """Ask the process that works on a run to stop gracefully.

    Raises:
        UsageError: If there is no run in the directory.
    """
    before = status(run)
    asked = lease.cancel(Store(run))
    return {"run": str(run), "asked": asked, "at": time.strftime("%H:%M:%S"), "state": before["state"]}
