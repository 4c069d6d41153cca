"""A run as it is exported: what it was about, its rows and its records, without the names of home folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.records.journal import Journal
from agents.records.manifest import EXTENT
from agents.records.manifest import KEY as MANIFEST
from agents.records.record_types import Manifest, StudyResult
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem, read_plan
from experiments.records.lookup import finished_studies, name_runs_below, read_manifest
from experiments.records.names import UnitName, without_home
from experiments.records.results import result


@dataclass(frozen=True)
class Run:
    """A run as it is exported: its folder, what it was about, and its finished and failed units."""

    store: Store
    manifest: Manifest
    items: list[WorkItem]
    problems: list[str] = field(default_factory=list)
    """What is damaged, a sentence each."""

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises: UsageError: If there is no run in the folder, or nothing in it has come to an end."""
        manifest, store = read_manifest(folder), Store(folder)
        problems: list[str] = []
        items = read_plan(store) or [_item(record) for record in finished_studies(store, problems)]
        run = cls(store, Manifest.model_validate(without_home(manifest.to_json())), items, problems)
        if not any(True for _ in run.rows()):
            if problems:
                raise RecordError(problems[0])
            if runs := name_runs_below(folder):
                raise UsageError(f"{folder} has no units of its own, but runs in it.", f"Export one. {runs}")
            raise UsageError(f"no unit of {folder} has a result yet.", "Repeat this once one has.")
        return run

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the row of each unit that has come to an end, as in `results.jsonl`."""
        for item in self.items:
            if (row := result(self.store, item)) is not None:
                yield _given_away(row)

    def records(self) -> Iterator[tuple[WorkItem, StudyResult]]:
        """Yield the whole record of each unit with a result; what is wrong with a damaged one goes to
        `problems`.
        """
        for item in self.items:
            with self.kept():
                if (done := Journal(self.store, item.unit).done()) is not None:
                    yield item, done.model_copy(update={"facts": without_home(done.facts)})

    @property
    def identity(self) -> str:
        """Return what names the run, however many units it comes to have."""
        claim = self.store.get(_FIRST)
        # Without a claim, two runs of one configuration differ in their units.
        left_out = () if claim is None else EXTENT
        about = {key: value for key, value in self.manifest.to_json().items() if key not in left_out}
        return hashlib.blake2b(
            (claim or b"") + json.dumps(about, sort_keys=True).encode(), digest_size=11
        ).hexdigest()

    @property
    def created(self) -> datetime:
        status = self.store.status(_FIRST) or self.store.status(MANIFEST)
        return datetime.fromtimestamp(status.st_mtime if status else 0, UTC)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leave out what is damaged, and say so."""
        try:
            yield
        except RecordError as error:
            self.problems.append(error.message)


def _given_away(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that names no home folder; what agents wrote stays as it is."""
    return record | {key: without_home(record[key]) for key in ("facts", "error") if key in record}


def _item(record: StudyResult) -> WorkItem:
    """Return the item of a unit of a run without a plan, such as one of `maia describe`."""
    name = UnitName.parse(record.unit)
    index = "" if name.index is None else str(name.index)
    return WorkItem(record.unit, name.layer, index, seed=record.seed)


_FIRST = "leases/0001/claim.json"
"""Who began the run, and when: written once, where the manifest is written again for a run that is given more
units.
"""
