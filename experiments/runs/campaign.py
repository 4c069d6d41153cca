"""What every run of many items is: one directory, one owner, hosts, a live line, and an end that can be
resumed.

A command brings its manifest and a way to plan; what is done with an item, `agents.orchestration.host` knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.errors import MaiaError
from actors.vision.networks.layer_cache import KnownNetwork
from agents.orchestration.host import HostCounts, HostHandle, LocalHost, widen_threads
from agents.orchestration.orchestrator import Orchestrator, Outcome
from agents.records.journal import read_result, unit_folder
from agents.records.lease import Lease, worked_s
from agents.records.manifest import KEY as MANIFEST
from agents.records.manifest import check, check_studied, claim_studied, recorded, widened
from agents.records.record_types import Manifest, StudyResult
from agents.records.remote import is_working_copy
from agents.records.run_files import RecordError
from agents.records.store import Store, StoreError
from agents.records.work import KEY as PLAN
from agents.records.work import WorkItem, read_plan, settled
from agents.study.budget import Cost, Ledger, SpendingLimits, spent_under
from agents.study.survey import SurveyFunction
from experiments.records.results import write_results
from experiments.records.reuse import RequestCounter
from experiments.records.status import FailedStudy, RunStatus, status
from experiments.runs.assumptions import assumptions_of
from experiments.runs.comparable_runs import for_task
from experiments.runs.estimate import estimate
from experiments.runs.metrics import RunMetrics
from experiments.runs.progress import ExpectedStudies, Live
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


NewHosts = Callable[[], Awaitable[list[HostHandle]]]
"""Starts hosts on the nodes that have none yet, and returns those that work."""

_NODE_CHECK_INTERVAL_S = 20.0
_STATISTICS_TIMEOUT_S = 5.0
"""How long replicas may take to report their statistics."""


@dataclass(frozen=True)
class Campaign:
    """One run of many items in one directory."""

    console: Console
    loaded: Configuration
    profile: Profile
    store: Store
    manifest: Manifest
    """What the run is about. `units`, known for sure only once the network is, are added by the planner."""
    retry_failed: bool = False
    surveys: Mapping[str, SurveyFunction] = field(default_factory=dict)
    """What an item's `survey` may name."""
    survey_images: int = 0
    """Images that a survey is expected to make."""

    async def run(self, planner: Planner, closing: Closing | None = None) -> Finished:
        """Bring every item of the plan to an end, or stop in a state that can be resumed.

        An error of `closing` is reported, and changes no result.

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
        model = self.manifest.model
        async with Workbench.open(profile, cache=self.loaded.cache, model=model, notify=console.say) as bench:
            check_studied(store, bench.context.facts)
            plan = await planner(bench)
            claim_studied(store, bench.context.facts)
            todo = self._open(plan)
            live = await asyncio.to_thread(self._live, todo)
            # Ray's agents hand them out; without Ray there is nobody who would.
            metrics = None if profile.ray.in_process else RunMetrics(store.root.name)
            counts = RequestCounter()

            async def observe() -> None:
                if metrics is not None:
                    metrics.run(live.values())
                # A replica that dies or hangs, and a full disk, are reported elsewhere.
                with contextlib.suppress(MaiaError, TimeoutError):
                    async with asyncio.timeout(_STATISTICS_TIMEOUT_S):
                        for role, pool in bench.pools.items():
                            replicas = await pool.replica_statistics()
                            if metrics is not None:
                                metrics.pool(role, replicas)
                            counts.read(role, replicas)
                        await asyncio.to_thread(counts.write, store, lease.generation)

            await observe()
            async with self._hosts(bench) as (hosts, new_hosts):
                orchestrator = Orchestrator(
                    store, hosts, agents_per_host=profile.sweep.agents, on_event=live.event
                )
                at_once = min(len(todo), profile.sweep.agents * len(hosts))
                units = "1 unit" if len(todo) == 1 else f"{len(todo)} units"
                console.say(f"studying {units}, {at_once} at a time")
                async with (
                    _stoppable(console, orchestrator, lease),
                    live.shown(console, hosts, observe),
                    _hosts_on_new_nodes(console, orchestrator, new_hosts),
                ):
                    outcome = await orchestrator.run(todo)
                if outcome.stopped is not None and not store.has(MANIFEST):
                    raise outcome.stopped  # the folder is gone: there is nothing to sum up
                live.settle(_spent(await asyncio.to_thread(status, store.root)))
                await observe()
            console.say("; ".join((live.progress().headline, *live.progress().lines)))
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
    async def _hosts(self, bench: Workbench) -> AsyncIterator[tuple[list[HostHandle], NewHosts]]:
        """Yield the hosts that the profile asks for, and a function that starts more on nodes that have
        joined since.
        """
        spent = await asyncio.to_thread(self._spent_before)
        n_hosts = self._n_hosts()
        if n_hosts == 0:
            yield [self._local_host(bench, spent)], _no_new_hosts
            return
        from experiments.runs.hosts import HostPlan, RayHostGroup
        from experiments.runs.run_account import ledger

        # A model that cannot work says why here; a host would only not find it.
        await asyncio.gather(*(pool.ready() for pool in bench.pools.values()))
        run, model = self.store.root.resolve(), self.manifest.model
        plan = HostPlan(self.profile, self.loaded.cache, model, bench.addresses, run, self.surveys)
        with ledger(self.profile, run) as account:
            group = RayHostGroup(plan, account, self.profile.sweep.agents, self.console.warn)
            try:
                group.start(None if n_hosts == "per-node" else n_hosts)
                yield group.handles, group.start_on_new_nodes if n_hosts == "per-node" else _no_new_hosts
            finally:
                await group.stop()

    def _n_hosts(self) -> int | Literal["per-node"]:
        """Return how many hosts to start in processes of their own: 0 if this process carries all agents."""
        n_hosts = self.profile.sweep.hosts
        if n_hosts == "per-node" and is_working_copy(self.loaded.cache, self.store.root):
            self.console.say(
                "no other node sees the working copy of a run at a URL: this process carries all agents"
            )
            return 0
        return n_hosts

    def _local_host(self, bench: Workbench, spent: Cost) -> LocalHost:
        """Return the host in this process, with the run's account behind it."""
        settings = self.profile.sweep

        account = Ledger(settings.budget, spent, elapsed_s=lambda: worked_s(self.store))

        async def subject_of(item: WorkItem) -> Subject:
            return await bench.subject(item.layer, item.name)

        return LocalHost(
            bench.context,
            self.store,
            subject_of,
            surveys=self.surveys,
            limits=SpendingLimits(account, settings.unit_budget),
        )

    def _spent_before(self) -> Cost:
        """Return what the run has spent; damaged records, which hide a part of it, are reported.

        Raises:
            RecordError: If a part is hidden and there is a budget, which could be passed unnoticed.
        """
        spent, problems = spent_under(self.store, self.profile.sweep.budget)
        for problem in problems:
            self.console.warn(problem)
        return spent

    def _live(self, todo: Sequence[WorkItem]) -> Live:
        """Return what counts a run that has `todo` items to do, from what its directory holds."""
        now = status(self.store.root)
        expected = self._expected(todo) if todo else None
        live = Live(now.units, now.done, _spent(now), expected=expected)
        live.failed = now.units - now.done - len(todo)
        return live

    def _expected(self, todo: Sequence[WorkItem]) -> ExpectedStudies:
        """Return what studies take by the profile's assumptions: to read earlier runs would take too long."""
        first = todo[0]
        assumed = for_task(assumptions_of(self.profile), first.task)
        images = self.survey_images if first.survey else 0
        assumed = replace(assumed, rounds=assumed.rounds if first.task else 0.0, survey_images=images)
        studies = sum(item.repeats for item in todo)
        some, none = (estimate(self.profile, n, assumed).likely.hours for n in (studies, 0))
        # Of studies that are resumed, the rounds that are left.
        recorded = sum(1 for item in todo for _ in self.store.keys(f"{unit_folder(item.unit)}/rounds"))
        rounds = max(assumed.rounds * first.repeats - recorded / len(todo), 1.0)
        left = rounds / (assumed.rounds * first.repeats) if first.task else 1.0
        return ExpectedStudies(rounds if first.task else 0.0, 3600 * (some - none) * left)

    def _open(self, plan: Sequence[WorkItem]) -> list[WorkItem]:
        """Return the items that have come to no end."""
        return [
            item
            for item in plan
            if not settled(self.store, item) and (self.retry_failed or not _has_failed(self.store, item))
        ]


def _has_failed(store: Store, item: WorkItem) -> bool:
    return store.has(f"{unit_folder(item.unit)}/failed-1.json")


def check_items(store: Store, plan: Sequence[WorkItem], wanted: Mapping[str, WorkItem]) -> None:
    """Make sure that what is planned is what the command asks for: a run from elsewhere does not choose
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


def check_known(store: Store, manifest: Manifest, network: KnownNetwork | None, units: Sequence[str]) -> None:
    """Compare a run with what is asked for as `check` does, before its `network` is loaded, which is known
    from before.

    A profile may ask for a checkpoint or random weights, which are part of a network's name: a run of units
    by another name than the one that is known is compared once the network is loaded.

    Raises:
        UsageError: If the directory belongs to another configuration.
    """
    before = recorded(store).units
    if network is not None and all(unit.startswith(f"{network.name}/") for unit in before):
        check(store, manifest.of_units(units))


async def _no_new_hosts() -> list[HostHandle]:
    return []


@asynccontextmanager
async def _hosts_on_new_nodes(
    console: Console,
    orchestrator: Orchestrator,
    new_hosts: NewHosts,
    interval_s: float = _NODE_CHECK_INTERVAL_S,
) -> AsyncIterator[None]:
    """Give work to hosts that are started on new nodes while the block runs."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                for host in await new_hosts():
                    orchestrator.join(host)
                    console.say("a node has joined: one more host takes its part of the work")
            except Exception as error:
                # The head may be away for a moment, and the work continues with the hosts that there are.
                console.warn(f"no host could be started on a new node: {type(error).__name__}: {error}")

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


@dataclass(frozen=True)
class Finished:
    """A run as it was left."""

    store: Store
    plan: Sequence[WorkItem]
    outcome: Outcome
    results: Sequence[Path] = field(default_factory=tuple)

    def records(self) -> list[StudyResult]:
        """Return the results that there are, in the order of the plan."""
        results = (result_of(self.store, item) for item in self.plan)
        return [record for record in results if record is not None]

    def summary(self) -> RunSummary:
        """Return how the run stands, and write its report."""
        from experiments.atlas.front_page import write_report

        run = self.store.root
        stopped = self.outcome.stopped
        page: str | None = None
        try:
            page = str(write_report(run))
        except (OSError, RecordError) as error:
            # The results are safe without it, and a full disk has been reported.
            why = error.message if isinstance(error, RecordError) else error.strerror
            stopped = stopped or StoreError(f"the report cannot be written: {why}.", f"maia report {run}")
        now = status(run)
        state = "interrupted" if now.waiting + now.begun else "finished"
        return RunSummary(
            status=replace(now, state=state, owner=None),
            stopped=None
            if stopped is None
            else FailedStudy(type(stopped).__name__, stopped.message, stopped.fix),
            paused=self.outcome.paused,
            results=[str(path) for path in self.results],
            report=page,
        )


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a command left its run."""

    status: RunStatus
    """`state` is "finished" or "interrupted"."""
    stopped: FailedStudy | None
    """The error that stopped the run before its end."""
    paused: bool
    results: list[str]
    """Files with the results."""
    report: str | None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end, with failed studies or without."""
        return self.status.state == "finished" and not self.paused and self.stopped is None

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in self.status.as_json().items() if key != "owner"} | {
            "stopped": None if self.stopped is None else asdict(self.stopped),
            "paused": self.paused,
            "results": self.results,
            "report": self.report,
        }


def result_of(store: Store, item: WorkItem) -> StudyResult | None:
    """Return an item's result, None if it has none yet, or a damaged one, which `status` names."""
    try:
        return read_result(store, item.unit)
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
            raise  # reported once the agents have ended
        pause("cancelled")

    for number in heard:
        loop.add_signal_handler(number, pause, "interrupted" if number == signal.SIGINT else "asked to end")
    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        leave_signals()
        watching.cancel()
        await asyncio.wait([watching, *tasks])
    if not watching.cancelled() and (error := watching.exception()) is not None:
        raise error


def _spent(run: RunStatus) -> HostCounts:
    """Return what a run has spent, by its records."""
    return HostCounts(run.rounds, run.tokens, run.dollars, run.images, run.unpriced)
