"""`maia sweep`: whole layers. One pass for all exemplars, a screening of the units, then agents for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError
from actors.vision.units import Readout, parse_unit
from agents.budget import Ledger, spent_so_far
from agents.host import HostHandle, LocalHost
from agents.journal import slug
from agents.lease import Lease, worked_s
from agents.manifest import KEY as MANIFEST
from agents.manifest import check, claim
from agents.orchestrator import Orchestrator, Outcome, failures
from agents.store import Store
from agents.work import WorkItem, read_plan, write_plan
from experiments import config as configuration
from experiments.config import Configuration, Profile
from experiments.console import Console
from experiments.describe import science
from experiments.live import Live
from experiments.metrics import RunMetrics
from experiments.results import write_results
from experiments.units import choose, screen
from tools.subject import Subject

if TYPE_CHECKING:
    from experiments.workbench import Workbench

SCREENING = "screening.json"


@dataclass(frozen=True)
class Sweep:
    """What a command line asks for."""

    model: str
    layers: tuple[str, ...]
    units: str = "all"
    seed: int = 0
    data: str | None = None
    retry_failed: bool = False


async def sweep(
    console: Console, config: Path | None, profile_name: str | None, asked: Sweep, *, out: Path | None = None
) -> dict[str, Any]:
    """Study the units of one or more layers and return a summary; goes on with what an earlier run left.

    Raises:
        UsageError: If anything that was asked for does not exist, or another process works on the directory.
    """
    loaded = configuration.load(config)
    profile = loaded.profile(profile_name)
    if asked.data is not None:
        profile = profile.model_copy(update={"dataset": asked.data})
    run = out or Path("runs") / slug(f"{asked.model} {','.join(asked.layers)} {asked.units}")
    store = Store.open(run)
    manifest = {
        "command": "sweep",
        "model": asked.model,
        "layers": list(asked.layers),
        "asked": asked.units,
        "seed": asked.seed,
        "profile": profile_name or loaded.default_profile,
        "settings": science(profile),
    }
    # The units are known only once the network is; everything else is compared before anything is loaded.
    check(store, manifest | _units_of(store))
    async with await Lease.take(store, tell=console.say) as lease:
        plan = read_plan(store)
        if plan is None or _open(store, plan, asked.retry_failed):
            outcome = await _run(console, loaded, profile, store, manifest, asked, lease)
        else:
            console.say(f"{run} holds all results already")
            outcome = Outcome()
        plan = read_plan(store) or []
        paths = await asyncio.to_thread(write_results, run, plan)
    return _summary(run, store, plan, outcome, paths)


async def _run(
    console: Console,
    loaded: Configuration,
    profile: Profile,
    store: Store,
    manifest: dict[str, Any],
    asked: Sweep,
    lease: Lease,
) -> Outcome:
    from experiments.workbench import Workbench

    async with Workbench.open(profile, cache=loaded.cache, model=asked.model, tell=console.say) as bench:
        plan = await _plan(console, bench, store, manifest, asked)
        todo = _open(store, plan, asked.retry_failed)
        finished = [record for item in plan if (record := _done(store, item)) is not None]
        live = Live(len(plan), finished)
        live.failed = len(plan) - len(todo) - len(finished)

        metrics = RunMetrics(store.root.name)

        async def observe() -> None:
            metrics.run(live.values())
            for role, pool in bench.pools.items():
                with contextlib.suppress(MaiaError):  # a replica that dies is the pool's to mend
                    metrics.pool(role, await pool.replica_statistics())

        async with _hosts(bench, loaded, store, asked.model) as hosts:
            orchestrator = Orchestrator(
                store, hosts, agents_per_host=profile.sweep.agents, on_event=live.event
            )
            at_once = min(len(todo), profile.sweep.agents * len(hosts))
            console.say(f"studying {len(todo)} units, {at_once} at a time")
            async with _stoppable(console, orchestrator, lease), live.shown(console, hosts, observe):
                outcome = await orchestrator.run(todo)
            await live.look(hosts)
        console.say(live.text())
    if outcome.stopped is not None:
        console.fail(outcome.stopped)
    return outcome


@asynccontextmanager
async def _hosts(
    bench: Workbench, loaded: Configuration, store: Store, model: str
) -> AsyncIterator[list[HostHandle]]:
    """Yield the hosts that the profile asks for, with the run's account behind them."""
    profile = bench.profile
    if profile.sweep.hosts == 0:

        async def subject_of(item: WorkItem) -> Subject:
            return await bench.subject(item.layer, item.name)

        before = await asyncio.to_thread(spent_so_far, store)
        purse = Ledger(profile.sweep.budget, before, elapsed_s=lambda: worked_s(store))
        unit_budget = profile.sweep.unit_budget
        yield [LocalHost(bench.laboratory, store, subject_of, account=purse, unit_budget=unit_budget)]
        return
    from experiments.hosts import HostPlan, RayHost, ledger

    plan = HostPlan(profile, loaded.cache, model, bench.addresses, store.root.resolve())
    with ledger(profile, plan.run) as account:
        hosts: list[HostHandle] = [
            RayHost(plan, account, profile.sweep.agents) for _ in range(profile.sweep.hosts)
        ]
        try:
            yield hosts
        finally:
            await asyncio.gather(*(host.stop() for host in hosts))


async def _plan(
    console: Console, bench: Workbench, store: Store, manifest: dict[str, Any], asked: Sweep
) -> list[WorkItem]:
    """Return the work of the run: from its directory, or from a pass over the data set."""
    vision = bench.vision
    sizes = {layer.name: layer.n_units for layer in await vision.layers()}
    names = await vision.class_names()
    wanted: dict[Readout, list[int]] = {}
    for layer in asked.layers:
        first = await vision.unit(parse_unit(layer, "0", names))
        wanted[Readout.of(first)] = choose(asked.units, sizes[first.layer], asked.seed)
    ids = [f"{vision.name}/{readout.unit(index)}" for readout, units in wanted.items() for index in units]
    claim(store, manifest | {"units": ids})
    if (plan := read_plan(store)) is not None:
        return plan
    console.say(f"searching the data set for the exemplars of {len(ids)} units")
    with console.progress("exemplars") as progress:
        found = await vision.layer_exemplars(
            list(wanted), bench.dataset, progress=lambda swept: progress(swept.done, swept.total)
        )
    screened: dict[str, list[dict[str, Any]]] = {}
    items: list[WorkItem] = []
    for readout, units in wanted.items():
        rows = screened[readout.layer] = await asyncio.to_thread(screen, found[readout], units)
        items += [
            WorkItem(
                f"{vision.name}/{readout.unit(row['unit'])}", readout.layer, str(row["unit"]), seed=asked.seed
            )
            for row in rows
            if row["verdict"] == "alive"
        ]
    console.say(
        f"{len(items)} units are worth an agent, {len(ids) - len(items)} are dead, constant or duplicates"
    )
    store.put(SCREENING, json.dumps(screened, indent=1).encode())
    return write_plan(store, items)


@asynccontextmanager
async def _stoppable(console: Console, orchestrator: Orchestrator, lease: Lease) -> AsyncIterator[None]:
    """End gracefully on a first Ctrl-C, on `maia cancel`, and when another process has taken over."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def pause(reason: str) -> None:
        console.say(f"{reason}: agents finish their round (Ctrl-C again stops at once)")
        task = asyncio.create_task(orchestrator.pause())
        tasks.add(task)
        loop.remove_signal_handler(signal.SIGINT)

    async def watch() -> None:
        while not await asyncio.to_thread(lease.cancelled):
            await asyncio.to_thread(lease.check)
            await asyncio.sleep(1)
        pause("cancelled")

    loop.add_signal_handler(signal.SIGINT, pause, "interrupted")
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        watching.cancel()
        await asyncio.wait([watching, *tasks])
    if not watching.cancelled() and (error := watching.exception()) is not None:
        raise error


def _open(store: Store, plan: Sequence[WorkItem], retry_failed: bool) -> list[WorkItem]:
    """Return the items that have come to no end."""
    return [
        item
        for item in plan
        if not store.has(f"units/{slug(item.unit)}/done.json")
        and (retry_failed or not failures(store, item.unit))
    ]


def _done(store: Store, item: WorkItem) -> dict[str, Any] | None:
    data = store.get(f"units/{slug(item.unit)}/done.json")
    if data is None:
        return None
    record: dict[str, Any] = json.loads(data)
    return record


def _units_of(store: Store) -> dict[str, Any]:
    data = store.get(MANIFEST)
    present = json.loads(data) if data is not None else {}
    return {"units": present["units"]} if "units" in present else {}


def _summary(
    run: Path, store: Store, plan: Sequence[WorkItem], outcome: Outcome, paths: Sequence[Path]
) -> dict[str, Any]:
    from experiments.report import write_site
    from experiments.status import status

    found = status(run)
    screened = json.loads(store.get(SCREENING) or b"{}")
    verdicts = [row["verdict"] for table in screened.values() for row in table]
    return {
        **{key: value for key, value in found.items() if key not in ("owner", "state")},
        "state": "finished" if not found["waiting"] + found["begun"] else "interrupted",
        "screened": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "stopped": None if outcome.stopped is None else _told(outcome.stopped),
        "paused": outcome.paused,
        "results": [str(path) for path in paths],
        "report": str(write_site(run)),
    }


def _told(error: MaiaError) -> dict[str, str]:
    return {"type": type(error).__name__, "message": error.message, "fix": error.fix}
