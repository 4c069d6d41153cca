"""`maia synthetic`: describe units whose truth is known, and count how often the system is right (MAIA
4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actors.embedded.drawing.withheld import Withheld
from agents.evidence.verdict import is_confirmed, verdict_of
from agents.records.journal import Journal
from agents.records.label_card import kind_of
from agents.records.record_types import Manifest, RoundRecord, StudyResult
from agents.records.store import Store
from agents.study.study import RunContext, StudyRequest
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.gym.drawn import reachable
from experiments.paper.gym.neurons import GymUnit, choose, table_a4
from experiments.paper.gym.opening import lacked, open_gym, studied, without
from experiments.paper.gym.score import named_by, same, score, senses
from experiments.paper.gym.subjects import Gym
from experiments.paper.study_units import study_units
from experiments.paper.synthetic_summary import (
    FirstRight,
    NeuronRow,
    OneShotLabel,
    SyntheticResult,
    summarize,
)
from experiments.paper.variants import FULL, ONE_SHOT
from experiments.setup.config import Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import claim_run, open_run
from experiments.setup.selection import Selection
from experiments.setup.workbench import Workbench
from tools.synthetic import ConceptDetector


@dataclass(frozen=True)
class SyntheticRequest:
    """What a command line asks for."""

    units: str = "all"
    seed: int = 0
    baseline: bool = True
    """Also label from one look at the exemplars."""
    limit: int | None = None
    withheld: float = 0.0
    """Share of the embedded vocabulary that image maker and models lack."""


@dataclass(frozen=True)
class GymContext:
    """Where synthetic neurons are studied: the models of a profile, with the detector that the neurons are
    made of.
    """

    context: RunContext
    detector: ConceptDetector
    profile: Profile
    cache: Path


@dataclass(frozen=True)
class NeuronRun:
    """Which neurons a run directory is about."""

    store: Store
    manifest: Manifest
    units: Sequence[GymUnit]
    seed: int = 0
    baseline: bool = True


async def describe_synthetic(
    console: Console, selection: Selection, request: SyntheticRequest, *, out: Path
) -> SyntheticResult:
    """Study the units, score their labels and write `synthetic.json` into `out`; an existing run is resumed.

    Raises:
        UsageError: If no unit can be studied with this profile's detector, or `out` is another run.
    """
    selected = selection.load()
    withheld = Withheld(share=request.withheld, seed=request.seed)
    selected = replace(selected, profile=without(selected.profile, withheld))
    profile, cache = selected.profile, selected.cache
    units = choose(request.units)[: request.limit]
    names = [unit.name for unit in units]
    manifest = selected.manifest("synthetic", model="synthetic", units=names, seed=request.seed)
    store = open_run(profile.dataset, out, manifest)
    run = NeuronRun(store, manifest, units, request.seed, request.baseline)
    async with Workbench.open(profile, cache=cache, model=None, notify=console.say) as bench:
        assert bench.detector is not None, "a set-up without a network has the concept detector"
        return await study_neurons(console, GymContext(bench.context, bench.detector, profile, cache), run)


async def study_neurons(console: Console, gym_context: GymContext, run: NeuronRun) -> SyntheticResult:
    """Study the neurons of a run in this context; as `describe_synthetic`."""
    profile, store = gym_context.profile, run.store
    gym, fingerprint = open_gym(gym_context.detector, profile, gym_context.cache, run.seed, run.units)
    known, unknown = await studied(gym, run.units)
    facts = {**gym_context.context.facts, "dataset": fingerprint}
    claim_run(store, run.manifest, facts)
    for name, reason in unknown.items():
        console.say(f"left out: {name}: {reason}")
    console.say(f"searching the data set for the concepts of {len(known)} units")
    with console.progress("data set") as progress:
        await gym.prepare(known, progress)
    context = replace(gym_context.context, facts=facts)
    rows = await _study_and_score(console, context, gym, known, run)
    lacking = lacked(profile)
    rows = [replace(row, reachable=reachable(unit, lacking)) for unit, row in zip(known, rows, strict=True)]
    result = SyntheticResult(facts, run.seed, unknown, coverage(known), rows, summarize(rows))
    store.replace_json("synthetic.json", result)
    return result


async def _study_and_score(
    console: Console, context: RunContext, gym: Gym, units: Sequence[GymUnit], run: NeuronRun
) -> list[NeuronRow]:
    store = run.store
    requests = {unit.name: StudyRequest(gym.subject(unit), DescribeUnit(), run.seed) for unit in units}
    records = await study_units(console, FULL, context, requests, store)
    baselines: dict[str, StudyResult] = {}
    if run.baseline:
        meaningful = {unit.name: requests[unit.name] for unit in units if unit.formula is not None}
        folder = store.below(f"baselines/{ONE_SHOT.name}")
        baselines = await study_units(console, ONE_SHOT, context, meaningful, folder)
    return [_row(unit, records[unit.name], baselines.get(unit.name), store) for unit in units]


def _row(unit: GymUnit, record: StudyResult, baseline: StudyResult | None, store: Store) -> NeuronRow:
    """Return a unit's truth, its label and how right this is."""
    values, ended = record.to_json(), record.status != "failed"
    one_shot = None
    if baseline is not None:
        one_shot = OneShotLabel(labels=baseline.labels, **asdict(score(unit, baseline.labels)))
    return NeuronRow(
        unit=record.unit,
        kind=unit.kind,
        truth=unit.name,
        status=record.status,
        labels=record.labels,
        confirmed=is_confirmed(values),
        verdict=verdict_of(values),
        found_kind=kind_of(values),
        e_value=None if record.evidence is None else record.evidence.e_value_corrected,
        rounds=record.rounds if ended else None,
        images=record.images_made if ended else None,
        first_right=first_right(unit, Journal(store, record.unit).rounds()),
        one_shot=one_shot,
        **asdict(score(unit, record.labels)),
    )


def first_right(unit: GymUnit, rounds: Sequence[RoundRecord]) -> FirstRight | None:
    """Return the round, and the images made by then, in which the leading hypothesis first named the truth
    alone.
    """
    if unit.formula is None:
        return None
    truth = [sense for concept in unit.formula.concepts for sense in senses(concept)[-1:]]
    for record in rounds:
        named = [sense for sense in named_by(record.hypotheses[:1]) if not sense <= {"unit", "driven"}]
        if (
            named
            and all(any(same(sense, other) for other in truth) for sense in named)
            and all(any(same(sense, other) for other in named) for sense in truth)
        ):
            return FirstRight(record.round, record.toolbox.images_made)
    return None


def coverage(known: Sequence[GymUnit]) -> dict[str, int]:
    """Return how many of the neurons of Table A4 are among the units that can be studied."""
    printed = table_a4()
    return {"studied": len(set(printed) & set(known)), "printed": len(printed)}
