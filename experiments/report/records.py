"""A run directory as the report reads it: whatever is there, and what could not be read said so.

The directory may be half written, from another version, or damaged, and every text in it was written by
a model. So nothing is trusted to have the right type: `text`, `number`, `mapping` and `sequence` say what
is there, and a field of another type counts as absent.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.images import ImageDecodeError
from actors.masks import beneath
from agents.journal import MOST_MASKS, Blobs
from agents.journal import slug as slug_of
from experiments.recorded import no_run

_UNIT = re.compile(
    r"^(?:(?P<model>.+?)/)?(?:(?P<kind>\w+):)?(?P<layer>[^:/@]+):(?P<index>[0-9]{1,18})(?:@(?P<source>.*))?$",
    re.DOTALL,
)
_IMAGE_ID = re.compile(r"[0-9a-f]{8,64}")
_HOMES = r"/home/[^/\s:;,'\"]+|/Users/[^/\s:;,'\"]+|/root"
"""Where home folders usually are."""
_MARKS = ("manifest.json", "leases", "plan.json", "units", "experiments")
"""Each of them tells a run's folder from any other, into which no report is written."""


def text(value: Any, default: str = "") -> str:
    return value if isinstance(value, str) else default


def number(value: Any) -> float | None:
    """Return a finite number, else None (JSON written by Python may hold NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


@cache
def _home_folders(own: str) -> re.Pattern[str]:
    """Return what matches home folders: those where they usually are, and one's `own`, which may be anywhere."""
    ways = f"{re.escape(own)}|{_HOMES}" if own.strip("/~") else _HOMES
    # A line may begin as JSON writes it, after an escape.
    return re.compile(rf"(?:(?<![\w.~-])|(?<=\\[nrt]))({ways})(?=[/\s:;,'\"]|$)")


def without_home(value: Any) -> Any:
    """Return a JSON value whose texts have `~` for home folders: what is given away names nobody's account."""
    if isinstance(value, str):
        return _home_folders(os.path.expanduser("~")).sub("~", value)  # noqa: PTH111 (as it is, where there is none)
    if isinstance(value, dict):
        return {key: without_home(each) for key, each in value.items()}
    return [without_home(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class UnitName:
    """A unit's id taken apart; an id of another form is all `layer`."""

    id: str
    model: str
    kind: str
    layer: str
    index: int | None
    source: str = ""

    @classmethod
    def parse(cls, unit: str) -> UnitName:
        found = _UNIT.match(unit)
        if found is None:
            return cls(unit, "", "channel", unit, None)
        return cls(
            unit,
            found["model"] or "",
            found["kind"] or "channel",
            found["layer"],
            int(found["index"]),
            found["source"] or "",
        )

    @property
    def short(self) -> str:
        """The id without the model: what tells units of one run apart."""
        if self.index is None:
            return self.id
        kind = "" if self.kind == "channel" else f"{self.kind}:"
        return f"{kind}{self.layer}:{self.index}" + (f"@{self.source}" if self.source else "")


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


class RunDirectory:
    """Reads a run: its manifest, its units and where its images lie."""

    def __init__(self, root: Path) -> None:
        """Raises: UsageError: If there is no such directory, or it is somebody's own."""
        if not any((root / name).exists() for name in _MARKS):
            raise no_run(root)
        self.root = root
        self.problems: list[str] = []
        self._recorded = self._read(root / "manifest.json", self.problems) or {}
        self.manifest = without_home(self._recorded)
        self.plan = {each["unit"]: each for each in self._planned()}
        self.screening = self._read(root / "screening.json", self.problems) or {}
        self.crosswise = self._read(root / "crosswise.json", self.problems) or {}

    def planned(self, layer: str) -> int:
        """Return how many units of a layer the run has planned."""
        return sum(UnitName.parse(unit).layer == layer for unit in self.plan)

    def slugs(self) -> list[str]:
        """Return the folders of all units that have begun, sorted."""
        try:
            with os.scandir(self.root / "units") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def unit(self, slug: str) -> UnitRecords:
        """Return what is recorded about one unit.

        Raises:
            UsageError: If the run has no such unit.
        """
        folder = self.root / "units" / slug
        if not slug or slug in (".", "..") or "/" in slug or "\\" in slug or not folder.is_dir():
            raise UsageError(f"{self.root} has no unit {slug!r}.", "The folders under units/ are its units.")
        problems: list[str] = []
        done = self._read(folder / "done.json", problems)
        rounds = []
        for expected, path in enumerate(_numbered(folder / "rounds", ""), 1):
            if path.stem != f"{expected:04d}" and not problems:
                problems.append(f"round {expected} is missing before {path.name}")
            if (record := self._read(path, problems)) is not None:
                rounds.append(record)
        failures = [
            r for path in _numbered(folder, "failed-") if (r := self._read(path, problems)) is not None
        ]
        duration = self._read(folder / "duration.json", problems)
        unit = text(mapping(done or (failures[-1] if failures else None)).get("unit")) or self._named(slug)
        seconds = number(mapping(duration).get("seconds"))
        for each in (done, *failures):
            for key in ("facts", "error"):  # what agents wrote stays as it is
                if each is not None and key in each:
                    each[key] = without_home(each[key])
        return UnitRecords(slug, UnitName.parse(unit), done, rounds, failures, seconds, problems)

    def state(self, slug: str) -> str:
        """Return what changes whenever a record of the unit is added.

        Records are written once and never changed, so their folders tell. Their number stands beside the
        date because two records may be added within one tick of the file system's clock.
        """
        folder = self.root / "units" / slug
        return " ".join(_state(each) for each in (folder, folder / "rounds"))

    def plan_state(self) -> str:
        """Return what changes whenever something does that concerns all units."""
        shared = ("manifest.json", "plan.json", "crosswise.json")
        return " ".join(str(_modified(self.root / name)) for name in shared)

    def image(self, image_id: Any) -> tuple[str, ...]:
        """Return the paths below the run directory whose pictures, each laid over the one before, are a stored image.

        One for a picture that is kept whole; of a masked one the picture, then its mask; none if anything is missing.
        An id is a path's part only if it is hexadecimal: records are not trusted to name files.
        """
        layers: list[str] = []
        while isinstance(image_id, str) and _IMAGE_ID.fullmatch(image_id) and len(layers) <= MOST_MASKS:
            whole, mask = Blobs.key(image_id), Blobs.mask_key(image_id)
            if (self.root / whole).is_file():
                return (whole, *reversed(layers))
            try:
                image_id = beneath((self.root / mask).read_bytes())
            except (OSError, ImageDecodeError):
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
        for item in self._load(self.root / "plan.json", list, self.problems) or []:
            if isinstance(item, dict) and isinstance(item.get("unit"), str):
                yield item

    def _read(self, path: Path, problems: list[str]) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._load(path, dict, problems)
        return found

    def _load(self, path: Path, kind: type, problems: list[str]) -> Any:
        """Return a record of that kind, None if there is none; what is wrong with it goes to `problems`."""
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path.relative_to(self.root)} cannot be read: {error}")
            return None
        if not isinstance(content, kind):
            problems.append(
                f"{path.relative_to(self.root)} holds {type(content).__name__}, not {kind.__name__}"
            )
            return None
        return content


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Return the files `<prefix><number>.json` of a folder by number."""
    found = folder.glob(f"{prefix}[0-9]*.json")
    return sorted(found, key=lambda path: (len(path.stem), path.stem))


def _state(folder: Path) -> str:
    try:
        with os.scandir(folder) as entries:
            return f"{_modified(folder)} {sum(1 for _ in entries)}"
    except OSError:
        return "0 0"


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
