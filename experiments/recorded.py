"""Finding one unit of a run directory by what a person would type: DIR/FOLDER, DIR/ID or DIR/LAYER:NUMBER."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.journal import slug
from agents.store import Store
from agents.work import WorkItem, read_plan


@dataclass(frozen=True)
class RecordedUnit:
    """One unit of a run, and what the run was about."""

    store: Store
    item: WorkItem
    manifest: dict[str, Any]


def find_unit(path: Path) -> RecordedUnit:
    """Return the unit that `path` names.

    Raises:
        UsageError: If there is no such run or unit, naming the run's units.
    """
    run = next((parent for parent in (path, *path.parents) if (parent / "manifest.json").is_file()), None)
    if run is None:
        raise UsageError(f"{path} lies in no run directory.", "Write DIR/UNIT, DIR being an --out folder.")
    store = Store(run)
    manifest = json.loads((run / "manifest.json").read_bytes())
    name = path.relative_to(run).as_posix().removeprefix("units/")
    items = read_plan(store) or _single(store, manifest)
    if name in ("", ".") and len(items) == 1:
        return RecordedUnit(store, items[0], manifest)
    for item in items:
        if name in (slug(item.unit), item.unit, item.unit.partition("/")[2], f"{item.layer}:{item.name}"):
            return RecordedUnit(store, item, manifest)
    known = ", ".join(f"{item.layer}:{item.name}" for item in items[:8])
    raise UsageError(f"{run} has no unit {name!r}.", f"It has {known}{' ...' if len(items) > 8 else ''}.")


def _single(store: Store, manifest: dict[str, Any]) -> list[WorkItem]:
    """Return the unit of a run that has no plan, such as one of `maia describe`."""
    found = []
    for folder in sorted((store.root / "units").glob("*")):
        done = store.get(f"units/{folder.name}/done.json")
        if done is not None:
            unit = json.loads(done)["unit"]
            found.append(
                WorkItem(
                    unit, manifest.get("layer", ""), manifest.get("unit", ""), seed=manifest.get("seed", 0)
                )
            )
    return found
