"""`maia replay`: recorded units again, offline. `maia branch`: another way on from one of its rounds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from actors.errors import UsageError
from agents.records.journal import Journal, repeats_of
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import check_studied
from agents.records.record_types import Manifest, PoolingRecord, StudyResult, load_record
from agents.records.run_files import RecordError, damaged
from agents.records.store import Store
from agents.records.work import build_task, write_plan
from agents.repeats.pooling import ROLE, NoSandboxes, PooledTask, limits
from agents.repeats.repeated_study import pooling_key, seed_of
from agents.study.replay import DivergedError, RecordedStudy, Replay, replay, take_over
from agents.study.settings import InterpreterSettings
from agents.study.study import StudyRequest, Supervision, study
from experiments.records.lookup import RecordedUnit, find_unit, find_units
from experiments.records.trust import Trust, network_of, sandbox_of, selected_for, units_of
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_folder, claim_run, open_run
from experiments.setup.selection import Selected, Selection
from tools import sandbox
from tools.sandbox import SandboxServer, api_page

_MAX_TEXT_SHOWN = 10_000_000
_MAX_IMAGES_SHOWN = 10_000


@dataclass(frozen=True, slots=True)
class UnitReplay:
    """How a recorded unit came out when it was played again."""

    unit: str
    rounds: int
    recorded: int
    taken_over: int
    """Rounds that a branch took over from another run, which are not played."""
    divergence: str | None
    """The first difference, None if there is none."""
    reworded: bool
    """Whether the API page or the task was worded otherwise when it was recorded."""


async def replay_units(console: Console, path: Path, selection: Selection) -> list[UnitReplay]:
    """Play the recorded unit that `path` names again, or all that agents studied in a run; return where each
    diverged.

    The sandbox is the profile's; the record can only lower its limits.

    Raises:
        UsageError: If there is no such run or unit, or no agent was asked about it.
    """
    units = [
        unit for unit in find_units(path) if unit.item.task and Journal(unit.store, unit.item.unit).rounds()
    ]
    if not units:
        raise _no_rounds(path)
    own = selection.load().profile.sandbox
    settings, higher = sandbox_of(units[0].manifest, own)
    for sentence in higher:
        console.say(sentence)
    played = []
    async with await sandbox.start(settings) as sandboxes:
        for unit in units:
            if len(units) > 1:
                console.say(unit.item.unit)
            try:
                played.append(await _replay(console, unit, sandboxes))
            except (RecordError, DivergedError) as error:
                if len(units) == 1:
                    raise
                played.append(_unit_replay(unit, Replay(0, 0, str(error)), 0))
    return played


async def _replay(console: Console, unit: RecordedUnit, sandboxes: SandboxServer) -> UnitReplay:
    taken_over = unit.manifest.from_round - 1
    played = Replay(0, 0)
    for recorded in _studies(unit, sandboxes):
        which = f"study {recorded.journal.repeat}, " if recorded.journal.repeat else ""

        def on_round(number: int, which: str = which) -> None:
            console.say(f"{which}round {number}: as on record")

        with tempfile.TemporaryDirectory(prefix="maia-replay-") as scratch:
            outcome = await replay(
                recorded,
                Path(scratch),
                taken_over=taken_over,
                on_round=on_round,
            )
        played = Replay(
            played.rounds + outcome.rounds,
            played.recorded + outcome.recorded,
            played.divergence or (outcome.divergence and which + outcome.divergence),
            played.reworded or outcome.reworded,
        )
    return _unit_replay(unit, played, taken_over)


def _studies(unit: RecordedUnit, sandboxes: SandboxServer) -> list[RecordedStudy]:
    """Return what there is to play of a unit: its study, or several and the answer pooled from them."""
    task, settings, seed = build_task(unit.item), _interpreter_settings(unit), unit.item.seed
    page = api_page(sandboxes.dialect, settings.interventions)
    own = Journal(unit.store, unit.item.unit)
    repeats = repeats_of(unit.store, unit.item.unit)
    if not repeats:
        return [RecordedStudy(own, task, sandboxes, page, settings, seed)]
    studies = [
        RecordedStudy(journal, task, sandboxes, page, settings, seed_of(seed, journal.repeat))
        for journal in repeats
    ]
    if (known := load_record(unit.store, pooling_key(own), PoolingRecord)) is not None:
        pooled = PooledTask(task, known.evidence)
        studies.append(RecordedStudy(own, pooled, NoSandboxes(), ROLE, limits(settings), seed_of(seed, 0)))
    return studies


def _unit_replay(unit: RecordedUnit, outcome: Replay, taken_over: int) -> UnitReplay:
    return UnitReplay(unit.item.unit, taken_over=taken_over, **asdict(outcome))


def _interpreter_settings(unit: RecordedUnit) -> InterpreterSettings:
    """Return the recorded limits of the study; what a round may show has bounds whatever the record says."""
    recorded = unit.manifest.settings.get("interpreter", {})
    if isinstance(recorded, dict):
        recorded = {"max_interventions": 0, **recorded}  # earlier versions had none
    try:
        settings = InterpreterSettings.model_validate(recorded)
    except ValidationError as error:
        raise damaged(unit.store.root / MANIFEST, error) from error
    return settings.model_copy(
        update={
            "max_text_shown": min(settings.max_text_shown, _MAX_TEXT_SHOWN),
            "max_images_shown": min(settings.max_images_shown, _MAX_IMAGES_SHOWN),
        }
    )


def _studied(path: Path) -> RecordedUnit:
    """Return the recorded unit that `path` names.

    Raises:
        UsageError: If there is none, or no agent was asked about it.
    """
    unit = find_unit(path)
    if not unit.item.task:
        raise _no_rounds(path)
    if repeats_of(unit.store, unit.item.unit):
        raise UsageError(
            f"{unit.item.unit} was studied several times, and a branch continues one study.",
            "Study it once (maia describe without --repeat), and branch from that.",
        )
    return unit


def _no_rounds(path: Path) -> UsageError:
    return UsageError(
        f"there are no rounds in {path}: no agent has studied it, or none has finished a round yet.",
        "Name a unit that an agent has studied, or play it again later.",
    )


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """A recorded unit, and the round from which it is to be studied in another way."""

    path: Path
    """A unit of a run, as DIR/UNIT."""
    from_round: int
    """The first round that is not taken over."""
    out: Path
    seed: int | None = None
    """None keeps the recorded one."""
    model: str | None = None
    """The run's network, named again."""


@dataclass(frozen=True, slots=True)
class BranchedUnit:
    """The result of a branch, and its report."""

    result: StudyResult
    report: Path

    def to_json(self) -> dict[str, Any]:
        return self.result.to_json() | {"report": str(self.report)}


async def branch(
    console: Console, selection: Selection, request: BranchRequest, trust: Trust | None = None
) -> BranchedUnit:
    """Take over the rounds before `from_round` and continue in a new run, with another profile or seed where
    they are named.

    What a run names of this machine must be named again by `model`, or agreed to by `trust`.

    Raises:
        UsageError: If there is no such unit or round, or the directory belongs to another run.
    """
    unit = _studied(request.path)
    item = unit.item
    records = Journal(unit.store, item.unit).rounds()
    if not 1 <= request.from_round <= len(records):
        raise UsageError(
            f"{item.unit} has rounds 1 to {len(records)}, got {request.from_round}.", "Correct --from-round."
        )
    trust = trust or Trust()
    selected = selected_for(unit.manifest, selection, trust)
    check_output_folder(selected.profile.dataset, request.out)
    network = network_of(unit.manifest, request.model, trust)
    units_of([(item.layer, item.name)], trust)
    manifest = selected.manifest(
        "branch",
        model=network,
        layer=item.layer,
        unit=item.name,
        units=[item.unit],
        of=str(unit.store.root.resolve()),
        from_round=request.from_round,
        seed=item.seed if request.seed is None else request.seed,
    )
    store = open_run(selected.profile.dataset, request.out, manifest)
    return await _continue(console, selected, unit, store, manifest)


async def _continue(
    console: Console, selected: Selected, unit: RecordedUnit, store: Store, manifest: Manifest
) -> BranchedUnit:
    """Take over the rounds, study the unit from there, and write the report."""
    from experiments.atlas.front_page import write_report
    from experiments.setup.workbench import Workbench

    item, source = unit.item, Journal(unit.store, unit.item.unit)
    records = source.rounds()[: manifest.from_round - 1]
    async with Workbench.open(
        selected.profile, cache=selected.cache, model=manifest.model, notify=console.say
    ) as bench:
        subject = await bench.subject(item.layer, item.name)
        if subject.id != item.unit:
            raise UsageError(f"the profile's network calls this unit {subject.id}, not {item.unit}.")
        facts = bench.context.facts
        if records:
            _check_same_network(unit.store, facts, manifest.from_round)
        claim_run(store, manifest, facts)
        write_plan(store, [replace(item, seed=manifest.seed)])
        await asyncio.to_thread(take_over, source, Journal(store, item.unit), records)
        console.say(f"took over {len(records)} rounds, continuing from round {manifest.from_round}")
        result = await study(
            bench.context,
            StudyRequest(subject, build_task(item), manifest.seed),
            store,
            Supervision(on_round=lambda number, finished: console.say(f"round {finished.number}")),
        )
    return BranchedUnit(result, write_report(store.root))


def _check_same_network(source: Store, facts: Mapping[str, Any], from_round: int) -> None:
    """Refuse a network other than the one that the recorded rounds measured; images may come from elsewhere.

    Raises:
        UsageError: If it is another.
    """
    try:
        check_studied(source, facts, ("network",))
    except UsageError as error:
        raise UsageError(
            f"the rounds before round {from_round} were measured in another network. {error.message}",
            "Branch with the weights, modules and preprocessing that they were measured in.",
        ) from None
