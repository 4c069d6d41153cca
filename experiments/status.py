"""How far a run is, told from its directory alone: also while another process works on it, and after it died."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.chat.base import Usage
from agents import lease
from agents.interpreter import images_tested
from agents.journal import slug
from agents.store import Store, parse
from agents.study import total_usage
from agents.survey import MEASURED
from agents.work import KEY as PLAN
from agents.work import read_plan
from experiments.machinery import reuse
from experiments.recorded import no_run, runs_below

_WOULD_FAIL_AGAIN = {"UndrawableError"}
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


def status(run: Path) -> dict[str, Any]:
    """Return the state of a run as plain values.

    Raises:
        UsageError: If there is no run in the directory.
    """
    if not (run / "manifest.json").exists() and not (run / "leases").exists():
        raise no_run(run)
    store = Store(run)
    plan = read_plan(store)
    units = [item.unit for item in plan] if plan is not None else _described(store)
    if not units and (parts := runs_below(run)):
        return _of_parts(run, parts)
    each = {unit: _unit(run / "units" / slug(unit)) for unit in units}
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
        "failures": {
            unit: _last_failure(run, unit) for unit, found in each.items() if found.state == "failed"
        },
    }


def _who(owner: Any) -> dict[str, Any] | None:
    return None if owner is None else {"host": owner.get("host"), "pid": owner.get("pid")}


def _of_parts(run: Path, parts: list[Path]) -> dict[str, Any]:
    """Return the state of a run of runs: their sums, at an end when its result is there."""
    found = [status(part) for part in parts]
    owner = lease.owner(Store(run))
    failed = sum(each["failed"] for each in found)
    state = "finished with failures" if failed else "finished"
    if owner is not None:
        state = "running"
    elif not any(run.glob("experiments/*.json")) or any(each["begun"] + each["waiting"] for each in found):
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


def _state(store: Store, owner: Any, open_: int, failed: int, *, planned: bool) -> str:
    if owner is not None:
        cancelled = store.has(f"leases/{lease.newest(store):04d}/cancel")
        return "stopping" if cancelled else "running" if planned else "preparing"
    if not planned or open_:
        return "interrupted"
    return "finished with failures" if failed else "finished"


def _described(store: Store) -> list[str]:
    """Return the units of a run without a plan, such as one of `maia describe`: those on record."""
    folder = store.root / "units"
    found = []
    for path in sorted(folder.glob("*/done.json")) if folder.is_dir() else ():
        found.append(parse(path.read_bytes(), path)["unit"])
    return found


def _unit(folder: Path) -> _Unit:
    done, surveyed = folder / "done.json", _surveyed(folder)
    if done.exists():
        record = parse(done.read_bytes(), done)
        usage = total_usage(record)
        return _Unit(
            record["status"],
            record["rounds"],
            record["images_made"]
            + record.get("images_tested", 0)
            + (0 if record["status"] == MEASURED else surveyed),
            usage.prompt_tokens + usage.completion_tokens,
            usage.dollars,
            usage.unpriced,
            done.stat().st_mtime,
        )
    rounds = sorted((folder / "rounds").glob("[0-9]*.json"))
    records = [parse(path.read_bytes(), path) for path in rounds]
    usages = [Usage(**record["reply"]["usage"]) for record in records]
    charged = [Usage(**parse(path.read_bytes(), path)) for path in (folder / "charged").glob("*.json")]
    usage = sum((*usages, *charged), Usage())
    return _Unit(
        "failed" if (folder / "failed-1.json").exists() else "begun" if folder.exists() else "waiting",
        len(records),
        surveyed + (records[-1]["toolbox"]["images_made"] if records else 0) + images_tested(records),
        usage.prompt_tokens + usage.completion_tokens,
        usage.dollars,
        usage.unpriced,
    )


def _surveyed(folder: Path) -> int:
    """Return how many images were made for a unit's survey, which come before those of its agent."""
    path = folder / "survey.json"
    return int(parse(path.read_bytes(), path)["images"]) if path.exists() else 0


def _worked_since(run: Path) -> list[float]:
    """Return when commands began on the run's studies, the plan first; nothing for a run without a plan."""
    plan = run / PLAN
    if not plan.exists():
        return []
    planned = plan.stat().st_mtime
    claims = [path.stat().st_mtime for path in run.glob("leases/*/claim.json")]
    return [planned, *(at for at in claims if at > planned)]


def _rate(times: list[float], since: list[float]) -> float | None:
    """Return units an hour over the last hour of results, or since a command began; None where that cannot be told.

    The time between two commands is nobody's pace.
    """
    last = max(times, default=0.0)
    begun = [at for at in since if at < last]
    if not begun:
        return None
    start = max(*begun, last - 3600)
    return round(3600 * sum(at > start for at in times) / (last - start), 1)


def _last_failure(run: Path, unit: str) -> dict[str, Any]:
    paths = (run / "units" / slug(unit)).glob("failed-*.json")
    newest = max(paths, key=lambda path: int(path.stem.partition("-")[2]))
    error: dict[str, Any] = parse(newest.read_bytes(), newest)["error"]
    return error


def card(found: dict[str, Any]) -> str:
    """Return a run's state in a few lines for a terminal."""
    from experiments.console import money, plain

    owner = found.get("owner")
    by = f" by process {owner['pid']} on {plain(str(owner['host']))}" if owner else ""
    if found["state"] == "preparing":
        return f"[bold]preparing[/bold]{by}: models are loaded and the data set is searched; no unit is planned yet"
    lines = [
        f"[bold]{found['state']}[/bold]{by}: {found['done']} of {found['units']} units done, "
        f"{found['begun']} begun, {found['waiting']} waiting, {found['failed']} failed",
        f"{found['rounds']} rounds, {found['images']} images made and tested, {found['tokens']:,} tokens, {money(found['dollars'], found['unpriced'])}"
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
