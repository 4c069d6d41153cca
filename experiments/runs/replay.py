"""`maia replay`: recorded units again, offline. `maia branch`: another way on from one of its rounds."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from actors.errors import UsageError
from agents.records.journal import Journal, repeats_of
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import check, check_studied, claim, claim_studied
from agents.records.record_types import PoolingRecord, read_record
from agents.records.run_files import RecordError, damaged
from agents.records.store import Store
from agents.records.work import build_task, write_plan
from agents.repeats.pooling import ROLE, NoSandboxes, PooledTask, limits
from agents.repeats.repeated_study import pooling_key, seed_of
from agents.study.interpreter import InterpreterSettings
from agents.study.replay import DivergedError, Replay, Sandboxes, replay, take_over
from agents.study.study import study
from agents.tasks.base import Task
from experiments.records.lookup import RecordedUnit, find_unit, find_units
from experiments.records.trust import Trust, network_of, sandbox_of, units_of
from experiments.setup import config as configuration
from experiments.setup.config import Profile
from experiments.setup.console import Console
from experiments.setup.preflight import check_out
from experiments.setup.science import science
from tools import sandbox
from tools.sandbox import SandboxServer, api_page

_MAX_TEXT_SHOWN = 10_000_000
_MAX_IMAGES_SHOWN = 10_000


async def replay_units(
    console: Console, path: Path, *, config: Path | None = None, profile_name: str | None = None
) -> list[dict[str, Any]]:
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
    own = configuration.load(config).profile(profile_name).sandbox
    settings, higher = sandbox_of(units[0].manifest, own)
    for each in higher:
        console.say(each)
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
                played.append(_as_json(unit, Replay(0, 0, str(error)), 0))
    return played


async def _replay(console: Console, unit: RecordedUnit, sandboxes: SandboxServer) -> dict[str, Any]:
    taken_over = unit.manifest.get("from_round", 1) - 1
    played = Replay(0, 0)
    for each in _studies(unit, sandboxes):
        which = f"study {each.repeat}, " if each.repeat else ""
        with tempfile.TemporaryDirectory(prefix="maia-replay-") as scratch:
            outcome = await replay(
                unit.store,
                unit.item.unit,
                each.task,
                each.sandboxes,
                Path(scratch),
                api_page=each.api_page,
                settings=each.settings,
                seed=each.seed,
                taken_over=taken_over,
                repeat=each.repeat,
                on_round=lambda number, which=which: console.say(f"{which}round {number}: as on record"),  # type: ignore[misc]
            )
        played = Replay(
            played.rounds + outcome.rounds,
            played.recorded + outcome.recorded,
            played.divergence or (outcome.divergence and which + outcome.divergence),
            played.reworded or outcome.reworded,
        )
    return _as_json(unit, played, taken_over)


def _studies(unit: RecordedUnit, sandboxes: SandboxServer) -> list[_Study]:
    """Return what there is to play of a unit: its study, or several and the answer that was pooled from them."""
    task, settings, seed = build_task(unit.item), _interpreter_settings(unit), unit.item.seed
    numbers = [journal.repeat for journal in repeats_of(unit.store, unit.item.unit)]
    if not numbers:
        return [_Study(0, task, seed, api_page(), settings, sandboxes)]
    found = [_Study(n, task, seed_of(seed, n), api_page(), settings, sandboxes) for n in numbers]
    key = pooling_key(Journal(unit.store, unit.item.unit))
    if (known := read_record(unit.store, key, PoolingRecord)) is not None:
        pooled = PooledTask(task, known["evidence"])
        found.append(_Study(0, pooled, seed_of(seed, 0), ROLE, limits(settings), NoSandboxes()))
    return found


@dataclass(frozen=True, slots=True)
class _Study:
    """One conversation of a unit's record: `repeat` is its number, 0 for the one with the result."""

    repeat: int
    task: Task
    seed: int
    api_page: str
    settings: InterpreterSettings
    sandboxes: Sandboxes


def _as_json(unit: RecordedUnit, outcome: Replay, taken_over: int) -> dict[str, Any]:
    return {
        "unit": unit.item.unit,
        "rounds": outcome.rounds,
        "recorded": outcome.recorded,
        "taken_over": taken_over,
        "divergence": outcome.divergence,
        "reworded": outcome.reworded,
    }


def _interpreter_settings(unit: RecordedUnit) -> InterpreterSettings:
    """Return the recorded limits of the study; what a round may show has bounds whatever the record says."""
    recorded = unit.manifest.get("settings", {}).get("interpreter", {})
    try:
        found = InterpreterSettings.model_validate(recorded)
    except ValidationError as error:
        raise damaged(unit.store.root / MANIFEST, error) from error
    return found.model_copy(
        update={
            "max_text_shown": min(found.max_text_shown, _MAX_TEXT_SHOWN),
            "max_images_shown": min(found.max_images_shown, _MAX_IMAGES_SHOWN),
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
            f"{unit.item.unit} was studied several times, and a branch goes on from one study.",
            "Study it once (maia describe without --repeat), and branch from that.",
        )
    return unit


def _no_rounds(path: Path) -> UsageError:
    return UsageError(
        f"there are no rounds in {path}: no agent has studied it, or none has finished a round yet.",
        "Name a unit that an agent has studied, or play it again later.",
    )


async def branch(
    console: Console,
    config: Path | None,
    profile_name: str | None,
    path: Path,
    from_round: int,
    out: Path,
    *,
    seed: int | None = None,
    model: str | None = None,
    trust: Trust | None = None,
) -> dict[str, Any]:
    """Take over the rounds before `from_round` and go on with another profile or seed in a run of its own.

    `model` names the run's network again; what a run names of this machine needs that, or `trust`.

    Raises:
        UsageError: If there is no such unit or round, or the directory belongs to another run.
    """
    unit = _studied(path)
    item = unit.item
    source = Journal(unit.store, item.unit)
    records = source.rounds()
    if not 1 <= from_round <= len(records):
        raise UsageError(
            f"{item.unit} has rounds 1 to {len(records)}, got {from_round}.", "Correct --from-round."
        )
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    check_out(profile.dataset, out)
    trust = trust or Trust()
    network = network_of(unit.manifest, model, trust)
    units_of([(item.layer, item.name)], trust)
    store = Store.open(out)
    manifest = {
        "command": "branch",
        "model": network,
        "layer": item.layer,
        "unit": item.name,
        "units": [item.unit],
        "of": str(unit.store.root.resolve()),
        "from_round": from_round,
        "seed": item.seed if seed is None else seed,
        "profile": profile_name or loaded.default_profile,
        "settings": science(profile),
    }
    check(store, manifest)
    return await _branch(console, loaded.cache, profile, unit, store, manifest, records[: from_round - 1])


async def _branch(
    console: Console,
    cache: Path,
    profile: Profile,
    unit: Any,
    store: Store,
    manifest: dict[str, Any],
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    from experiments.report import write_site
    from experiments.setup.workbench import Workbench

    item, source = unit.item, Journal(unit.store, unit.item.unit)
    async with Workbench.open(profile, cache=cache, model=manifest["model"], tell=console.say) as bench:
        subject = await bench.subject(item.layer, item.name)
        if subject.id != item.unit:
            raise UsageError(f"the profile's network calls this unit {subject.id}, not {item.unit}.")
        facts = bench.laboratory.facts
        # Images may come from elsewhere, which is what branches are for; what measured them in the rounds
        # before may not.
        try:
            if records:
                check_studied(unit.store, facts, ("network",))
        except UsageError as error:
            raise UsageError(
                f"the rounds before round {manifest['from_round']} were measured in another network. "
                f"{error.message}",
                "Branch with the weights, modules and preprocessing that they were measured in.",
            ) from None
        check_studied(store, facts)
        claim(store, manifest)
        claim_studied(store, facts)
        write_plan(store, [replace(item, seed=manifest["seed"])])
        target = Journal(store, item.unit)
        await asyncio.to_thread(take_over, source, target, records)
        console.say(f"took over {len(records)} rounds, going on from round {manifest['from_round']}")
        result = await study(
            bench.laboratory,
            subject,
            build_task(item),
            store,
            seed=manifest["seed"],
            on_round=lambda finished: console.say(f"round {finished.number}"),
        )
    return result | {"report": str(write_site(store.root))}
