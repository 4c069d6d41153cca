"""Hosts in processes of their own, spread over a cluster, that share one set of models.

A plain class holds all that a host does (`agents.orchestration.host.LocalHost` over a joined workbench); the
actor below it adds the life in a process. Ray restarts a dead host, and repeats no call: what it was doing is
given out again by the orchestrator, and resumes from the store. A host that lives and does not answer is
found out here: it is fenced off from the store (`agents.records.fence`) and another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import platform
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from actors.cluster.connection import log_folder
from actors.cluster.placement import Demand, PlacementMonitor, worker_nodes
from actors.errors import MaiaError, UsageError
from actors.runtime import return_pictures, work_in
from agents.orchestration.host import HostCounts, HostHandle, LocalHost, widen_threads
from agents.records.fence import FencedStore, fence
from agents.records.record_types import StudyResult
from agents.records.store import Store, StoreError
from agents.records.work import KEY as PLAN
from agents.records.work import WorkItem
from agents.study.budget import Account, BudgetSettings, Ledger, SpendingLimits
from agents.study.faults import HostLostError
from agents.study.survey import SurveyFunction
from experiments.runs.ray_call import HostGoneError, call_actor
from experiments.runs.run_account import RemoteAccount
from experiments.setup.config import Profile

T = TypeVar("T")

_log = logging.getLogger(__name__)

SILENCE_S = 30.0
"""A host that twice in a row does not answer within this time is given up. Long: a loop may be busy, two
cores shared.
"""
PING_INTERVAL_S = 5.0
"""Pause between two pings of a host."""
_RETURN_PAUSE_S = 0.5
_RETURN_PATIENCE_S = 120.0
"""How long a host that is lost, and has a place on a node, may take to come back before another is started.
"""
STARTS = 3
"""Hosts that may be started in a row without one that works."""
_DEMAND = Demand("a host", timeout_s=math.inf)


@dataclass(frozen=True)
class HostPlan:
    """All that a host is made of, as plain values."""

    profile: Profile
    cache: Path
    model: str | None
    addresses: Mapping[str, str]
    run: Path
    surveys: Mapping[str, SurveyFunction] = field(default_factory=dict)
    """What an item's `survey` may name; functions of modules, which a process finds by their names."""
    folder: Path = field(default_factory=Path.cwd)
    """Where the command was typed."""


class UnfitNodeError(UsageError):
    """A node that lacks what every host needs."""


class HostActor:
    """What Ray runs."""

    def __init__(self, plan: HostPlan, ledger: str, name: str) -> None:
        """`ledger` is the name of the run's account, "" where nothing is limited and each host may keep its
        own.

        `name` is what this host can be fenced off by.
        """
        work_in(plan.folder)
        return_pictures()
        self._plan, self._ledger, self._name = plan, ledger, name
        self._stack = contextlib.AsyncExitStack()
        self._opening: asyncio.Task[LocalHost] | None = None

    async def _open(self) -> LocalHost:
        from experiments.setup.workbench import Workbench

        widen_threads()
        plan = self._plan
        if not await asyncio.to_thread(Store(plan.run).has, PLAN):
            raise UnfitNodeError(
                f"{platform.node()}, a node of the cluster, does not see the run directory {plan.run}.",
                "Put --out (of a URL: the cache, MAIA_CACHE) on a path that all nodes share, or set "
                "sweep.hosts to 0.",
            )
        bench = await self._stack.enter_async_context(
            Workbench.join(plan.profile, cache=plan.cache, model=plan.model, addresses=plan.addresses)
        )

        async def subject_of(item: WorkItem) -> Any:
            return await bench.subject(item.layer, item.name)

        account = await self._account()
        return LocalHost(
            bench.context,
            FencedStore(plan.run, self._name),
            subject_of,
            surveys=plan.surveys,
            limits=SpendingLimits(account, plan.profile.sweep.unit_budget),
        )

    async def _account(self) -> Account:
        """Return the run's account, or one of this host where nothing is limited."""
        import ray

        if not self._ledger:
            return Ledger(BudgetSettings())
        account = RemoteAccount(ray.get_actor(self._ledger))
        await account.begin(self._name)
        return account

    async def _host(self) -> LocalHost:
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def ping(self) -> None:
        """Return at once, unless the event loop hangs or the process is stopped."""

    async def ready(self) -> None:
        await self._host()

    async def study(self, item: WorkItem) -> StudyResult:
        return await (await self._host()).study(item)

    async def pause(self) -> None:
        await (await self._host()).pause()

    async def counts(self) -> HostCounts:
        return await (await self._host()).counts()

    async def close(self) -> None:
        await self._stack.aclose()


@dataclass(frozen=True)
class HostMachinery:
    """How hosts are made, placed, watched and replaced."""

    actor: type = HostActor
    """What Ray runs: made of a plan, the ledger's name and a name of its own."""
    worker_nodes: Callable[[], list[str]] = worker_nodes
    """Returns the ids of the nodes that can carry hosts."""
    fence: Callable[[Store, str], None] = fence
    silence_s: float = SILENCE_S
    ping_interval_s: float = PING_INTERVAL_S


class RayHost:
    """A host in a Ray actor, as the orchestrator sees it."""

    def __init__(
        self,
        plan: HostPlan,
        ledger: str,
        width: int,
        *,
        seat: int = 0,
        unfit: set[str] | None = None,
        machinery: HostMachinery | None = None,
    ) -> None:
        """`ledger` is the name of the run's account, "" for none. Must be made on the event loop.

        Hosts with seats in a row are on as many nodes as there are. `unfit` are the ids of nodes on which
        none works, known to all hosts of a run, each of which adds those that it meets.
        """
        self._plan, self._ledger, self._width, self._seat = plan, ledger, width, seat
        self._machinery = machinery or HostMachinery()
        self._unfit = set() if unfit is None else unfit
        self._has_worked = False
        """Whether a host has worked here or been replaced: what a node lacks from then on is no fault of the
        command.
        """
        self._pausing = False
        self._returning: asyncio.Task[None] | None = None
        self._monitor = PlacementMonitor()
        self._launch()
        self._watching = asyncio.create_task(self._watch())

    def _launch(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._name = uuid.uuid4().hex
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nodes = self._machinery.worker_nodes()
        nodes = [node for node in nodes if node not in self._unfit] or nodes
        self.node = node = nodes[self._seat % len(nodes)]
        self._actor = (
            ray.remote(self._machinery.actor)
            .options(
                num_cpus=0,
                # Both SPREAD and a soft affinity put what asks for nothing on any node. Without its node, the
                # host is gone, and another is started on the next (`_return`).
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=self._width + 16,
            )
            .remote(self._plan, self._ledger, self._name)
        )

    async def study(self, item: WorkItem) -> StudyResult:
        return await self._answered(self._actor.study.remote(item))

    async def _answered(self, answer: Awaitable[T]) -> T:
        """Return what the host answers.

        Raises:
            HostLostError: If it cannot, or is given up meanwhile.
            UnfitNodeError: If its node lacks what it needs, and no host has worked here before.
        """
        asking, given_up, node = (
            asyncio.ensure_future(call_actor(answer, "a host")),
            self._given_up,
            self.node,
        )
        try:
            either: list[asyncio.Future[Any]] = [asking, given_up]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not given_up.done():
                result = asking.result()
                self._has_worked = True
                return result
        except UnfitNodeError as unfit:
            if not self._has_worked:
                raise
            self._unfit.add(node)
            raise HostGoneError(unfit.message, unfit.fix) from None
        finally:
            asking.cancel()
        raise HostLostError(f"a host is lost: it did not answer for {2 * self._machinery.silence_s:g} s.")

    async def _watch(self) -> None:
        """Give the host up when it lives and is silent; one that is dead is Ray's to bring back."""
        silent = 0
        heard: Any = None
        while True:
            actor = self._actor
            try:
                # The first answer may take long, as a process has to start; that is `_return`'s to be patient
                # with.
                async with asyncio.timeout(self._machinery.silence_s if heard is actor else None):
                    await self._monitor.answer(call_actor(actor.ping.remote(), "a host"), actor, _DEMAND)
                heard, silent = actor, 0
            except TimeoutError:
                # Twice, for this process may have been stopped itself: then the first ping was cut short.
                silent += 1
                if silent == 2 and actor is self._actor:
                    try:
                        await self._give_up()
                    except Exception:
                        # The head may be away for a moment; a call of the host then finds that it is lost.
                        _log.exception("a host that is silent could not be replaced")
                        silent = 0
                continue
            except HostLostError:
                silent = 0
            except Exception:
                # Whatever it is, a host that is not watched is worse.
                _log.exception("a host could not be pinged")
            await asyncio.sleep(self._machinery.ping_interval_s)

    async def _give_up(self) -> None:
        """Give up a host that is silent."""
        _log.warning("a host has not answered for %g s: others get its work", 2 * self._machinery.silence_s)
        await self._replace()

    async def _replace(self) -> None:
        """Fence the host off, end it if it can be ended, and start another in its place."""
        actor = self._actor
        with contextlib.suppress(StoreError):  # a full disk; the stopped host cannot write there either
            await asyncio.to_thread(self._machinery.fence, Store(self._plan.run), self._name)
        if actor is not self._actor:  # given up by another task meanwhile
            return
        if not self._given_up.done():  # else nothing came of an attempt before
            self._given_up.set_result(None)
        self._kill()
        self._settle()
        self._has_worked = True
        if self.node not in self._unfit:  # else another is in its place among those that are left
            self._seat += 1  # its node may be what is broken
        self._launch()

    def _settle(self) -> None:
        """Count what the lost host has reserved as spent. A ledger that is lost itself finds it in the
        records.
        """
        import ray

        if self._ledger:
            with contextlib.suppress(ValueError):
                ray.get_actor(self._ledger).end.remote(self._name)

    async def ready(self) -> None:
        """Return when the host works again; all who wait for it wait for one attempt to bring it back."""
        if self._returning is None or self._returning.done():
            self._returning = asyncio.create_task(self._return())
        await asyncio.shield(self._returning)

    async def _return(self) -> None:
        """Wait for Ray to bring the actor back, and start another where that fails or takes too long.

        Raises:
            HostLostError: If none of those that were started works.
        """
        for start in range(1, STARTS + 1):
            try:
                return await self._back()
            except HostLostError as error:
                reason = error.message
            if start < STARTS:
                _log.warning("a host could not be brought back, and another is started: %s", reason)
                await self._replace()
        raise HostLostError(
            f"no host could be started, {STARTS} times in a row. {reason}",
            f"Look at Ray's logs of its node ({log_folder()}), or set sweep.hosts to 0.",
        )

    async def _back(self) -> None:
        """Return when the host works; raises HostLostError if it will not, or takes too long."""
        loop = asyncio.get_running_loop()
        error = HostLostError(f"it was not ready within {_RETURN_PATIENCE_S:g} s")
        until = loop.time() + _RETURN_PATIENCE_S
        while loop.time() < until:
            try:
                async with asyncio.timeout_at(until):
                    await self._answered(self._actor.ready.remote())
                    if self._pausing:
                        await self.pause()
                return
            except HostGoneError:
                raise
            except HostLostError as lost:
                error = lost
                await asyncio.sleep(_RETURN_PAUSE_S)
            except TimeoutError:
                # Another would find no place either; `_watch` logs the wait.
                if await asyncio.to_thread(self._monitor.cluster.is_pending, self._actor):
                    until = loop.time() + _RETURN_PATIENCE_S
        raise error

    async def pause(self) -> None:
        self._pausing = True
        await self._answered(self._actor.pause.remote())

    async def counts(self) -> HostCounts:
        return await self._answered(self._actor.counts.remote())

    async def stop(self) -> None:
        # A task that still waits for the host to come back would see it end, and start another.
        tasks = [task for task in (self._watching, self._returning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        with contextlib.suppress(MaiaError, TimeoutError):
            await asyncio.wait_for(call_actor(self._actor.close.remote(), "a host"), 5)
        self._kill()

    def _kill(self) -> None:
        import ray

        ray.kill(self._actor)


def without_host(nodes: Sequence[str], hosts: Sequence[RayHost]) -> list[str]:
    """Return the nodes that are to have a host more, so that there is one for each.

    A host whose node was lost is on another: nodes that come and go do not make hosts ever more.
    """
    taken = {host.node for host in hosts}
    return [node for node in nodes if node not in taken][: max(0, len(nodes) - len(hosts))]


class RayHostGroup:
    """The hosts of a run, over the nodes of a cluster."""

    def __init__(
        self,
        plan: HostPlan,
        ledger: str,
        width: int,
        warn: Callable[[str], None],
        *,
        start: Callable[..., RayHost] = RayHost,
        worker_nodes: Callable[[], list[str]] = worker_nodes,
    ) -> None:
        """`width`: agents that a host carries; `warn` gets a sentence on each node that carries none."""
        self._plan, self._ledger, self._width, self._warn = plan, ledger, width, warn
        self._start_host, self._worker_nodes = start, worker_nodes
        self._unfit: set[str] = set()
        self._hosts: list[RayHost] = []
        self.handles: list[HostHandle] = []
        """The same hosts, as an orchestrator takes them; those of new nodes are added."""

    def start(self, count: int | None) -> None:
        """Start so many hosts, None for one on each node."""
        first = random.randrange(1024)  # several runs on a cluster shall not begin at the same node
        for seat in range(first, first + (len(self._worker_nodes()) if count is None else count)):
            self._add(self._new(seat))

    def _new(self, seat: int) -> RayHost:
        return self._start_host(self._plan, self._ledger, self._width, seat=seat, unfit=self._unfit)

    def _add(self, host: RayHost) -> None:
        self._hosts.append(host)
        self.handles.append(host)

    async def start_on_new_nodes(self) -> list[HostHandle]:
        """Start hosts on nodes that have joined since, and return those that work."""
        nodes = await asyncio.to_thread(self._worker_nodes)
        new: list[HostHandle] = []
        for node in without_host([node for node in nodes if node not in self._unfit], self._hosts):
            fit = [node for node in nodes if node not in self._unfit]
            host = self._new(fit.index(node))
            try:
                await host.ready()
            except BaseException as error:
                await host.stop()
                if not isinstance(error, Exception):
                    raise
                # What it lacks (the run's folder, a sandbox) would end the run, were it one of the run's
                # hosts.
                self._unfit.add(node)
                self._warn(f"a node has joined on which no host works: {error}")
                continue
            self._add(host)
            new.append(host)
        return new

    async def stop(self) -> None:
        await asyncio.gather(*(host.stop() for host in self._hosts))
