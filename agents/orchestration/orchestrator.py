"""Spreads studies over hosts, and sees each to one of two ends: a result, or a typed failure on record.

Knows nothing of Ray, models or prompts. Results are put-if-absent, so an item that two hosts work on after
a network cut has one result all the same; an item is given again only when its host is lost or its
machinery failed, and not more often than `ATTEMPTS` times without a round in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.errors import MaiaError
from actors.grouping import task_group
from agents.orchestration.host import HostHandle
from agents.records.journal import stop_key, unit_folder
from agents.records.record_types import OUT_OF_BUDGET, FailureRecord, encode_record
from agents.records.store import Store, StoreError
from agents.records.work import WorkItem
from agents.study.agent import StudyPausedError
from agents.study.budget import BudgetSpentError, UnitBudgetError
from agents.study.faults import CONCERNS_ALL, INFRASTRUCTURE, HostLostError

_log = logging.getLogger(__name__)

ATTEMPTS = 3


@dataclass
class Outcome:
    """How a run ended. `stopped` is why it did not finish, None if every item came to an end.

    Results are in the store, and only named here: those of a large run do not fit into memory.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, FailureRecord] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    stopped: MaiaError | None = None
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an item: "started", "done", "failed", "again", "out of budget", "paused"."""

    kind: str
    item: WorkItem


class Orchestrator:
    """Runs items on hosts, at most `agents_per_host` at once on each."""

    def __init__(
        self,
        store: Store,
        hosts: Sequence[HostHandle],
        *,
        agents_per_host: int,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._store, self._hosts, self._width = store, list(hosts), agents_per_host
        self._on_event = on_event
        self._waiting: deque[WorkItem] = deque()
        self._attempts: Counter[tuple[str, int]] = Counter()
        """By item and the rounds it had: one that comes on is no danger to its hosts."""
        self._gone: list[HostHandle] = []
        self._outcome = Outcome()
        self._pausing = False
        self._open = 0
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self, items: Sequence[WorkItem]) -> Outcome:
        """Bring every item to its end, or stop in a state that can be resumed and say why.

        Cancelling it cancels every study at once; pausing lets each finish its round.
        """
        self._waiting.extend(items)
        self._open = len(self._waiting)
        workers = min(self._width, max(1, -(-self._open // max(1, len(self._hosts)))))
        async with task_group() as group:
            self._group = group
            # Round by round over the hosts, so that the first items spread over all of them.
            for _ in range(workers):
                for host in self._hosts:
                    group.create_task(self._work(host))
        self._outcome.unfinished += [item.unit for item in self._waiting]
        # Asked to stop while the last studies ended by themselves, a run is finished like any other.
        self._outcome.paused = (
            self._pausing and self._outcome.stopped is None and bool(self._outcome.unfinished)
        )
        return self._outcome

    def join(self, host: HostHandle) -> None:
        """Give a host that comes later its part of what waits. Where nothing is left to do, it gets none."""
        self._hosts.append(host)
        if self._group is not None and self._open and not self._pausing:
            for _ in range(min(self._width, self._open)):
                self._group.create_task(self._work(host))

    async def pause(self) -> None:
        """Begin no study, and let those that run end with their round."""
        self._pausing = True
        self._news.set()
        results = await asyncio.gather(*(host.pause() for host in self._hosts), return_exceptions=True)
        for result in results:
            # A host that is lost, or never worked, has nothing to pause.
            if isinstance(result, BaseException) and not isinstance(result, MaiaError):
                raise result

    async def _work(self, host: HostHandle) -> None:
        while (item := await self._next()) is not None:
            self._on_event(Event("started", item))
            try:
                await host.study(item)
            except StudyPausedError:
                self._on_event(Event("paused", item))
                self._close(item)
            except INFRASTRUCTURE as error:
                await self._again(item, error)
                if isinstance(error, HostLostError) and not await self._is_back(host):
                    return
            except BudgetSpentError as error:
                # Nothing new begins, but what runs may still conclude: its last replies were budgeted for.
                self._close(item)
                self._outcome.stopped = self._outcome.stopped or error
                self._pausing = True
                self._news.set()
            except UnitBudgetError as error:
                await self._leave(item, error)
            except CONCERNS_ALL as error:
                self._close(item)
                await self._stop(error)
            except MaiaError as error:
                await self._fail(item, error)
            else:
                self._outcome.done.append(item.unit)
                self._on_event(Event("done", item))
                self._finish()

    async def _next(self) -> WorkItem | None:
        """Return an item, None when there will be no more; an item in work elsewhere may come back."""
        while not self._pausing and self._open:
            if self._waiting:
                return self._waiting.popleft()
            self._news.clear()
            await self._news.wait()
        return None

    async def _is_back(self, host: HostHandle) -> bool:
        """Wait for a lost host; False if it cannot work again, which stops the run if it was the last."""
        if host in self._gone or self._pausing:
            return False
        try:
            await host.ready()
        except MaiaError as error:
            if host not in self._gone:
                self._gone.append(host)
                _log.warning("a host cannot work again: %s", error)
            if len(self._gone) == len(self._hosts):
                await self._stop(error)
            return False
        return True

    async def _again(self, item: WorkItem, error: MaiaError) -> None:
        rounds = await asyncio.to_thread(self._rounds, item)
        self._attempts[item.unit, rounds] += 1
        if self._attempts[item.unit, rounds] >= ATTEMPTS:
            await self._fail(item, error)
            return
        _log.warning("%s is taken up again: %s", item.unit, error)
        self._on_event(Event("again", item))
        self._waiting.append(item)
        self._news.set()

    def _rounds(self, item: WorkItem) -> int:
        keys = self._store.keys(unit_folder(item.unit))
        return sum("/rounds/" in key for key in keys)

    async def _fail(self, item: WorkItem, error: MaiaError) -> None:
        record = FailureRecord.of(item.unit, item.task, error)
        try:
            await asyncio.to_thread(record_failure, self._store, item.unit, record)
        except StoreError as full:
            self._close(item)
            await self._stop(full)
            return
        self._outcome.failed[item.unit] = record
        self._on_event(Event("failed", item))
        self._finish()

    async def _leave(self, item: WorkItem, error: UnitBudgetError) -> None:
        """Write down that an item's own budget is spent: it has not failed, and goes on with a larger one."""
        record = FailureRecord.of(item.unit, item.task, error, OUT_OF_BUDGET)
        try:
            await asyncio.to_thread(self._store.replace, stop_key(item.unit), encode_record(record))
        except StoreError as full:
            await self._stop(full)
        self._on_event(Event(OUT_OF_BUDGET, item))
        self._close(item)

    async def _stop(self, error: MaiaError) -> None:
        if self._outcome.stopped is None:
            self._outcome.stopped = error
            await self.pause()

    def _close(self, item: WorkItem) -> None:
        self._outcome.unfinished.append(item.unit)
        self._finish()

    def _finish(self) -> None:
        self._open -= 1
        if not self._open:
            self._news.set()  # nothing can come back to those who wait


def record_failure(store: Store, unit: str, record: FailureRecord) -> None:
    """Write a failure next to those that the unit had before."""
    data = encode_record(record)
    number = 1
    while not store.put(f"{unit_folder(unit)}/failed-{number}.json", data):
        number += 1
