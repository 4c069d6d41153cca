"""The queue of a coalescer: jobs of one priority and one bucket, taken in turns of all agents."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic

from actors.errors import MaiaError
from actors.serving.backend import Priority, RequestT, ResultT


class Waiter(Generic[RequestT, ResultT]):
    """One caller that waits for a job; after `withdraw` nothing is delivered to it."""

    __slots__ = ("_on_withdraw", "deliver", "job", "request")

    def __init__(
        self,
        on_withdraw: Callable[[Waiter[RequestT, ResultT]], None],
        request: RequestT,
        deliver: Callable[[ResultT | MaiaError], object],
    ) -> None:
        self._on_withdraw = on_withdraw
        self.request = request
        self.deliver = deliver
        self.job: Job[RequestT, ResultT] | None = None

    def withdraw(self) -> None:
        """Stop waiting. Nothing happens if it was already answered."""
        if self.job is not None:
            self._on_withdraw(self)


class Job(Generic[RequestT, ResultT]):
    """One request to the backend, merged from those of all its callers."""

    __slots__ = ("agent", "key", "queue", "rank", "request", "since", "waiters")

    def __init__(
        self,
        key: Hashable | None,
        request: RequestT,
        rank: float,
        agent: str,
        queue: FairQueue[RequestT, ResultT] | None,
        since: float,
    ) -> None:
        self.key = key
        self.request = request
        self.rank = rank
        self.agent = agent
        self.queue: FairQueue[RequestT, ResultT] | None = queue
        """The queue in which it waits; None once it runs or is withdrawn, and for what bypasses the queue."""
        self.since = since
        self.waiters: list[Waiter[RequestT, ResultT]] = []


class FairQueue(Generic[RequestT, ResultT]):
    """The waiting jobs of one priority and one bucket, taken round-robin by agent."""

    __slots__ = ("_arrivals", "_by_agent", "_turn", "bucket", "n_jobs", "priority")

    def __init__(self, priority: Priority, bucket: Hashable) -> None:
        self.priority, self.bucket = priority, bucket
        self.n_jobs = 0
        self._by_agent: dict[str, deque[Job[RequestT, ResultT]]] = {}
        self._turn: list[Job[RequestT, ResultT]] = []
        self._arrivals: deque[Job[RequestT, ResultT]] = deque()

    def add(self, job: Job[RequestT, ResultT]) -> None:
        self.n_jobs += 1
        self._arrivals.append(job)
        queue = self._by_agent.get(job.agent)
        if queue is None:
            queue = self._by_agent[job.agent] = deque()
        queue.append(job)

    def oldest(self) -> float:
        """Return since when the oldest job waits. Only for queues that hold jobs."""
        arrivals = self._arrivals
        while arrivals[0].queue is not self:  # running, withdrawn or moved to another queue
            arrivals.popleft()
        return arrivals[0].since

    def take(self, limit: int) -> list[Job[RequestT, ResultT]]:
        """Remove and return up to `limit` jobs: whole turns, as far as they fit."""
        taken: list[Job[RequestT, ResultT]] = []
        while len(taken) < limit and self.n_jobs:
            if not self._turn:
                self._start_turn()
            job = self._turn.pop()
            if job.queue is self:
                job.queue = None
                self.n_jobs -= 1
                taken.append(job)
        return taken

    def _start_turn(self) -> None:
        """Take one job of each agent, so that an agent with many waits for those with few."""
        by_agent, turn = self._by_agent, self._turn
        emptied = []
        for agent, queue in by_agent.items():
            while queue:
                job = queue.popleft()
                if job.queue is self:
                    turn.append(job)
                    break
            if not queue:
                emptied.append(agent)
        for agent in emptied:
            del by_agent[agent]
        # Taken from the end: the lowest rank goes first, and the sort keeps agents' order among equals.
        turn.sort(key=rank_of)
        turn.reverse()


def rank_of(job: Job[Any, Any]) -> float:
    return job.rank
