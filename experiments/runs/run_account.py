"""The account of a run whose hosts are processes of their own: a ledger in a Ray actor."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.records.lease import worked_s
from agents.records.store import Store
from agents.study.budget import Cost, Ledger, spent_so_far
from agents.study.faults import HostLostError
from experiments.runs.ray_call import call_actor
from experiments.setup.config import Profile


class LedgerActor:
    """A run's account, where every host can reach it. A restart finds in the records what was spent.

    Each reservation is known by a number and by the life (`HOST/LIFE`) of the host that made it: what a host
    held when it died counts as spent, like any call whose outcome is not known, and no call waits for it to
    be settled.
    """

    def __init__(self, profile: Profile, run: Path) -> None:
        store = Store(run)
        # The campaign has reported damaged records, and checked them against the budget.
        spent = spent_so_far(store, problems=[])
        self._ledger = Ledger(profile.sweep.budget, spent, elapsed_s=lambda: worked_s(store))
        self._lives: dict[str, str] = {}
        """By host, its latest life; "" of one that is lost."""
        self._held: dict[tuple[str, int], Cost] = {}
        """By life and number."""
        self._unwanted: set[tuple[str, int]] = set()
        """What was settled before it was granted: its caller has gone."""

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
            # Its host was lost while this waited for room: it would never be settled.
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


class RemoteAccount:
    """The run's account as a host sees it. Without the ledger nothing is spent: the study is lost and
    repeated.
    """

    def __init__(self, actor: Any) -> None:
        """`actor` is the handle of the run's `LedgerActor`."""
        self._actor = actor
        self._life = ""
        self._numbers = itertools.count()
        self._open: list[tuple[Cost, int]] = []

    async def begin(self, host: str) -> None:
        self._life = f"{host}/{uuid.uuid4().hex}"
        await call_actor(self._actor.begin.remote(host, self._life), "the ledger")

    async def reserve(self, cost: Cost) -> None:
        number = next(self._numbers)
        try:
            await call_actor(self._actor.reserve.remote(cost, self._life, number), "the ledger")
        except BaseException:
            # It may have been granted, or be yet. Nobody waits for the answer; an account that is gone holds
            # nothing.
            with contextlib.suppress(Exception):
                self._actor.settle.remote(Cost(), self._life, number)
            raise
        self._open.append((cost, number))

    async def settle(self, reserved: Cost, spent: Cost) -> str:
        entry = next(reservation for reservation in self._open if reservation[0] == reserved)
        self._open.remove(entry)
        return await call_actor(self._actor.settle.remote(spent, self._life, entry[1]), "the ledger")

    async def near(self) -> str:
        return await call_actor(self._actor.near.remote(), "the ledger")


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
