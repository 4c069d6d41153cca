"""Where agents live: one host carries many studies at once, over one `RunContext` and its sandbox server.

A host is a plain class; `experiments.runs.hosts` puts it into a Ray actor. It never decides what is studied,
nor whether a failure is final: it answers for each item with a result or a typed error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from actors.errors import MaiaError
from agents.evidence.verdict import HOLDING
from agents.records.journal import Journal
from agents.records.record_types import StudyResult
from agents.records.store import Store
from agents.records.work import WorkItem, build_task
from agents.repeats.repeated_study import study_repeatedly
from agents.study import survey
from agents.study.agent import StudyPausedError
from agents.study.budget import Cost, SpendingLimits, UnitAccount
from agents.study.metered import MeteredStudio
from agents.study.proposal import examine_proposal
from agents.study.rounds import Round
from agents.study.study import RunContext, StudyRequest, Supervision
from agents.study.survey import SurveyFunction
from agents.tasks.describe_unit import DescribeUnit
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

    async def study(self, item: WorkItem) -> StudyResult:
        """Return an item's result; raises MaiaError when its study failed, StudyPausedError when paused."""

    async def ready(self) -> None:
        """Return when the host can work, also after it was lost."""

    async def pause(self) -> None:
        """Let every study end with the round it is in, and begin no other."""

    async def counts(self) -> HostCounts: ...

    async def stop(self) -> None: ...


_STORE_THREADS = 16
"""Enough to keep a disk busy with flushes of several records at once; more only take turns at it."""


def widen_threads() -> None:
    """Give this loop more threads than the default by cores: most of them wait for the disk."""
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="maia-store")
    )


class LocalHost:
    """Studies in this process. `surveys` are those that a plan may name."""

    def __init__(
        self,
        run: RunContext,
        store: Store,
        subject_of: Callable[[WorkItem], Awaitable[Subject]],
        *,
        surveys: Mapping[str, SurveyFunction] | None = None,
        limits: SpendingLimits | None = None,
    ) -> None:
        self._run, self._store, self._subject_of = run, store, subject_of
        self._surveys = surveys or {}
        self._limits = limits or SpendingLimits()
        self._pausing = False
        self._rounds = 0
        self._spent = Cost()

    async def study(self, item: WorkItem) -> StudyResult:
        try:
            # All log entries from here on name the run and the unit; rounds name themselves.
            with structlog.contextvars.bound_contextvars(run=self._store.root.name, unit=item.unit):
                return await self._study(item)
        except MaiaError:
            raise
        except Exception as error:
            # A fault in this program ends one study, on record, and not those of its neighbors.
            _log.exception("the study of %s met a fault in the program", item.unit)
            raise UnexpectedError(f"the program failed: {type(error).__name__}: {error}") from error

    async def _study(self, item: WorkItem) -> StudyResult:
        if self._pausing:
            raise StudyPausedError("paused before it started.")
        account = await UnitAccount.resume(
            self._store, item.unit, self._limits, self._pay, lambda: self._pausing
        )
        subject = await self._subject_of(item)
        if item.survey:
            record = await self._survey(item, subject, account)
            if record is not None:
                return record
        if item.proposed:
            record = await self._propose(item, subject, account)
            if record is not None:
                return record
        return await study_repeatedly(
            self._run,
            StudyRequest(subject, build_task(item), item.seed, why=item.why),
            self._store,
            repeats=item.repeats,
            supervision=Supervision(account, account, self._count),
        )

    async def _survey(self, item: WorkItem, subject: Subject, account: UnitAccount) -> StudyResult | None:
        """Take an item's survey; return its result where no agent need be asked, else None."""
        journal, run = Journal(self._store, item.unit), self._run
        studio = MeteredStudio(run.studio, account, run.dollars_per_image, journal.record_image_charge)
        taken = await survey.take(self._surveys, studio, subject, item, self._store)
        if item.task and not taken.finding:
            return None
        charged = await asyncio.to_thread(journal.image_charges)
        record = survey.result(item, taken, run.facts, charged)
        await asyncio.to_thread(journal.finish, record)
        return record

    async def _propose(self, item: WorkItem, subject: Subject, account: UnitAccount) -> StudyResult | None:
        """Have the labels tested that no agent gave; return the result where no agent need be asked, else
        None.
        """
        request = StudyRequest(subject, DescribeUnit(), item.seed, why=item.why)
        result = await examine_proposal(self._run, request, item.proposed, self._store, account)
        if item.task and result.verdict not in HOLDING:
            return None
        await asyncio.to_thread(Journal(self._store, item.unit).finish, result)
        return result

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
