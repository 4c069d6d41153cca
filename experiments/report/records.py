"""A run directory as the report reads it: whatever is there, and what could not be read said so.

The directory may be half written, from another version, or damaged, and every text in it was written by
a model. So nothing is trusted to have the right type: `text`, `number`, `mapping` and `sequence` say what
is there, and a field of another type counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.images import ImageDecodeError
from actors.masks import beneath
from agents.records.journal import MOST_MASKS, Blobs
from agents.records.journal import slug as slug_of
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.records import cross_unit
from experiments.records.lookup import no_run
from experiments.records.names import UnitName, without_home

_IMAGE_ID = re.compile(r"[0-9a-f]{8,64}")
_MARKS = ("manifest.json", "leases", "plan.json", "units", "experiments")
"""Each of them marks a run's folder: into any other no report is written."""


_LARGEST_NUMBER = 1e250
"""Sums and multiples of smaller ones have a place in a float."""


def text(value: Any, default: str = "") -> str:
    return value if isinstance(value, str) else default


def number(value: Any) -> float | None:
    """Return a number that can be reckoned with, else None (JSON written by Python may hold NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST_NUMBER else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@dataclass(frozen=True, slots=True)
class UnitRecords:
    """What a run holds about one unit. `rounds` and `failures` are in order of their file names.

    A failure is on record for each attempt that a fault ended; a result, once there, is what counts.
    """

    slug: str
    name: UnitName
    done: dict[str, Any] | None
    rounds: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    seconds: float | None
    problems: list[str] = field(default_factory=list)
    repeat: int = 0
    """Which of several studies of the unit it is, from 1; 0 is the unit's result."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    """What people wrote to the unit's studies."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """What people tried on the unit."""


class RunDirectory:
    """Reads a run: its manifest, its units and where its images lie."""

    def __init__(self, root: Path) -> None:
        """Raises: UsageError: If there is no such directory, or it is not a run's."""
        if not any((root / name).exists() for name in _MARKS):
            raise no_run(root)
        self.root = root
        self.store = Store(root)
        self.problems: list[str] = []
        self._recorded = self._read("manifest.json", self.problems) or {}
        self.manifest = without_home(self._recorded)
        self.plan = {item["unit"]: item for item in self._planned()}
        self.screening = self._read("screening.json", self.problems) or {}
        self.crosswise = self._crosswise()

    def _crosswise(self) -> dict[str, Any]:
        try:
            return cross_unit.read(self.store) or {}
        except RecordError as error:
            self.problems.append(self._without_path(error))
            return {}

    def _without_path(self, error: RecordError) -> str:
        """Return an error without the path of the run, which may name a home folder."""
        return error.message.replace(f"{self.root}/", "")

    def planned(self, layer: str) -> int:
        """Return how many units of a layer the run has planned."""
        return sum(UnitName.parse(unit).layer == layer for unit in self.plan)

    def class_name(self, unit: UnitRecords) -> str:
        """Return the class that a unit of classes stands for; "" of others, and of one that was asked for by
        its number and has no result yet.
        """
        planned = mapping(self.plan.get(unit.name.id))
        named = text(mapping(planned.get("survey_arguments")).get("class_name"))
        asked = text(self.manifest.get("unit")) if unit.name.of_class else ""
        on_record = text(mapping(mapping(unit.done).get("facts")).get("class_name"))
        return named or on_record or ("" if asked.lstrip("-").isdigit() else asked)

    def slugs(self) -> list[str]:
        """Return the folders of all units that have begun, sorted."""
        return self.store.folders("units")

    def unit(self, slug: str) -> UnitRecords:
        """Return what is recorded about one unit.

        Raises:
            UsageError: If the run has no such unit.
        """
        self.check_unit(slug)
        return self._records(slug, f"units/{slug}", slug)

    def check_unit(self, slug: str) -> None:
        """Raise UsageError if the run has no such unit."""
        if slug not in self.slugs():
            raise UsageError(f"{self.root} has no unit {slug!r}.", "The folders under units/ are its units.")

    def repeats(self, slug: str) -> list[UnitRecords]:
        """Return what is recorded about each of several studies of a unit; none of a unit that was studied
        once.
        """
        folder = f"units/{slug}/repeats"
        numbers = sorted(int(name) for name in self.store.folders(folder) if re.fullmatch(r"[1-9]\d?", name))
        return [
            replace(self._records(slug, f"{folder}/{n}", f"{slug}.repeat-{n}"), repeat=n) for n in numbers
        ]

    def pooled(self, slug: str) -> str:
        """Return what the aggregator of several studies of a unit read, "" where there is none or it is
        damaged.
        """
        return text(mapping(self._read(f"units/{slug}/pooling.json", self.problems)).get("evidence"))

    def _records(self, slug: str, folder: str, page: str) -> UnitRecords:
        problems: list[str] = []
        done = self._read(f"{folder}/done.json", problems)
        rounds = []
        for expected, key in enumerate(self._numbered(f"{folder}/rounds/"), 1):
            name = key.rpartition("/")[2]
            if name != f"{expected:04d}.json" and not problems:
                problems.append(f"round {expected} is missing before {name}")
            if (record := self._read(key, problems)) is not None:
                rounds.append(record)
        failed = self._numbered(f"{folder}/failed-")
        failures = [r for key in failed if (r := self._read(key, problems)) is not None]
        duration = self._read(f"{folder}/duration.json", problems)
        notes, trials = (
            [r for key in self._numbered(f"units/{slug}/{name}/") if (r := self._read(key, problems))]
            for name in ("notes", "trials")
        )
        unit = text(mapping(done or (failures[-1] if failures else None)).get("unit")) or self._named(slug)
        seconds = number(mapping(duration).get("seconds"))
        for record in (done, *failures):
            for key in ("facts", "error"):  # what agents wrote stays as it is
                if record is not None and key in record:
                    record[key] = without_home(record[key])
        named = UnitName.parse(unit)
        found = UnitRecords(page, named, done, rounds, failures, seconds, problems)
        return replace(found, notes=notes, trials=trials)

    def state(self, slug: str) -> str:
        """Return what changes whenever a record of the unit is added.

        Records are written once and never changed, so their folders show it. Their number stands beside the
        date because two records may be added within one tick of the file system's clock.
        """
        repeats = self.store.folders(f"units/{slug}/repeats")
        below = (
            "",
            "/rounds",
            "/pictures",
            "/notes",
            "/trials",
            *(f"/repeats/{name}{folder}" for name in repeats for folder in ("", "/rounds")),
        )
        states = (self.store.folder_state(f"units/{slug}{folder}") for folder in below)
        return " ".join(f"{changed} {entries}" for changed, entries in states)

    def plan_state(self) -> str:
        """Return what changes whenever something does that concerns all units."""
        shared = ("manifest.json", "plan.json", "crosswise.json")
        states = (self.store.status(name) for name in shared)
        return " ".join(str(status.st_mtime_ns if status else 0) for status in states)

    def image(self, image_id: Any) -> tuple[str, ...]:
        """Return the paths below the run directory whose pictures, each laid over the one before, are a
        stored image.

        One for a picture that is kept whole; of a masked one the picture, then its mask; none if anything is
        missing. An id is a path's part only if it is hexadecimal: records are not trusted to name files.
        """
        layers: list[str] = []
        while isinstance(image_id, str) and _IMAGE_ID.fullmatch(image_id) and len(layers) <= MOST_MASKS:
            whole, mask = Blobs.key(image_id), Blobs.mask_key(image_id)
            if self.store.has(whole):
                return (whole, *reversed(layers))
            try:
                image_id = beneath(self.store.get(mask) or b"")
            except (RecordError, ImageDecodeError):
                break
            layers.append(mask)
        return ()

    def _named(self, slug: str) -> str:
        """Return the id of a unit that has no result yet, from the plan or the manifest."""
        named = [text(self._recorded.get(key)) for key in ("model", "layer", "unit")]
        for unit in (*self.plan, f"{named[0]}/{named[1]}:{named[2]}"):
            if slug_of(unit) == slug:
                return unit
        return slug

    def _planned(self) -> Iterator[dict[str, Any]]:
        """Return the items of the plan: the units of a sweep and how each is asked for."""
        for item in self._load("plan.json", list, self.problems) or []:
            if isinstance(item, dict) and isinstance(item.get("unit"), str):
                yield item

    def _numbered(self, prefix: str) -> list[str]:
        """Return the keys `<prefix><number>.json` by number."""
        name = re.compile(rf"{re.escape(prefix)}[0-9][^/]*\.json")
        keys = (key for key in self.store.keys(prefix.rpartition("/")[0]) if name.fullmatch(key))
        return sorted(keys, key=lambda key: (len(key), key))

    def _read(self, key: str, problems: list[str]) -> dict[str, Any] | None:
        record: dict[str, Any] | None = self._load(key, dict, problems)
        return record

    def _load(self, key: str, kind: type, problems: list[str]) -> Any:
        """Return a record of that kind, None if there is none; what is wrong with it goes to `problems`."""
        try:
            content = self.store.read(key)
        except (OSError, RecordError) as error:
            reason = self._without_path(error) if isinstance(error, RecordError) else error.strerror
            problems.append(f"{key} cannot be read: {reason}")
            return None
        if content is not None and not isinstance(content, kind):
            problems.append(f"{key} holds {type(content).__name__}, not {kind.__name__}")
            return None
        return content
