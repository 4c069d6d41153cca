"""What a run's models were asked, and how much of it needed no work of theirs: the reuse rate.

A measurement of an image that the stimulus bank knows, and a request that joined another's, are reused; so is
an image that the generator has made before. Replicas count since they started, so a period of work is the
difference of two readings. `busy_s`: seconds that their devices (or an endpoint) worked on it.

    leases/0003/machinery.json   what the owner of generation 3 has counted, replaced while it works
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from agents.records.run_files import RecordError
from agents.records.store import Store

if TYPE_CHECKING:
    from actors.serving.replica import ReplicaStatistics

_KEY = "machinery.json"
_LARGEST = 10**15


@dataclass(frozen=True, slots=True)
class RequestCount:
    """Requests to the models of one role."""

    asked: Annotated[int, Field(ge=0, le=_LARGEST)] = 0
    reused: Annotated[int, Field(ge=0, le=_LARGEST)] = 0
    """Those that needed no work."""
    busy_s: Annotated[FiniteFloat, Field(ge=0, le=_LARGEST)] = 0.0
    """Seconds of devices or an endpoint."""

    def __add__(self, other: RequestCount) -> RequestCount:
        return RequestCount(self.asked + other.asked, self.reused + other.reused, self.busy_s + other.busy_s)

    def since(self, earlier: RequestCount) -> RequestCount:
        """Return what has been counted after `earlier`."""
        return RequestCount(
            self.asked - earlier.asked, self.reused - earlier.reused, self.busy_s - earlier.busy_s
        )


@dataclass(frozen=True, slots=True)
class ReuseRate:
    """How many requests needed no work; `rate` is their share."""

    asked: int
    reused: int
    rate: float


_COUNTS = TypeAdapter(dict[str, RequestCount])


class RequestCounter:
    """Counts over one period of work, from readings of the replicas' statistics."""

    def __init__(self) -> None:
        self._last: defaultdict[str, dict[str, RequestCount]] = defaultdict(dict)
        """By role and replica."""
        self._sums: dict[str, RequestCount] = {}

    def read(self, role: str, replicas: Sequence[ReplicaStatistics]) -> None:
        """Add what the replicas of a role have counted since the last reading.

        The first reading is the baseline; a replica that is new later has counted from zero.
        """
        first = role not in self._sums
        total = self._sums.setdefault(role, RequestCount())
        last = self._last[role]
        for replica in replicas:
            shared = replica.duplicates_saved + replica.lookups_answered
            now = RequestCount(replica.batch_items + shared, shared, replica.busy_s)
            before = last.get(replica.id, now if first else RequestCount())
            total += now.since(before)
            last[replica.id] = now
        self._sums[role] = total

    def write(self, store: Store, generation: int) -> None:
        counts = {role: asdict(count) for role, count in self._sums.items()}
        store.replace(f"leases/{generation:04d}/{_KEY}", json.dumps(counts, sort_keys=True).encode())


def request_counts(store: Store) -> dict[str, RequestCount]:
    """Return the requests by role over all periods of work of a run."""
    total: defaultdict[str, RequestCount] = defaultdict(RequestCount)
    for key in store.keys("leases"):
        if not key.endswith(f"/{_KEY}"):
            continue
        try:
            counts = _COUNTS.validate_python(store.read(key))
        except (RecordError, ValidationError):  # one period is lost; the others still count
            continue
        for role, count in counts.items():
            total[role] += count
    return {role: count for role, count in sorted(total.items()) if count.asked}


def reuse(store: Store) -> dict[str, ReuseRate]:
    """Return the reuse rate by role over all periods of work of a run."""
    return {
        role: ReuseRate(count.asked, count.reused, round(count.reused / count.asked, 4))
        for role, count in request_counts(store).items()
    }
