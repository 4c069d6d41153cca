"""The interface between a model backend and the code that shares it among many callers.

A backend knows its model and nothing of queues; the coalescer, the replica and the pool know queues
and nothing of models. What they must know of a request (may it be shared, merged, batched
with that other one?) it asks the backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, runtime_checkable

from actors.errors import MaiaError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


Readiness = Literal["ready", "not asked", "optional", "missing"]
"""Whether something could be used on this machine; `not asked`: that is for an endpoint or a hub to say;
`optional`: it is missing, and only some profiles need it.
"""


BackendFacts = Mapping[str, Any]
"""What a backend says of its model, by name, as plain JSON values; each backend has its own."""


class Priority(IntEnum):
    """Lower goes first: a sweep fills the device only while no agent waits."""

    INTERACTIVE = 0
    CONFIRMATION = 1
    SWEEP = 2


@runtime_checkable
class CountsRequests(Protocol):
    """A result that counts the requests made for it, as each may have been billed."""

    def with_resends(self, times: int) -> Self:
        """Return the result of a request that was also sent `times` before, to replicas that died."""


class Backend(ABC, Generic[RequestT, ResultT]):
    """One loaded model. Built inside the process that owns the device; all state is made in `__init__`.

    Requests are frozen dataclasses that pickle; `Image` values inside them travel as content ids, and
    their pixels only to a replica that lacks them.

    Subclasses give `name` and `run`, and override what they share, merge or batch in their own way: by
    default no result is shared, and all requests may be in one batch.
    """

    name: str
    slots: int = 1
    """Batches that may run at the same time: 1 for a device, many for a remote endpoint."""
    max_batch: int = 1
    """Requests in one batch at most."""
    controls: frozenset[str] = frozenset()
    """Names of methods that clients may call outside the queue."""

    @abstractmethod
    async def run(self, batch: Sequence[RequestT]) -> Sequence[ResultT | MaiaError]:
        """Return one result or typed failure per request, in order. An exception fails the whole batch."""

    def key(self, request: RequestT) -> Hashable | None:
        """Return what the work is: requests with equal keys are merged or answered once. None: never."""
        return None

    def merge(self, first: RequestT, second: RequestT) -> RequestT:
        """Return one request whose result answers both. Called only for equal keys."""
        return first

    def covers(self, running: RequestT, wanted: RequestT) -> bool:
        """Return whether the result of `running` will answer `wanted`. Called only for equal keys."""
        return True

    def bucket(self, request: RequestT) -> Hashable:
        """Return what must be equal within a batch (input size, kind of call)."""
        return None

    def bypasses_queue(self, request: RequestT) -> bool:
        """Return whether a request runs at once, outside the slots."""
        return False

    def rank(self, request: RequestT) -> float:
        """Return the order within a round-robin turn: like requests side by side (for vision, the depth)."""
        return 0.0

    def lookup(self, request: RequestT) -> ResultT | None:
        """Return the result if it is already known, without the device; else None."""
        return None

    def answer(self, request: RequestT, result: ResultT) -> ResultT:
        """Return the part of a merged result that `request` asked for."""
        return result

    def describe(self) -> BackendFacts:
        """Return plain facts about the model for `maia doctor`, logs and cache keys."""
        return {"name": self.name}

    def prepare(self) -> None:
        """Load what requests will need, beside other models that are loaded. A replica calls it once, in a
        thread of its own; requests that come meanwhile load it themselves.
        """

    async def close(self) -> None:
        """Free the device, threads and connections."""
