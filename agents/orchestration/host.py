"""Where agents live: one host carries many studies at once, over one laboratory and its sandbox server.

A host is a plain class; `experiments.runs.hosts` puts it into a Ray actor. It never decides what is studied,
nor whether a failure is final: it answers for each item with a result or a typed error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from actors.errors import MaiaError
from agents.records.journal import Journal, slug
from agents.records.store import Store
from agents.records.work import WorkItem, build_task
from agents.repeats.repeated_study import study_repeatedly
from agents.study import survey
from agents.study.budget import (
    Account,
    BudgetSettings,
    Cost,
    Ledger,
    UnitAccount,
    UnitBudgetError,
    spent_so_far,
)
from agents.study.interpreter import Round, StudyPausedError
from agents.study.study import Laboratory
from agents.study.survey import SurveyFunction
from agents.tasks.base import Task
from tools.subject import Subject

_log = logging.getLogger(__name__)


class UnexpectedError(MaiaError):
    """A fault that no part of the program foresaw; the log has its traceback."""


@dataclass(frozen=True, slots=True)
class HostCounts:
    """What a host has done since it started."""

    rounds: int = 0
    tokens: int = 0
    dollars: float = 0.0
    images: int = 0
    unpriced: int = 0


class HostHandle(Protocol):
    """A host, here or elsewhere. Every method raises HostLostError when it cannot answer."""

    async def study(self, item: WorkItem) -> dict[str, Any]:
        """Return the result of an item; raises MaiaError when the study failed, StudyPausedError when paused."""

    async def ready(self) -> None:
        """Return when the host can work, also after it was lost."""

    async def pause(self) -> None:
        """Let every study end with the round it is in, and begin no other."""

    async def counts(self) -> HostCounts: ...

    async def stop(self) -> None: ...


class _Steering:
    """A host's and a budget's word to one study."""

    def __init__(self, pausing: Callable[[], bool], account: UnitAccount) -> None:
        self._pausing, self._account = pausing, account

    def paused(self) -> bool:
        return self._pausing()

    def conclude(self) -> str:
        return self._account.reason


_STORE_THREADS = 16
"""Enough to keep a disk busy with flushes of several records at once; more only take turns at it."""


def widen_threads() -> None:
    """Give this loop more threads than the few that the cores would get it: most of them wait for the disk."""
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="maia-store")
    )


class LocalHost:
    """Studies in this process, paid from the run's account and each within `unit_budget`."""

    def __init__(
        self,
        laboratory: Laboratory,
        store: Store,
        subject_of: Callable[[WorkItem], Awaitable[Subject]],
        task_of: Callable[[WorkItem], Task] = build_task,
        *,
        surveys: Mapping[str, SurveyFunction] | None = None,
        account: Account | None = None,
        unit_budget: BudgetSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._laboratory, self._store = laboratory, store
        self._subject_of, self._task_of = subject_of, task_of
        self._surveys = surveys or {}
        self._account = account or Ledger(BudgetSettings())
        self._unit_budget = unit_budget or BudgetSettings()
        self._clock = clock
        self._pausing = False
        self._rounds = 0
        self._spent = Cost()

    async def study(self, item: WorkItem) -> dict[str, Any]:
        try:
            # Whatever is logged from here on says of which run and unit; rounds name themselves.
            with structlog.contextvars.bound_contextvars(run=self._store.root.name, unit=item.unit):
                return await self._study(item)
        except MaiaError:
            raise
        except Exception as error:
            # A fault in this program ends one study, on record, and not those of its neighbours.
            _log.exception("the study of %s met a fault in the program", item.unit)
            raise UnexpectedError(f"the program failed: {type(error).__name__}: {error}") from error

    async def _study(self, item: WorkItem) -> dict[str, Any]:
        if self._pausing:
            raise StudyPausedError("paused before it began.")
        folder = f"units/{slug(item.unit)}"
        before = await asyncio.to_thread(spent_so_far, self._store, folder)
        begun = self._clock()
        purse = Ledger(
            self._unit_budget,
            before,
            what="unit",
            error=UnitBudgetError,
            elapsed_s=lambda: self._clock() - begun,
        )
        account = UnitAccount(purse, self._account, self._pay)
        first = (f"{folder}/{below}rounds/0001.json" for below in ("", "repeats/1/"))
        await account.open(begun=any(map(self._store.has, first)))
        subject = await self._subject_of(item)
        if item.survey:
            lab = self._laboratory
            found = await survey.take(
                self._surveys, lab.studio, subject, item, self._store, account, lab.dollars_per_image
            )
            if not item.task or found.get("finding"):
                journal = Journal(self._store, item.unit)
                charged = await asyncio.to_thread(journal.image_charges)
                record = survey.result(item, found, lab.facts, charged)
                await asyncio.to_thread(journal.finish, record)
                return record
        return await study_repeatedly(
            self._laboratory,
            subject,
            self._task_of(item),
            self._store,
            seed=item.seed,
            repeats=item.repeats,
            steering=_Steering(lambda: self._pausing, account),
            account=account,
            on_round=self._count,
        )

    async def ready(self) -> None: ...

    async def pause(self) -> None:
        self._pausing = True

    async def counts(self) -> HostCounts:
        spent = self._spent
        return HostCounts(self._rounds, spent.tokens, spent.dollars, spent.images, spent.unpriced)

    async def stop(self) -> None: ...

    def _count(self, number: int, finished: Round) -> None:
        self._rounds += 1

    def _pay(self, cost: Cost) -> None:
        self._spent = self._spent + cost
