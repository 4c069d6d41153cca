"""Hosts in processes of their own, spread over a cluster, that share one set of models.

A plain class holds all that a host does (`agents.host.LocalHost` over a joined workbench); the actor below it
adds the life in a process. Ray restarts a dead host, and repeats no call: what it was doing is given out again
by the orchestrator, and goes on from the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.errors import MaiaError
from agents.budget import Cost, Ledger
from agents.faults import HostLostError
from agents.host import HostCounts, LocalHost, widen_threads
from agents.store import Store
from agents.work import WorkItem
from experiments.config import Profile

T = TypeVar("T")

_RETURN_PAUSE_S = 0.5
_RETURN_PATIENCE_S = 120.0
"""How long a host that is lost may take to come back before another is started."""


@dataclass(frozen=True)
class HostPlan:
    """All that a host is made of, as plain values."""

    profile: Profile
    cache: Path
    model: str
    addresses: Mapping[str, str]
    run: Path


class HostActor:
    """What Ray runs."""

    def __init__(self, plan: HostPlan, ledger: str) -> None:
        """`ledger` is the name of the run's account, "" where nothing is limited and each host may keep its own."""
        self._plan, self._ledger = plan, ledger
        self._stack = contextlib.AsyncExitStack()
        self._opening: asyncio.Task[LocalHost] | None = None

    async def _open(self) -> LocalHost:
        from experiments.workbench import Workbench

        widen_threads()
        plan = self._plan
        bench = await self._stack.enter_async_context(
            Workbench.join(plan.profile, cache=plan.cache, model=plan.model, addresses=plan.addresses)
        )

        async def subject_of(item: WorkItem) -> Any:
            return await bench.subject(item.layer, item.name)

        return LocalHost(
            bench.laboratory,
            Store(plan.run),
            subject_of,
            account=RemoteAccount(self._ledger) if self._ledger else None,
            unit_budget=plan.profile.sweep.unit_budget,
        )

    async def _host(self) -> LocalHost:
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def ready(self) -> None:
        await self._host()

    async def study(self, item: WorkItem) -> dict[str, Any]:
        return await (await self._host()).study(item)

    async def pause(self) -> None:
        await (await self._host()).pause()

    async def counts(self) -> HostCounts:
        return await (await self._host()).counts()

    async def close(self) -> None:
        await self._stack.aclose()


class LedgerActor:
    """A run's account, where every host can reach it. A restart finds in the records what was spent."""

    def __init__(self, profile: Profile, run: Path) -> None:
        from agents.budget import spent_so_far

        self._ledger = Ledger(profile.sweep.budget, spent_so_far(Store(run)), elapsed_s=_elapsed(run))

    async def reserve(self, cost: Cost) -> None:
        await self._ledger.reserve(cost)

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        return await self._ledger.settle(reserved, spent)

    async def near(self) -> str:
        return await self._ledger.near()


def _elapsed(run: Path) -> Any:
    from agents.lease import worked_s

    return lambda: worked_s(Store(run))


class RemoteAccount:
    """The run's account as a host sees it. Without the ledger nothing is spent: the study is lost and repeated."""

    def __init__(self, name: str) -> None:
        import ray

        self._actor = ray.get_actor(name)

    async def reserve(self, cost: Cost) -> None:
        await _ask(self._actor.reserve.remote(cost), "the ledger")

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        return await _ask(self._actor.settle.remote(reserved, spent), "the ledger")

    async def near(self) -> str:
        return await _ask(self._actor.near.remote(), "the ledger")


class RayHost:
    """A host in a Ray actor, as the orchestrator sees it."""

    def __init__(self, plan: HostPlan, ledger: str, width: int) -> None:
        """`ledger` is the name of the run's account, "" for none."""
        self._plan, self._ledger, self._width = plan, ledger, width
        self._actor = self._launch()
        self._pausing = False
        self._returning: asyncio.Task[None] | None = None

    def _launch(self) -> Any:
        import ray

        return (
            ray.remote(HostActor)
            .options(
                num_cpus=0,
                scheduling_strategy="SPREAD",
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=self._width + 16,
            )
            .remote(self._plan, self._ledger)
        )

    async def study(self, item: WorkItem) -> dict[str, Any]:
        return await _ask(self._actor.study.remote(item), "a host")

    async def ready(self) -> None:
        """Return when the host works again; all who wait for it wait for one attempt to bring it back."""
        if self._returning is None or self._returning.done():
            self._returning = asyncio.create_task(self._return())
        await asyncio.shield(self._returning)

    async def _return(self) -> None:
        """Wait for Ray to bring the actor back, and start another whenever that takes too long."""
        while True:
            try:
                async with asyncio.timeout(_RETURN_PATIENCE_S):
                    while True:
                        try:
                            await _ask(self._actor.ready.remote(), "a host")
                            if self._pausing:
                                await self.pause()
                            return
                        except HostLostError:
                            await asyncio.sleep(_RETURN_PAUSE_S)
            except TimeoutError:
                self._kill()
                self._actor = self._launch()

    async def pause(self) -> None:
        self._pausing = True
        await _ask(self._actor.pause.remote(), "a host")

    async def counts(self) -> HostCounts:
        return await _ask(self._actor.counts.remote(), "a host")

    async def stop(self) -> None:
        with contextlib.suppress(MaiaError, TimeoutError):
            await asyncio.wait_for(_ask(self._actor.close.remote(), "a host"), 5)
        self._kill()

    def _kill(self) -> None:
        import ray

        ray.kill(self._actor)


async def _ask(answer: Awaitable[T], who: str) -> T:
    """Return what an actor answers; raises HostLostError if it cannot."""
    from ray import exceptions

    try:
        return await answer
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, MaiaError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HostLostError(f"{who} is lost: {first}") from None


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
