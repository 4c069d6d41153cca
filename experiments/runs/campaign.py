"""What every run of many items is: one directory, one owner, hosts, a live line, and an end that can be
resumed.

A command brings its manifest and a way to plan; what is done with an item, `agents.orchestration.host` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError
from actors.vision.networks.layer_cache import KnownNetwork
from agents.orchestration.host import HostCounts, HostHandle, LocalHost, SpendingLimits, widen_threads
from agents.orchestration.orchestrator import Orchestrator, Outcome
from agents.records.journal import slug
from agents.records.lease import Lease, worked_s
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import check, check_studied, claim_studied, recorded, widened
from agents.records.record_types import StudyResult, read_record
from agents.records.remote import is_working_copy
from agents.records.run_files import RecordError
from agents.records.store import Store, StoreError
from agents.records.work import KEY as PLAN
from agents.records.work import WorkItem, read_plan
from agents.study.budget import Cost, Ledger, spent_under
from experiments.records.results import write_results
from experiments.records.reuse import RequestCounts
from experiments.records.status import status
from experiments.runs.context_survey import SURVEYS
from experiments.runs.metrics import RunMetrics
from experiments.runs.progress import Live
from experiments.setup.config import Configuration, Profile
from experiments.setup.console import Console
from experiments.setup.run_folder import check_output_outside_dataset
from tools.subject import Subject

if TYPE_CHECKING:
    from experiments.setup.workbench import Workbench

Planner = Callable[["Workbench"], Awaitable[list[WorkItem]]]
"""Returns the items of a run: from its directory if it has a plan, else made, claimed and written."""


@dataclass(frozen=True)
class Closing:
    """Compares what a whole run has found, once nothing is left to do and while its models are there."""

    done: Callable[[], bool]
    """Whether it has: before, a run whose items all have results is not at its end."""
    compare: Callable[[Workbench, list[WorkItem]], Awaitable[None]]


Newcomers = Callable[[], Awaitable[list[HostHandle]]]
"""Starts hosts on the nodes that have none yet, and returns those that work."""

_NEWCOMERS_EVERY_S = 20.0
_LOOK_S = 5.0
"""How long replicas may take to say what they have done."""


@dataclass(frozen=True)
class Campaign:
    """One run of many items in one directory."""

    console: Console
    loaded: Configuration
    profile: Profile
    store: Store
    manifest: dict[str, Any]
    """What the run is about. `units`, known for sure only once the network is, are added by the planner."""
    retry_failed: bool = False

    async def run(self, planner: Planner, closing: Closing | None = None) -> Finished:
        """Bring every item of the plan to an end, or stop in a state that can be resumed.

        An error of `closing` is told, and no item is the worse for it.

        Raises:
            UsageError: If the directory belongs to another configuration, or another process works on it.
        """
        store = self.store
        check_output_outside_dataset(self.profile.dataset, store.root)
        check(store, self.manifest)
        async with await Lease.take(store, notify=self.console.say) as lease:
            plan = read_plan(store)
            unclosed = closing is not None and not closing.done()
            if plan is None or self._open(plan) or unclosed or widened(store, self.manifest):
                outcome = await self._work(planner, closing, lease)
            else:
                self.console.say(f"{store.root} holds all results already")
                outcome = Outcome()
            plan = read_plan(store) or []
            paths: list[Path] = []
            try:
                paths = await asyncio.to_thread(write_results, store.root, plan)
            except StoreError as full:
                outcome.stopped = outcome.stopped or full
        return Finished(store, plan, outcome, paths)

    async def _work(self, planner: Planner, closing: Closing | None, lease: Lease) -> Outcome:
        from experiments.setup.workbench import Workbench

        widen_threads()
        console, store, profile = self.console, self.store, self.profile
        model = self.manifest["model"]
        async with Workbench.open(profile, cache=self.loaded.cache, model=model, tell=console.say) as bench:
            check_studied(store, bench.context.facts)
            plan = await planner(bench)
            claim_studied(store, bench.context.facts)
            todo = self._open(plan)
            live = await asyncio.to_thread(self._live, len(todo))
            metrics, counts = RunMetrics(store.root.name), RequestCounts()

            async def observe() -> None:
                metrics.run(live.values())
                # A replica that dies or hangs, and a full disk, are others' to tell.
                with contextlib.suppress(MaiaError, TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        for role, pool in bench.pools.items():
                            replicas = await pool.replica_statistics()
                            metrics.pool(role, replicas)
                            counts.look(role, replicas)
                        await asyncio.to_thread(counts.write, store, lease.generation)

            await observe()
            async with self._hosts(bench) as (hosts, newcomers):
                orchestrator = Orchestrator(
                    store, hosts, agents_per_host=profile.sweep.agents, on_event=live.event
                )
                at_once = min(len(todo), profile.sweep.agents * len(hosts))
                units = "1 unit" if len(todo) == 1 else f"{len(todo)} units"
                console.say(f"studying {units}, {at_once} at a time")
                async with (
                    _stoppable(console, orchestrator, lease),
                    live.shown(console, hosts, observe),
                    _joined(console, orchestrator, newcomers),
                ):
                    outcome = await orchestrator.run(todo)
                if outcome.stopped is not None and not store.has(MANIFEST):
                    raise outcome.stopped  # the folder is gone: there is nothing to sum up
                live.settle(await asyncio.to_thread(_spent, store))
                await observe()
            console.say(live.text())
            if closing is not None and outcome.stopped is None and not outcome.paused:
                try:
                    await closing.compare(bench, plan)
                except Exception as error:
                    # The results are not yet in their files: whatever the comparison met must not keep them
                    # from there.
                    console.warn(f"what was found could not be compared: {type(error).__name__}: {error}")
        if outcome.stopped is not None:
            console.fail(outcome.stopped)
        return outcome

    @asynccontextmanager
    async def _hosts(self, bench: Workbench) -> AsyncIterator[tuple[list[HostHandle], Newcomers]]:
        """Yield the hosts that the profile asks for, with the run's account behind them.

        And what starts hosts on nodes that have joined since, and adds them to these.
        """
        settings = self.profile.sweep
        n_hosts = settings.hosts
        before = await asyncio.to_thread(self._spent_before)
        if n_hosts == "per-node" and is_working_copy(self.loaded.cache, self.store.root):
            self.console.say(
                "no other node sees the working copy of a run at a URL: this process carries all agents"
            )
            n_hosts = 0
        if n_hosts == 0:

            async def subject_of(item: WorkItem) -> Subject:
                return await bench.subject(item.layer, item.name)

            purse = Ledger(settings.budget, before, elapsed_s=lambda: worked_s(self.store))
            yield (
                [
                    LocalHost(
                        bench.context,
                        self.store,
                        subject_of,
                        surveys=SURVEYS,
                        limits=SpendingLimits(purse, settings.unit_budget),
                    )
                ],
                _nobody,
            )
            return
        from actors.cluster.placement import worker_nodes
        from experiments.runs.hosts import HostPlan, RayHost, ledger, without_host

        # Told here, a model that cannot work says why; a host would only not find it.
        await asyncio.gather(*(pool.ready() for pool in bench.pools.values()))
        model, run = self.manifest["model"], self.store.root.resolve()
        plan = HostPlan(self.profile, self.loaded.cache, model, bench.addresses, run)
        with ledger(self.profile, plan.run) as account:
            first = random.randrange(1024)  # several runs on a cluster shall not begin at the same node
            count = len(worker_nodes()) if n_hosts == "per-node" else n_hosts
            unfit: set[str] = set()
            started = [
                RayHost(plan, account, settings.agents, seat=first + i, unfit=unfit) for i in range(count)
            ]
            hosts: list[HostHandle] = [*started]

            async def on_new_nodes() -> list[HostHandle]:
                nodes = await asyncio.to_thread(worker_nodes)
                new: list[HostHandle] = []
                for node in without_host([each for each in nodes if each not in unfit], started):
                    seat = [each for each in nodes if each not in unfit].index(node)
                    host = RayHost(plan, account, settings.agents, seat=seat, unfit=unfit)
                    try:
                        await host.ready()
                    except BaseException as error:
                        await host.stop()
                        if not isinstance(error, Exception):
                            raise
                        # What it lacks (the run's folder, a sandbox) would end the run, were it one of the
                        # run's hosts.
                        unfit.add(node)
                        self.console.warn(f"a node has joined on which no host works: {error}")
                        continue
                    started.append(host)
                    hosts.append(host)
                    new.append(host)
                return new

            try:
                yield hosts, on_new_nodes if n_hosts == "per-node" else _nobody
            finally:
                await asyncio.gather(*(host.stop() for host in hosts))

    def _spent_before(self) -> Cost:
        """Return what the run has spent; damaged records, which hide a part of it, are told.

        Raises:
            RecordError: If a part is hidden and there is a budget, which could be passed unnoticed.
        """
        spent, problems = spent_under(self.store, self.profile.sweep.budget)
        for problem in problems:
            self.console.warn(problem)
        return spent

    def _live(self, todo: int) -> Live:
        """Return the live line of a run that has `todo` items to do, from what its directory holds."""
        found = status(self.store.root)
        live = Live(found["units"], found["done"], _spent_in(found))
        live.failed = found["units"] - found["done"] - todo
        return live

    def _open(self, plan: Sequence[WorkItem]) -> list[WorkItem]:
        """Return the items that have come to no end."""
        return [
            item
            for item in plan
            if not self.store.has(f"units/{slug(item.unit)}/done.json")
            and (self.retry_failed or not _has_failed(self.store, item))
        ]


def _has_failed(store: Store, item: WorkItem) -> bool:
    return store.has(f"units/{slug(item.unit)}/failed-1.json")


def check_items(store: Store, plan: Sequence[WorkItem], wanted: Mapping[str, WorkItem]) -> None:
    """Make sure that what is planned is what the command asks for: a run that somebody sent does not choose
    what is spent.

    Raises:
        RecordError: If an item of the plan is another than the one that is `wanted` of its unit.
    """
    for item in plan:
        if wanted.get(item.unit) != item:
            raise RecordError(
                f"{store.root / PLAN} plans {item.unit} in another way than this command.",
                "Give this run its own --out.",
            )


def check_known(
    store: Store, manifest: Mapping[str, Any], network: KnownNetwork | None, units: Sequence[str]
) -> None:
    """Compare a run with what is asked for as `check` does, before its `network` is loaded, which is known
    from before.

    A profile may ask for a checkpoint or random weights, which are part of a network's name: a run of units
    by another name than the one that is known is compared once the network is loaded.

    Raises:
        UsageError: If the directory belongs to another configuration.
    """
    before = recorded(store).get("units", ())
    if network is not None and all(unit.startswith(f"{network.name}/") for unit in before):
        check(store, {**manifest, "units": list(units)})


async def _nobody() -> list[HostHandle]:
    return []


@asynccontextmanager
async def _joined(console: Console, orchestrator: Orchestrator, newcomers: Newcomers) -> AsyncIterator[None]:
    """Have hosts that are started meanwhile take their part of the work."""

    async def look() -> None:
        while True:
            await asyncio.sleep(_NEWCOMERS_EVERY_S)
            try:
                for host in await newcomers():
                    orchestrator.join(host)
                    console.say("a node has joined: one more host takes its part of the work")
            except Exception as error:
                # The head may be away for a moment, and the work goes on with the hosts that there are.
                console.warn(f"no host could be started on a new node: {type(error).__name__}: {error}")

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait([looking])


@dataclass(frozen=True)
class Finished:
    """A run as it was left."""

    store: Store
    plan: Sequence[WorkItem]
    outcome: Outcome
    results: Sequence[Path] = field(default_factory=tuple)

    def records(self) -> list[dict[str, Any]]:
        """Return the results that there are, in the order of the plan."""
        found = (result_of(self.store, item) for item in self.plan)
        return [record for record in found if record is not None]

    def summary(self) -> dict[str, Any]:
        """Return how the run stands as plain values, and write its report."""
        from experiments.report import write_site

        run = self.store.root
        found = status(run)
        stopped = self.outcome.stopped
        page: str | None = None
        try:
            page = str(write_site(run))
        except (OSError, RecordError) as error:
            # The results are safe without it, and whatever filled the disk has been told.
            why = error.message if isinstance(error, RecordError) else error.strerror
            stopped = stopped or StoreError(f"the report cannot be written: {why}.", f"maia report {run}")
        return {
            **{key: value for key, value in found.items() if key not in ("owner", "state")},
            "state": "finished" if not found["waiting"] + found["begun"] else "interrupted",
            "stopped": None
            if stopped is None
            else {"type": type(stopped).__name__, "message": stopped.message, "fix": stopped.fix},
            "paused": self.outcome.paused,
            "results": [str(path) for path in self.results],
            "report": page,
        }


def result_of(store: Store, item: WorkItem) -> dict[str, Any] | None:
    """Return an item's result, None if it has none yet, or a damaged one, which `status` names."""
    try:
        return read_record(store, f"units/{slug(item.unit)}/done.json", StudyResult)
    except RecordError:
        return None


@asynccontextmanager
async def _stoppable(console: Console, orchestrator: Orchestrator, lease: Lease) -> AsyncIterator[None]:
    """End gracefully on a first Ctrl-C, on `maia cancel`, and when another process has taken over.

    So it does where a scheduler ends the job (SIGTERM) or the terminal goes away (SIGHUP, unless it is
    ignored as under `nohup`); what they do next is as before.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def leave_signals() -> None:
        while heard:
            number, handler = heard.popitem()
            if loop.remove_signal_handler(number) and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def pause(reason: str) -> None:
        console.say(f"{reason}: agents finish their round (Ctrl-C again stops at once)")
        task = asyncio.create_task(orchestrator.pause())
        tasks.add(task)
        leave_signals()

    async def watch() -> None:
        try:
            while not await asyncio.to_thread(lease.cancelled):
                await asyncio.to_thread(lease.check)
                await asyncio.sleep(1)
        except MaiaError:
            pause("the run directory is no longer this process's")
            raise  # told once the agents have ended
        pause("cancelled")

    for number in heard:
        loop.add_signal_handler(number, pause, "interrupted" if number == signal.SIGINT else "told to end")
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        leave_signals()
        watching.cancel()
        await asyncio.wait([watching, *tasks])
    if not watching.cancelled() and (error := watching.exception()) is not None:
        raise error


def _spent(store: Store) -> HostCounts:
    """Return what the run has spent, from its records."""
    return _spent_in(status(store.root))


def _spent_in(found: dict[str, Any]) -> HostCounts:
    return HostCounts(found["rounds"], found["tokens"], found["dollars"], found["images"], found["unpriced"])
