"""Where agents live: one host carries many studies at once, over one laboratory and its sandbox server.

A host is a plain class; `experiments.hosts` puts it into a Ray actor. It never decides what is studied, nor
whether a failure is final: it answers for each item with a result or a typed error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.errors import MaiaError
from agents.interpreter import Round
from agents.store import Store
from agents.study import Laboratory, study
from agents.tasks.base import Task
from agents.work import WorkItem
from tools.subject import Subject

_log = logging.getLogger(__name__)


class UnexpectedError(MaiaError):
    """A fault that no part of the program foresaw; the log has its traceback."""


class HostLostError(MaiaError):
    """A host died or cannot be reached; what it was doing is safe in the store and can be done by another."""


@dataclass(frozen=True, slots=True)
class HostCounts:
    """What a host has done since it started."""

    rounds: int = 0
    tokens: int = 0
    dollars: float = 0.0
    images: int = 0


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
    """One host's word to its studies."""

    def __init__(self) -> None:
        self.pausing = False

    def paused(self) -> bool:
        return self.pausing

    def conclude(self) -> str:
        return ""


class LocalHost:
    """Studies in this process."""

    def __init__(
        self,
        laboratory: Laboratory,
        store: Store,
        subject_of: Callable[[WorkItem], Awaitable[Subject]],
        task_of: Callable[[WorkItem], Task],
    ) -> None:
        self._laboratory, self._store = laboratory, store
        self._subject_of, self._task_of = subject_of, task_of
        self._steering = _Steering()
        self._rounds = 0
        self._tokens = 0
        self._dollars = 0.0

    async def study(self, item: WorkItem) -> dict[str, Any]:
        try:
            return await study(
                self._laboratory,
                await self._subject_of(item),
                self._task_of(item),
                self._store,
                seed=item.seed,
                steering=self._steering,
                on_round=self._count,
            )
        except MaiaError:
            raise
        except Exception as error:
            # A fault in this program ends one study, on record, and not those of its neighbours.
            _log.exception("the study of %s met a fault in the program", item.unit)
            raise UnexpectedError(f"the program failed: {type(error).__name__}: {error}") from error

    async def ready(self) -> None: ...

    async def pause(self) -> None:
        self._steering.pausing = True

    async def counts(self) -> HostCounts:
        return HostCounts(self._rounds, self._tokens, self._dollars)

    async def stop(self) -> None: ...

    def _count(self, finished: Round) -> None:
        usage = finished.reply.usage
        self._rounds += 1
        self._tokens += usage.prompt_tokens + usage.completion_tokens
        self._dollars += usage.dollars
