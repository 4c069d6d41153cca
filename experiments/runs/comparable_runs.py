"""What earlier runs took: the figures that an estimate uses in place of assumptions.

Runs of another agent predict nothing: only those count whose models, agent settings and confirmation are the
profile's own, and whose agents were asked the same. Runs of the same network come before those of others,
which differ in what they are asked.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.errors import UsageError
from agents.records.manifest import recorded
from agents.records.record_types import Manifest, StudyResult, SurveyRecord, load_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.tasks.bias import AuditClass
from agents.tasks.describe_unit import DescribeUnit
from experiments.records.lookup import finished_studies
from experiments.records.reuse import RequestCount, request_counts
from experiments.runs.assumptions import Assumptions, assumptions_of, parse_assumptions
from experiments.runs.estimate import (
    EXEMPLAR_PASSES,
    RunEstimate,
    confirmation_images,
    estimate,
    held_out_passes,
)
from experiments.setup.config import Profile
from experiments.setup.science import science

_SAME_SETTINGS = ("chat", "interpreter", "confirmation", "generation")
"""Sections of a profile that a study's length and cost depend on."""
_ASSUMED_STUDIES = 4
"""Studies that what is assumed of their spread counts as."""
_TASKS = {task.name: task for task in (DescribeUnit, AuditClass)}
"""Questions that runs are predicted of."""


@dataclass(frozen=True, slots=True)
class PredictedStudies:
    """What is to be predicted: studies of a network, with a profile by its name, that are asked a `task`.

    An empty `model` or `profile` stands for any.
    """

    model: str = ""
    profile: str = ""
    task: str = DescribeUnit.name


@dataclass(frozen=True, slots=True)
class EstimateSources:
    """What an estimate is made from."""

    like: Path | None = None
    """The run to predict from; None takes comparable runs directly below `below`."""
    below: Path = Path("runs")
    assumptions: Sequence[str] = ()
    """NAME=NUMBER texts, which count more than what earlier runs took."""
    cache: Path | None = None
    """May know how many images of the data set are distinct."""


def estimate_run(
    profile: Profile,
    n_studies: int,
    predicted: PredictedStudies | None = None,
    sources: EstimateSources | None = None,
) -> RunEstimate:
    """Return the estimate of a run; `notes` say in what the runs that predict it differ.

    Raises:
        UsageError: If `like` has no finished study, or a text is no assumption.
    """
    predicted, sources = predicted or PredictedStudies(), sources or EstimateSources()
    assumed = for_task(assumptions_of(profile), predicted.task)
    runs = comparable_runs(profile, sources.below, predicted) if sources.like is None else [sources.like]
    if runs:
        assumed = measured(runs, profile, assumed, predicted.task)
    result = estimate(profile, n_studies, parse_assumptions(sources.assumptions, assumed), sources.cache)
    notes = [*differences(runs, predicted), *result.notes]
    return replace(result, like=[str(run) for run in runs], notes=notes)


def comparable_runs(profile: Profile, folder: Path, predicted: PredictedStudies | None = None) -> list[Path]:
    """Return the runs directly below `folder` with finished studies under settings like the profile's, by
    name.

    Where there are such runs of the same network, they alone are returned; among these, and among others,
    those of the profile of the same name.
    """
    settings, predicted = science(profile), predicted or PredictedStudies()
    runs: dict[Path, tuple[bool, bool]] = {}
    for path in sorted(folder.glob("*/manifest.json")):
        run, manifest = path.parent, _manifest(path.parent)
        same = all(manifest.settings.get(key) == settings[key] for key in _SAME_SETTINGS)
        if same and any(_studies(run, predicted.task)):
            runs[run] = (not _other(manifest, predicted, "model"), not _other(manifest, predicted, "profile"))
    nearest = max(runs.values(), default=None)
    return [run for run, nearness in runs.items() if nearness == nearest]


def _other(manifest: Manifest, predicted: PredictedStudies, what: str) -> str:
    """Return the network or profile of a run where it is another than the predicted one, else ""."""
    wanted, recorded = getattr(predicted, what), getattr(manifest, what) or ""
    return recorded if wanted and recorded != wanted else ""


def differences(runs: Sequence[Path], predicted: PredictedStudies) -> list[str]:
    """Return in sentences in what runs differ from what they predict."""
    sentences = []
    for what, name in (("model", "network"), ("profile", "profile")):
        others: dict[str, list[str]] = {}
        for run in runs:
            if other := _other(_manifest(run), predicted, what):
                others.setdefault(other, []).append(str(run))
        sentences += [
            f"predicted from another {name}, {other} ({', '.join(where)}), whose studies may take more or "
            "less"
            for other, where in others.items()
        ]
    return sentences


def _manifest(run: Path) -> Manifest:
    """Return what a run is about, an empty one where that is damaged: it predicts nothing."""
    try:
        return recorded(Store(run))
    except RecordError:
        return Manifest()


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
    rounds = [record.rounds for record in records]
    surveys = _surveys(runs)
    assumed = replace(
        for_task(base, task),
        rounds=statistics.fmean(rounds),
        rounds_spread=_spread(rounds, base.rounds_spread),
        studies=len(records),
        survey_images=statistics.fmean(surveys) if surveys else 0.0,
        images_per_round=sum(record.images_made for record in records) / sum(rounds),
    )
    usages = [record.usage["interpreter"] for record in records if "interpreter" in record.usage]
    if replies := sum(usage.completion_tokens for usage in usages):
        assumed = replace(assumed, reply_tokens=replies / sum(rounds))
    return _from_requests(_requests(runs), sum(rounds), sum(surveys), profile, assumed)


def _spread(rounds: Sequence[float], assumed: float) -> float:
    """Return the standard deviation of rounds, of which few studies say little: six alike do not predict the
    seventh.
    """
    n = len(rounds) - 1
    squares = n * statistics.variance(rounds) if n else 0.0
    return math.sqrt((squares + _ASSUMED_STUDIES * assumed**2) / (n + _ASSUMED_STUDIES))


def for_task(assumed: Assumptions, task: str) -> Assumptions:
    """Return assumptions for studies that are asked a `task`: only a concept's name is examined."""
    known = _TASKS.get(task)
    return assumed if known is None or known.names_concept else replace(assumed, answers=0)


def _surveys(runs: Sequence[Path]) -> list[int]:
    """Return how many images each survey took, of unfinished studies as well: their requests are counted,
    too.
    """
    images = []
    for store in map(Store, runs):
        for folder in store.folders("units"):
            with contextlib.suppress(RecordError):
                if record := load_record(store, f"units/{folder}/survey.json", SurveyRecord):
                    images.append(record.images)
    return images


def _from_requests(
    requests: Mapping[str, RequestCount],
    recorded_rounds: int,
    survey_images: int,
    profile: Profile,
    assumed: Assumptions,
) -> Assumptions:
    """Return the assumptions with what the models were asked, of it `survey_images` of surveys.

    Runs of one study count no requests.
    """
    if not {"observers", "generation", "vision"} <= requests.keys():
        return assumed
    observers, generation, vision = requests["observers"], requests["generation"], requests["vision"]
    # One model in both roles answers through one pool. Counted rounds include those of unfinished studies.
    own = requests.get("interpreter")
    rounds = own.asked if own else recorded_rounds
    studies = rounds / assumed.rounds
    fresh, witnessed = confirmation_images(profile, assumed)
    descriptions = (observers.asked - (0 if own else rounds)) / studies
    images = generation.asked / studies
    ran = max(vision.asked - vision.reused - held_out_passes(profile), 0) / studies
    assumed = replace(
        assumed,
        descriptions_per_round=max(descriptions - witnessed, 0.0) / assumed.rounds,
        # An agent is shown nothing of a survey, which would else be paid for again with every round after.
        images_per_round=max(images - survey_images / studies - fresh, 0.0) / assumed.rounds,
        passes_per_image=max(ran - EXEMPLAR_PASSES, 0.0) / max(images, 1.0),
    )
    seconds = {
        "interpreter_latency_s": _seconds_per_request(own or observers),
        "observer_latency_s": _seconds_per_request(observers),
        "seconds_per_image": _seconds_per_request(generation),
        "seconds_per_pass": _seconds_per_request(vision),
    }
    return replace(assumed, **{name: value for name, value in seconds.items() if value is not None})


def _seconds_per_request(count: RequestCount) -> float | None:
    """Return the seconds of a device for a request that needed work, None if they were not counted."""
    worked = count.asked - count.reused
    return count.busy_s / worked if worked > 0 and count.busy_s > 0 else None


def _requests(runs: Sequence[Path]) -> dict[str, RequestCount]:
    total: dict[str, RequestCount] = {}
    for run in runs:
        for role, count in request_counts(Store(run)).items():
            total[role] = total.get(role, RequestCount()) + count
    return total


def _studies(run: Path, task: str) -> Iterator[StudyResult]:
    """Yield the results of a run that one agent came to by itself."""
    for record in finished_studies(Store(run), []):
        by_others = str(record.facts.get("interpreter")).startswith(("person:", "mcp:"))
        if record.rounds and record.task == task and not by_others and not record.repeats:
            yield record
