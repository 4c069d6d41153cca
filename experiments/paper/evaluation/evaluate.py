"""`maia evaluate DIR`: how well the labels of a run predict its units (MAIA 4.1, Table A3), with the
paper's figures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from actors.chat.settings import BuiltinChat
from actors.errors import MaiaError, UsageError
from actors.grouping import task_group
from actors.images import Image
from actors.vision.data.held_out import split
from agents.critic.witness import Witness
from agents.records.journal import slug
from agents.records.manifest import check_studied
from agents.records.record_types import EvaluationRow, Manifest, load_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.study.faults import CONCERNS_ALL
from experiments.paper.evaluation.page import EvaluationResult, page
from experiments.paper.evaluation.predictive import Evaluation, compare
from experiments.paper.evaluation.prompts import ChatPromptWriter, PromptWriter, TemplatePromptWriter
from experiments.paper.evaluation.run_labels import LabeledUnit, gather, left_out, manifest_of, with_null
from experiments.paper.evaluation.summary import EvaluatedRow, summarize
from experiments.paper.gym.neurons import choose
from experiments.records.trust import Trust, network_of, selected_for, units_of
from experiments.setup.console import Console
from experiments.setup.science import science
from experiments.setup.selection import Selection
from experiments.setup.workbench import Workbench
from tools.subject import Subject

MAX_CONCURRENT = 4
"""Units that are measured at the same time."""

SubjectFinder = Callable[[LabeledUnit], Awaitable[Subject]]


@dataclass(frozen=True)
class Sizes:
    """How many images: data-set controls, and CoSy's of each label."""

    controls: int = 60
    cosy: int = 20


@dataclass(frozen=True)
class EvaluationRequest:
    """What a command line asks for.

    `against` are other runs of the same units, or JSON files of labels by unit id or `layer:number`.
    """

    run: Path
    against: Mapping[str, Path] = field(default_factory=dict)
    limit: int | None = None
    """At most so many units."""
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    model: str | None = None
    """The run's network, named again."""
    trust: Trust = field(default_factory=Trust)


async def evaluate(console: Console, selection: Selection, request: EvaluationRequest) -> EvaluationResult:
    """Measure the labels of a run and of other methods, write `evaluation.json` and a page into it, and
    return the result. What was measured already is read.

    Raises:
        UsageError: If the run has no labels, or another method has none for its units.
    """
    run, seed = request.run, request.seed
    manifest = manifest_of(run)
    selected = selected_for(manifest, selection, request.trust)
    profile, cache = selected.profile, selected.cache
    labeled = gather(run, request.against)
    omitted = left_out(run, labeled)
    for line in omitted:
        console.say(line)
    units = with_null(labeled[: request.limit], seed)
    if not units:
        raise UsageError(
            f"{run} has no labels to evaluate.",
            "Units get labels by `maia describe`, `sweep` and `synthetic`.",
        )
    store = Store.open(run)
    synthetic = manifest.model == "synthetic"
    network = None if synthetic else network_of(manifest, request.model, request.trust)
    units_of(((unit.layer, unit.name) for unit in units), request.trust)
    async with Workbench.open(profile, cache=cache, model=network, notify=console.say) as bench:
        # Labels of other weights predict nothing about these.
        check_studied(store, bench.context.facts, ("network",))
        subject_of = await subjects(bench, cache, manifest)
        evaluation = await prepare(bench, request.sizes, seed)
        rows = await measure(console, evaluation, units, subject_of, store)
    writer = evaluation.writer.name
    result = EvaluationResult(manifest.model, writer, seed, omitted, rows, summarize(rows))
    store.replace_json("evaluation.json", result)
    page(result).save(run, "evaluation")
    return result


async def subjects(bench: Workbench, cache: Path, manifest: Manifest) -> SubjectFinder:
    """Return a function that finds the subject of a unit of a run: of a network, or of the gym."""
    if bench.network is not None:

        async def of_network(unit: LabeledUnit) -> Subject:
            return await bench.subject(unit.layer, unit.name)

        return of_network
    from experiments.paper.gym.opening import open_gym

    assert bench.detector is not None, "a set-up without a network has the concept detector"
    units = [unit for name in manifest.units for unit in choose(name)]
    gym, _ = open_gym(bench.detector, bench.profile, cache, manifest.seed, units)
    known = {gym.subject(unit).id: unit for unit in units}

    async def of_gym(unit: LabeledUnit) -> Subject:
        return gym.subject(known[unit.unit])

    return of_gym


async def prepare(bench: Workbench, sizes: Sizes, seed: int) -> Evaluation:
    """Return the parties of an evaluation: the observers' model writes the prompts if it is a language
    model.
    """
    roles = bench.profile.chat
    observers = bench.context.observers
    made_by = (await bench.pools["generation"].describe()).backend
    measured_with = {
        "by": {role: bench.context.facts.get(role) for role in ("network", "generator", "observers")},
        # Of its facts those that decide images: others count what the generator has done so far.
        "made by": {
            maker: [made_by[maker].get("model"), made_by[maker].get("settings")]
            for maker in ("generator", "editor")
            if maker in made_by
        },
        "science": science(bench.profile),
    }
    stand_in = isinstance(roles.observers or roles.interpreter, BuiltinChat)
    writer: PromptWriter = TemplatePromptWriter(seed) if stand_in else ChatPromptWriter(observers, seed=seed)
    return Evaluation(
        bench.context.studio,
        writer,
        Witness(observers, seed=seed),
        await asyncio.to_thread(_controls, bench, sizes.controls, seed),
        sizes.cosy,
        seed,
        measured_with,
    )


def _controls(bench: Workbench, count: int, seed: int) -> list[Image]:
    """Return images of the held-out part of the data set, which no agent has seen."""
    explored, held_out = split(bench.dataset, bench.profile.vision.held_out)
    pool = held_out if len(held_out) >= 2 else explored
    chosen = np.random.default_rng((seed, 89)).permutation(pool)
    images: list[Image] = []
    for index in chosen:
        if len(images) == count:
            break
        try:
            images.append(bench.dataset.load(int(index)))
        except MaiaError:
            continue
    return images


def _read_row(store: Store, key: str) -> EvaluatedRow | None:
    """Return what was measured before; a damaged record is measured again, though it stays."""
    try:
        record = load_record(store, key, EvaluationRow)
        return None if record is None else record.to_json()
    except RecordError:
        return None


def _key(evaluation: Evaluation, unit: LabeledUnit) -> str:
    """Return the key of a unit's row: another label, seed, image or model is another measurement."""
    facts = [unit.labels, evaluation.writer.name, evaluation.cosy, evaluation.seed]
    facts += [[image.id for image in evaluation.controls], evaluation.facts]
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=6).hexdigest()
    return f"evaluation/{slug(unit.unit)}-{digest}.json"


async def measure(
    console: Console,
    evaluation: Evaluation,
    units: Sequence[LabeledUnit],
    subject_of: SubjectFinder,
    store: Store,
) -> list[EvaluatedRow]:
    """Return a row per unit, from the store where it was measured before; a failure is a row that says so."""
    rows: dict[str, EvaluatedRow] = {}
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT)

    async def measure_one(unit: LabeledUnit) -> None:
        async with limiter:
            key = _key(evaluation, unit)
            if (known := await asyncio.to_thread(_read_row, store, key)) is not None:
                rows[unit.unit] = known
                return
            row: dict[str, Any] = {"unit": unit.unit, "layer": unit.layer, "labels": unit.labels}
            try:
                row |= asdict(await compare(evaluation, await subject_of(unit), unit.labels))
            except CONCERNS_ALL:
                raise
            except MaiaError as error:
                # On record for this run, and tried again by the next.
                rows[unit.unit] = row | {"error": {"type": type(error).__name__, "message": str(error)}}
                console.warn(f"{unit.unit}: {error}")
                return
            await asyncio.to_thread(store.put, key, json.dumps(row, ensure_ascii=False).encode())
            rows[unit.unit] = row
            console.say(f"{len(rows)} of {len(units)} evaluated: {unit.unit}")

    async with task_group() as group:
        for unit in units:
            group.create_task(measure_one(unit))
    return [rows[unit.unit] for unit in units]
