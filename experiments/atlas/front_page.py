"""`maia atlas`, and the atlas as the front page of the report of a large run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from actors.errors import MaiaError, UsageError
from agents.records.run_files import RecordError, parse_json
from agents.records.store import Store
from experiments.atlas import catalog, page
from experiments.atlas.page import Addresses
from experiments.report import pages, site
from experiments.report.records import RunDirectory, mapping, number, sequence, text

LARGE = 500
"""Units from which the atlas is the front page of a run's report."""
PLACES = "search/map.json"
"""Where labels lie on the map: they stay there while a run grows."""


class AtlasFrontPage:
    """The atlas in place of the overview, which it links to, where a run has more than `LARGE` units."""

    def state(self, run: RunDirectory) -> list[tuple[str, float]]:
        """Return what changes whenever a table does that the atlas shows."""
        states = ((key, run.store.status(key)) for key in (catalog.LABELS, catalog.ROLES, "screening.json"))
        return [(key, status.st_mtime_ns) for key, status in states if status is not None]

    def write(self, run: RunDirectory) -> list[str]:
        """Write the atlas, and return the keys of its files; none of a run that is not large."""
        if _extent(run) <= LARGE:
            return []
        files = page.make(run, catalog.read(run), Addresses(), _Places(run.store))
        return page.write(run.store, "report/", "index.html", files)


def write_report(run_dir: Path) -> Path:
    """Write the report of a run and return its front page, which of a large run is the atlas.

    Raises:
        UsageError: If there is no such directory.
        RecordError: If `report` or a folder in it is a link.
    """
    return site.write(run_dir, AtlasFrontPage())


@dataclass(frozen=True, slots=True)
class Atlas:
    """An atlas that was written."""

    run: str
    page: str
    units: int
    labeled: int
    labels: int
    """Distinct labels."""
    layers: int
    problems: list[str]
    """What is damaged in the run, a sentence each."""


def write_atlas(run_dir: Path, out: Path | None = None) -> Atlas:
    """Write the atlas of a run, whatever its size, into a folder of its own, by default `atlas/` in the run.

    Links to unit pages and images are relative: the folder is moved together with the run.

    Raises:
        UsageError: If there is no such run, it has no unit yet, or the folder holds something else.
    """
    write_report(run_dir)
    run = RunDirectory(run_dir)
    units = catalog.read(run)
    if not units:
        raise UsageError(f"nothing is known of any unit of {run_dir} yet.", "Repeat this once there is.")
    folder = out or run_dir / "atlas"
    if (folder / "index.html").exists() and not (folder / "atlas" / "units.js").exists():
        raise UsageError(f"{folder} holds an index.html that is no atlas.", "Choose another --out.")
    # The folder in the run is the run's own: what lies in its place is not followed.
    store, prefix = (run.store, "atlas/") if out is None else (Store.open(out), "")
    to_run = quote(Path(os.path.relpath(run_dir.resolve(), folder.resolve())).as_posix())
    overview = "overview.html" if (run_dir / "report" / "overview.html").exists() else "index.html"
    files = page.make(run, units, Addresses(f"{to_run}/report/", f"{to_run}/", overview), _Places(run.store))
    pages.write_assets(store, prefix)
    page.write(store, prefix, "index.html", files)
    labels = {unit.label for unit in units if unit.label}
    return Atlas(
        str(run_dir),
        str(folder / "index.html"),
        len(units),
        sum(bool(unit.label) for unit in units),
        len(labels),
        len({unit.layer for unit in units}),
        run.problems,
    )


def _extent(run: RunDirectory) -> int:
    """Return how many units a run has at least, without reading their records."""

    tables = (sum(1 for _ in catalog.raw_lines(run, key)) for key in (catalog.LABELS, catalog.ROLES))
    screened = sum(len(sequence(rows)) for rows in run.screening.values())
    return max(len(run.plan), len(run.slugs()), screened, *tables)


class _Places:
    """Where labels lay on the map when it was last made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, labels: Sequence[str]) -> np.ndarray:
        """Return each label's place, float32 (T, 2); NaN of one that is new."""
        try:
            content = mapping(parse_json(self._store.get(PLACES) or b"{}", self._store.root / PLACES))
        except (OSError, RecordError):
            content = {}
        known = {text(row[0]): row[1:] for row in sequence(content.get("places")) if _is_place(row)}
        return np.array([known.get(label, (np.nan, np.nan)) for label in labels], np.float32).reshape(-1, 2)

    def keep(self, labels: Sequence[str], places: np.ndarray) -> None:
        rows = [[label, *place] for label, place in zip(labels, places.round(5).tolist(), strict=True)]
        try:
            self._store.replace(PLACES, pages.script_value({"places": rows}).encode())
        except (OSError, MaiaError):
            return


def _is_place(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 3
        and all((value := number(each)) is not None and 0 <= value <= 1 for each in row[1:])
    )
