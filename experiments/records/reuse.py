"""What a run's models were asked, and how much of it needed no work of theirs: the reuse rate.

A measurement of an image that the stimulus bank knows, and a request that joined another's, are reused; so is
an image that the generator has made before. Counted by the replicas since they started, so a stretch of work
is the difference of two looks. `busy_s`: seconds that their devices (or an endpoint) worked on it.

    leases/0003/machinery.json   what the owner of generation 3 has counted, replaced while it works
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from actors.serving.replica import ReplicaStatistics
from agents.records.run_files import RecordError
from agents.records.store import Store

_KEY = "machinery.json"


class _Counts(NamedTuple):
    asked: int = 0
    reused: int = 0
    busy_s: float = 0.0


_STRETCH = TypeAdapter(
    dict[str, dict[Literal["asked", "reused", "busy_s"], Annotated[FiniteFloat, Field(ge=0, le=1e15)]]]
)


class RequestCounts:
    """Counts over one stretch of work, from looks at the replicas' statistics."""

    def __init__(self) -> None:
        self._last: defaultdict[str, dict[str, _Counts]] = defaultdict(dict)
        """By role and replica."""
        self._sums: dict[str, _Counts] = {}

    def look(self, role: str, replicas: Sequence[ReplicaStatistics]) -> None:
        """Take in what the replicas of a role say now.

        What they say at the first look was before; a replica that is new later has counted from zero.
        """
        first = role not in self._sums
        total = self._sums.setdefault(role, _Counts())
        last = self._last[role]
        for each in replicas:
            shared = each.duplicates_saved + each.lookups_answered
            now = _Counts(each.batch_items + shared, shared, each.busy_s)
            before = last.get(each.id, now if first else _Counts())
            total = _Counts(
                total.asked + now.asked - before.asked,
                total.reused + now.reused - before.reused,
                total.busy_s + now.busy_s - before.busy_s,
            )
            last[each.id] = now
        self._sums[role] = total

    def write(self, store: Store, generation: int) -> None:
        found = {role: each._asdict() for role, each in self._sums.items()}
        store.replace(f"leases/{generation:04d}/{_KEY}", json.dumps(found, sort_keys=True).encode())


def counts(store: Store) -> dict[str, dict[str, float]]:
    """Return, by role, requests `asked` and `reused` and `busy_s` over all stretches of a run."""
    total: defaultdict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(_Counts._fields, 0))
    for key in store.keys("leases"):
        if not key.endswith(f"/{_KEY}"):
            continue
        try:
            found = _STRETCH.validate_python(store.read(key))
        except (RecordError, ValidationError):  # counts of one stretch; the others tell something, too
            continue
        for role, each in found.items():
            for name, value in each.items():
                total[role][name] += value
    return {role: each for role, each in sorted(total.items()) if each["asked"]}


def reuse(store: Store) -> dict[str, dict[str, float]]:
    """Return, by role, requests `asked` and `reused` over all stretches of a run, and the `rate` of the
    latter.
    """
    return {
        role: {
            "asked": each["asked"],
            "reused": each["reused"],
            "rate": round(each["reused"] / each["asked"], 4),
        }
        for role, each in counts(store).items()
    }
