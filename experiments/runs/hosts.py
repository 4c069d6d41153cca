"""Hosts in processes of their own, spread over a cluster, that share one set of models.

A plain class holds all that a host does (`agents.orchestration.host.LocalHost` over a joined workbench); the
actor below it adds the life in a process. Ray restarts a dead host, and repeats no call: what it was doing is
given out again by the orchestrator, and goes on from the store. A host that lives and does not answer is
found out here: it is fenced off from the store (`agents.records.fence`) and another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import platform
import uuid
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from actors.cluster.connection import log_folder
from actors.cluster.placement import Demand, PlacementMonitor, worker_nodes
from actors.errors import MaiaError, UsageError
from actors.runtime import work_in
from actors.serving.cluster import what_ray_says
from agents.orchestration.host import HostCounts, LocalHost, SpendingLimits, widen_threads
from agents.records.fence import FencedStore, fence
from agents.records.record_types import StudyResult
from agents.records.store import Store, StoreError
from agents.records.work import KEY as PLAN
from agents.records.work import WorkItem
from agents.study.budget import Cost, Ledger
from agents.study.faults import HostLostError
from experiments.runs.context_survey import SURVEYS
from experiments.setup.config import Profile

T = TypeVar("T")

_log = logging.getLogger(__name__)

SILENCE_S = 30.0
"""A host that twice in a row does not answer within this time is given up. Long: a loop may be busy, two
cores shared.
"""
LOOK_S = 5.0
"""Pause between two looks at a host."""
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
    model: str
    addresses: Mapping[str, str]
    run: Path
    folder: Path = field(default_factory=Path.cwd)
    """Where the command was typed."""


class HostGoneError(HostLostError):
    """A host that Ray will not bring back: it could not be built, was ended, or its node is lost."""


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

        account = RemoteAccount(self._ledger) if self._ledger else None
        if account is not None:
            await account.begin(self._name)
        return LocalHost(
            bench.context,
            FencedStore(plan.run, self._name),
            subject_of,
            surveys=SURVEYS,
            limits=SpendingLimits(account, plan.profile.sweep.unit_budget),
        )

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


class LedgerActor:
    """A run's account, where every host can reach it. A restart finds in the records what was spent.

    Each reservation is known by a number and by the life (`HOST/LIFE`) of the host that made it: what a host
    held when it died counts as spent, like any call whose outcome is not known, and nobody waits for it to be
    settled.
    """

    def __init__(self, profile: Profile, run: Path) -> None:
        from agents.study.budget import spent_so_far

        spent = spent_so_far(
            Store(run), problems=[]
        )  # told by the campaign, which checks them against the budget
        self._ledger = Ledger(profile.sweep.budget, spent, elapsed_s=_elapsed(run))
        self._lives: dict[str, str] = {}
        """By host, its latest life; "" of one that is lost."""
        self._held: dict[tuple[str, int], Cost] = {}
        """By life and number."""
        self._unwanted: set[tuple[str, int]] = set()
        """What was settled before it was granted: whoever asked for it has gone."""

    async def begin(self, host: str, life: str) -> None:
        """Let a host begin: its lives before are over."""
        self._lives[host] = life
        await self._settle_lost()

    async def end(self, host: str) -> None:
        """Count what a host that is lost holds as spent."""
        self._lives[host] = ""
        await self._settle_lost()

    async def _settle_lost(self) -> None:
        for key in [key for key in self._held if self._is_over(key[0])]:
            cost = self._held.pop(key)
            await self._ledger.settle(cost, cost)
        self._unwanted = {key for key in self._unwanted if not self._is_over(key[0])}

    def _is_over(self, life: str) -> bool:
        return self._lives.get(life.rpartition("/")[0], life) != life

    async def reserve(self, cost: Cost, life: str, number: int) -> None:
        await self._ledger.reserve(cost)
        if self._is_over(life):
            # Its host was lost while this waited for room: nobody would settle it.
            await self._ledger.settle(cost, Cost())
            raise HostLostError("a host is lost: others have its work.")
        self._held[life, number] = cost
        if (life, number) in self._unwanted:
            self._unwanted.remove((life, number))
            await self.settle(Cost(), life, number)

    async def settle(self, spent: Cost, life: str, number: int) -> str:
        """Settle a reservation.

        One that is not known has been counted already, when its host or this account was lost, or is given
        back as soon as it is granted.
        """
        reserved = self._held.pop((life, number), None)
        if reserved is None:
            if not self._is_over(life):
                self._unwanted.add((life, number))
            return await self._ledger.near()
        return await self._ledger.settle(reserved, spent)

    async def near(self) -> str:
        return await self._ledger.near()


def _elapsed(run: Path) -> Any:
    from agents.records.lease import worked_s

    return lambda: worked_s(Store(run))


class RemoteAccount:
    """The run's account as a host sees it. Without the ledger nothing is spent: the study is lost and
    repeated.
    """

    def __init__(self, name: str) -> None:
        import ray

        self._actor = ray.get_actor(name)
        self._life = ""
        self._numbers = itertools.count()
        self._open: list[tuple[Cost, int]] = []

    async def begin(self, host: str) -> None:
        self._life = f"{host}/{uuid.uuid4().hex}"
        await _ask(self._actor.begin.remote(host, self._life), "the ledger")

    async def reserve(self, cost: Cost) -> None:
        number = next(self._numbers)
        try:
            await _ask(self._actor.reserve.remote(cost, self._life, number), "the ledger")
        except BaseException:
            # It may have been granted, or be yet. Nobody waits for the answer; an account that is gone holds
            # nothing.
            with contextlib.suppress(Exception):
                self._actor.settle.remote(Cost(), self._life, number)
            raise
        self._open.append((cost, number))

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        entry = next(each for each in self._open if each[0] == reserved)
        self._open.remove(entry)
        return await _ask(self._actor.settle.remote(spent, self._life, entry[1]), "the ledger")

    async def near(self) -> str:
        return await _ask(self._actor.near.remote(), "the ledger")


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
        silence_s: float = SILENCE_S,
    ) -> None:
        """`ledger` is the name of the run's account, "" for none. Must be made on the event loop.

        Hosts with seats in a row are on as many nodes as there are. `unfit` are the ids of nodes on which
        none works, known to all hosts of a run, each of which adds those that it meets.
        """
        self._plan, self._ledger, self._width, self._silence_s = plan, ledger, width, silence_s
        self._seat = seat
        self._unfit = set() if unfit is None else unfit
        self._begun = False
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
        nodes = worker_nodes()
        nodes = [node for node in nodes if node not in self._unfit] or nodes
        self.node = node = nodes[self._seat % len(nodes)]
        self._actor = (
            ray.remote(HostActor)
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
            UnfitNodeError: If its node lacks what it needs, and no host has begun here before.
        """
        asking, given_up, node = asyncio.ensure_future(_ask(answer, "a host")), self._given_up, self.node
        try:
            either: list[asyncio.Future[Any]] = [asking, given_up]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not given_up.done():
                found = asking.result()
                self._begun = True
                return found
        except UnfitNodeError as unfit:
            if not self._begun:
                raise
            self._unfit.add(node)
            raise HostGoneError(unfit.message, unfit.fix) from None
        finally:
            asking.cancel()
        raise HostLostError(f"a host is lost: it did not answer for {2 * self._silence_s:g} s.")

    async def _watch(self) -> None:
        """Give the host up when it lives and is silent; one that is dead is Ray's to bring back."""
        silent = 0
        heard: Any = None
        while True:
            actor = self._actor
            try:
                # The first answer may take long, as a process has to start; that is `_return`'s to be patient
                # with.
                async with asyncio.timeout(self._silence_s if heard is actor else None):
                    await self._monitor.answer(_ask(actor.ping.remote(), "a host"), actor, _DEMAND)
                heard, silent = actor, 0
            except TimeoutError:
                # Twice, for this process may have been stopped itself: then the first look was cut short.
                silent += 1
                if silent == 2 and actor is self._actor:
                    try:
                        await self._give_up()
                    except Exception:
                        # The head may be away for a moment; whoever asks the host then finds that it is lost.
                        _log.exception("a host that is silent could not be replaced")
                        silent = 0
                continue
            except HostLostError:
                silent = 0
            except Exception:
                # Whatever it is, a host that nobody watches is worse.
                _log.exception("a host could not be looked at")
            await asyncio.sleep(LOOK_S)

    async def _give_up(self) -> None:
        """Give up a host that is silent."""
        _log.warning("a host has not answered for %g s: others get its work", 2 * self._silence_s)
        await self._replace()

    async def _replace(self) -> None:
        """Fence the host off, end it if it can be ended, and start another in its place."""
        actor = self._actor
        with contextlib.suppress(StoreError):  # a full disk; the stopped host cannot write there either
            await asyncio.to_thread(fence, Store(self._plan.run), self._name)
        if actor is not self._actor:  # given up by somebody else meanwhile
            return
        if not self._given_up.done():  # else nothing came of an attempt before
            self._given_up.set_result(None)
        self._kill()
        self._settle()
        self._begun = True
        if self.node not in self._unfit:  # else another is in its place among those that are left
            self._seat += 1  # its node may be what is broken
        self._launch()

    def _settle(self) -> None:
        """Let nobody wait for what the lost host has set aside. A ledger that is lost itself finds it in the
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
                # Another would find no place either; `_watch` tells about the wait.
                if await asyncio.to_thread(self._monitor.cluster.is_pending, self._actor):
                    until = loop.time() + _RETURN_PATIENCE_S
        raise error

    async def pause(self) -> None:
        self._pausing = True
        await self._answered(self._actor.pause.remote())

    async def counts(self) -> HostCounts:
        return await self._answered(self._actor.counts.remote())

    async def stop(self) -> None:
        # Whoever still waits for the host to come back would see it end, and start another.
        looking = [task for task in (self._watching, self._returning) if task is not None]
        for task in looking:
            task.cancel()
        await asyncio.wait(looking)
        with contextlib.suppress(MaiaError, TimeoutError):
            await asyncio.wait_for(_ask(self._actor.close.remote(), "a host"), 5)
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


async def _ask(answer: Awaitable[T], who: str) -> T:
    """Return what an actor answers; raises HostLostError if it cannot."""
    from ray import exceptions

    try:
        return await answer
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, MaiaError):
            raise error.cause from None
        raise
    except (exceptions.ActorDiedError, exceptions.ActorUnschedulableError) as error:
        raise HostGoneError(f"{who} is lost: {what_ray_says(error)}") from None
    except exceptions.RayError as error:
        raise HostLostError(f"{who} is lost: {what_ray_says(error)}") from None


@contextlib.contextmanager
def ledger(profile: Profile, run: Path) -> Iterator[str]:
    """Start the account of a run with hosts of their own, and yield its name; "" where nothing is limited."""
    import ray

    if not profile.sweep.budget.limited:
        yield ""
        return
    name = f"ledger-{uuid.uuid4().hex[:12]}"
    actor = (
        ray.remote(LedgerActor)
        .options(name=name, num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=4096)
        .remote(profile, run)
    )
    try:
        yield name
    finally:
        ray.kill(actor)
