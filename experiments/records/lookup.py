"""Finding a run's units by what a person would type: DIR for all, DIR/FOLDER, DIR/ID, DIR/LAYER:NUMBER or
DIR/NUMBER.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.errors import UsageError
from agents.records.journal import slug
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import recorded
from agents.records.record_types import Manifest, StudyResult, load_record
from agents.records.run_files import RecordError, list_folders
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan

_OUT = "Name the --out folder of a run."
_SHOWN = 8
"""Units or runs that are named where there is none of that name."""


@dataclass(frozen=True)
class RecordedUnit:
    """One unit of a run, and what the run was about."""

    store: Store
    item: WorkItem
    manifest: Manifest


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's own, and not one below it."""
    return Store(folder).has(MANIFEST)


def read_manifest(run: Path) -> Manifest:
    """Return what a run is about.

    Raises:
        UsageError: If there is no run in the folder.
        RecordError: If what it is about is damaged.
    """
    if not is_run(run):
        raise no_run(run)
    return recorded(Store(run))


def finished_studies(store: Store, problems: list[str]) -> Iterator[StudyResult]:
    """Yield the results in the unit folders of a run; what is wrong with one that is damaged goes to
    `problems`.
    """
    for folder in store.folders("units"):
        try:
            record = load_record(store, f"units/{folder}/done.json", StudyResult)
        except RecordError as error:
            problems.append(error.message)
            continue
        if record is not None:
            yield record


def no_run(folder: Path) -> UsageError:
    """Return the error of a folder that is taken for a run and holds none; runs below it are named."""
    if not folder.is_dir():
        kind = "it is a file" if folder.exists() else "there is no such folder"
        return UsageError(f"there is no run in {folder}: {kind}.", _OUT)
    if (folder / "leases").is_dir():
        return UsageError(
            f"the run in {folder} has come to no unit yet.",
            f"Try again later: `maia status {folder}` says whether a process works on it.",
        )
    return UsageError(f"there is no run in {folder}.", name_runs_below(folder) or _OUT)


def find_unit(path: Path) -> RecordedUnit:
    """Return the unit that `path` names; a run of one unit may be named alone.

    Raises:
        UsageError: If there is no such run or unit, naming the run's units.
    """
    units = find_units(path)
    if len(units) > 1:
        raise UsageError(f"{path} is a run of {len(units)} units.", f"Write {path}/UNIT: {_names(units)}.")
    return units[0]


def find_units(path: Path) -> list[RecordedUnit]:
    """Return the unit that `path` names, or all units of the run that it names, at least one.

    A unit is named as its run names it, and by its number alone where no other layer has it.

    Raises:
        UsageError: If there is no such run or unit, naming the run's units.
    """
    run = next((parent for parent in (path, *path.parents) if is_run(parent)), None)
    if run is None:
        raise (
            no_run(path)
            if path.is_dir()
            else UsageError(
                f"{path} is no run, and lies in none.", "Name the --out folder of a run, or DIR/UNIT."
            )
        )
    store = Store(run)
    manifest = read_manifest(run)
    problems: list[str] = []
    items = read_plan(store) or _single(store, manifest, problems)
    if not items and problems:
        raise RecordError(problems[0])
    units = [RecordedUnit(store, item, manifest) for item in items]
    if not units:
        raise UsageError(f"{run} has no recorded unit.", name_runs_below(run) or "Play it again once it has.")
    name = path.relative_to(run).as_posix().removeprefix("units/")
    if name in ("", ".", "units"):
        return units
    for unit in units:
        item = unit.item
        if name in (slug(item.unit), item.unit, item.unit.partition("/")[2], f"{item.layer}:{item.name}"):
            return [unit]
    alike = [unit for unit in units if unit.item.name == name]
    if len(alike) == 1:
        return alike
    raise UsageError(f"{run} has no unit {name!r}.", f"It has {_names(alike or units)}.")


def _names(units: Sequence[RecordedUnit]) -> str:
    return _listed([f"{unit.item.layer}:{unit.item.name}" for unit in units])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def runs_below(folder: Path) -> list[Path]:
    """Return the runs in a folder, or in a run that has no units of its own: of an ablation its variants."""
    above = list_folders(folder)
    names = [*above, *(f"{name}/{below}" for name in above for below in list_folders(folder, name))]
    return [folder / name for name in names if is_run(folder / name)]


def name_runs_below(folder: Path) -> str:
    """Return a sentence that names the runs in a folder, "" where there are none."""
    runs = runs_below(folder)
    return f"Runs below it: {_listed(list(map(str, runs)))}." if runs else ""


def _single(store: Store, manifest: Manifest, problems: list[str]) -> list[WorkItem]:
    """Return the unit of a run that has no plan, such as one of `maia describe`."""
    return [
        WorkItem(record.unit, manifest.layer, manifest.unit, seed=manifest.seed)
        for record in finished_studies(store, problems)
    ]
