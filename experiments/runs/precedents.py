"""What earlier runs took: the figures that an estimate uses in place of assumptions.

Runs of another agent predict nothing: only those count whose models, agent settings and confirmation are the
profile's own, and whose agents were asked the same. Runs of the same network come before those of others,
which differ in what they are asked.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from agents.records.manifest import recorded
from agents.records.record_types import SurveyRecord, read_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.tasks.bias import AuditClass
from agents.tasks.describe_unit import DescribeUnit
from experiments.records.lookup import finished_studies
from experiments.records.reuse import counts
from experiments.runs.estimate import FRESH_LOOKS, Assumptions, confirmation, held_back_passes
from experiments.setup.config import Profile
from experiments.setup.science import science

_ALIKE = ("chat", "interpreter", "confirmation", "generation")
"""Sections of a profile that a study's length and cost depend on."""
_ASSUMED_STUDIES = 4
"""Studies that what is assumed of their spread counts as."""
_TASKS = {task.name: task for task in (DescribeUnit, AuditClass)}
"""Questions that runs are predicted of."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be predicted: studies of a network, with a profile by its name, that are asked a `task`.

    An empty `model` or `profile` stands for any.
    """

    model: str = ""
    profile: str = ""
    task: str = DescribeUnit.name


def precedents(profile: Profile, folder: Path, wanted: Wanted | None = None) -> list[Path]:
    """Return the runs directly below `folder` with finished studies under settings like the profile's, by
    name.

    Where there are such runs of the same network, they alone are returned; among these, and among others,
    those of the profile of the same name.
    """
    settings, wanted = science(profile), wanted or Wanted()

    def alike(manifest: dict[str, Any]) -> bool:
        recorded = manifest.get("settings")
        return isinstance(recorded, dict) and all(recorded.get(key) == settings[key] for key in _ALIKE)

    found = [
        (path.parent, _nearness(manifest, wanted))
        for path in sorted(folder.glob("*/manifest.json"))
        if alike(manifest := _manifest(path.parent)) and any(_studies(path.parent, wanted.task))
    ]
    nearest = max((near for _, near in found), default=None)
    return [run for run, near in found if near == nearest]


def _nearness(manifest: dict[str, Any], wanted: Wanted) -> tuple[bool, bool]:
    return not _other(manifest, wanted, "model"), not _other(manifest, wanted, "profile")


def _other(manifest: dict[str, Any], wanted: Wanted, what: str) -> str:
    """Return the network or profile of a run where it is another than what is wanted, else ""."""
    asked, recorded = getattr(wanted, what), str(manifest.get(what) or "")
    return recorded if asked and recorded != asked else ""


def differences(runs: Sequence[Path], wanted: Wanted) -> list[str]:
    """Return in sentences in what runs differ from what they predict."""
    told = []
    for what, name in (("model", "network"), ("profile", "profile")):
        others: dict[str, list[str]] = {}
        for run in runs:
            if other := _other(_manifest(run), wanted, what):
                others.setdefault(other, []).append(str(run))
        told += [
            f"predicted from another {name}, {other} ({', '.join(where)}), whose studies may take more or "
            "less"
            for other, where in others.items()
        ]
    return told


def _manifest(run: Path) -> dict[str, Any]:
    """Return what a run is about, nothing where that is damaged: it tells nothing of the next run."""
    try:
        return recorded(Store(run))
    except RecordError:
        return {}


def measured(
    runs: Sequence[Path], profile: Profile, base: Assumptions, task: str = DescribeUnit.name
) -> Assumptions:
    """Return `base` with what the finished studies of earlier runs took in place of what was assumed.

    Raises:
        UsageError: If no study of the task is finished in any of them.
    """
    records = [record for run in runs for record in _studies(run, task)]
    if not records:
        named = " and ".join(map(str, runs))
        raise UsageError(
            f"{named} holds no finished study of the kind that is predicted ({task}).",
            "Name the --out folder of an earlier run.",
        )
    rounds = [record["rounds"] for record in records]
    surveys = _surveys(runs)
    found = replace(
        suited(base, task),
        rounds=statistics.fmean(rounds),
        rounds_spread=_spread(rounds, base.rounds_spread),
        studies=len(records),
        images_beforehand=statistics.fmean(surveys) if surveys else 0.0,
        images_a_round=sum(record.get("images_made", 0) for record in records) / sum(rounds),
    )
    usages = (record.get("usage", {}).get("interpreter", {}) for record in records)
    replies = sum(usage.get("completion_tokens", 0) for usage in usages)
    if replies:
        found = replace(found, reply_tokens=replies / sum(rounds))
    return _from_requests(_requests(runs), sum(rounds), sum(surveys), profile, found)


def _spread(rounds: Sequence[float], assumed: float) -> float:
    """Return the standard deviation of rounds, of which few studies tell little: six alike say nothing of the
    seventh.
    """
    n = len(rounds) - 1
    told = n * statistics.variance(rounds) if n else 0.0
    return math.sqrt((told + _ASSUMED_STUDIES * assumed**2) / (n + _ASSUMED_STUDIES))


def suited(assumed: Assumptions, task: str) -> Assumptions:
    """Return assumptions for studies that are asked a `task`: only a concept's name is examined."""
    known = _TASKS.get(task)
    return assumed if known is None or known.names_concept else replace(assumed, answers=0)


def _surveys(runs: Sequence[Path]) -> list[int]:
    """Return how many images each survey took, of unfinished studies as well: their requests are counted,
    too.
    """
    found = []
    for store in map(Store, runs):
        for folder in store.folders("units"):
            with contextlib.suppress(RecordError):
                if record := read_record(store, f"units/{folder}/survey.json", SurveyRecord):
                    found.append(record["images"])
    return found


def _from_requests(
    asked: dict[str, dict[str, float]],
    recorded_rounds: int,
    surveyed: int,
    profile: Profile,
    found: Assumptions,
) -> Assumptions:
    """Return the assumptions with what the models were asked, of it `surveyed` images of surveys.

    Runs of one study count no requests.
    """
    if not {"observers", "generation", "vision"} <= asked.keys():
        return found
    observers, generation, vision = asked["observers"], asked["generation"], asked["vision"]
    # One model in both roles answers through one pool. Counted rounds include those of unfinished studies.
    own = asked.get("interpreter")
    rounds = own["asked"] if own else recorded_rounds
    studies = rounds / found.rounds
    fresh, witnessed = confirmation(profile, found)
    looks = (observers["asked"] - (0 if own else rounds)) / studies
    images = generation["asked"] / studies
    ran = max(vision["asked"] - vision["reused"] - held_back_passes(profile), 0) / studies
    found = replace(
        found,
        looks_a_round=max(looks - witnessed, 0.0) / found.rounds,
        # An agent is shown nothing of a survey, which would else be paid for again with every round after.
        images_a_round=max(images - surveyed / studies - fresh, 0.0) / found.rounds,
        passes_an_image=max(ran - FRESH_LOOKS, 0.0) / max(images, 1.0),
    )
    seconds = {
        "seconds_a_reply": _each(own or observers),
        "seconds_a_look": _each(observers),
        "seconds_an_image": _each(generation),
        "seconds_a_pass": _each(vision),
    }
    return replace(found, **{name: value for name, value in seconds.items() if value is not None})


def _each(counted: dict[str, float]) -> float | None:
    """Return the seconds of a device for a request that needed work, None if nobody counted."""
    worked = counted["asked"] - counted["reused"]
    return counted["busy_s"] / worked if worked > 0 and counted["busy_s"] > 0 else None


def _requests(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    total: dict[str, dict[str, float]] = {}
    for run in runs:
        for role, each in counts(Store(run)).items():
            sums = total.setdefault(role, dict.fromkeys(each, 0.0))
            for key, value in each.items():
                sums[key] += value
    return total


def _studies(run: Path, task: str) -> Iterator[dict[str, Any]]:
    """Yield the results of a run that one agent came to by itself."""
    for record in finished_studies(Store(run), []):
        by_person = str(record.get("facts", {}).get("interpreter")).startswith("person:")
        several = bool(record.get("repeats"))
        if record.get("rounds") and record.get("task", task) == task and not by_person and not several:
            yield record
