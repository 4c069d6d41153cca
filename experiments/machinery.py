"""What a run's models were asked, and how much of it needed no work of theirs: the reuse rate.

A measurement of an image that the stimulus bank knows, and a request that joined another's, are reused; so is an
image that the generator has made before. Counted by the replicas since they started, so a stretch of work is the
difference of two looks.

    leases/0003/machinery.json   what the owner of generation 3 has counted, replaced while it works
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from agents.store import Store

_KEY = "machinery.json"


class RequestCounts:
    """Counts over one stretch of work, from looks at the replicas' statistics."""

    def __init__(self) -> None:
        self._last: defaultdict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """By role and replica: requests, and those of them that were reused."""
        self._sums: dict[str, tuple[int, int]] = {}

    def look(self, role: str, replicas: Sequence[Mapping[str, Any]]) -> None:
        """Take in what the replicas of a role say now.

        What they say at the first look was before; a replica that is new later has counted from zero.
        """
        first = role not in self._sums
        asked, reused = self._sums.setdefault(role, (0, 0))
        last = self._last[role]
        for each in replicas:
            shared = each["duplicates_saved"] + each["lookups_answered"]
            now = (each["batch_items"] + shared, shared)
            before = last.get(each["id"], now if first else (0, 0))
            asked, reused = asked + now[0] - before[0], reused + now[1] - before[1]
            last[each["id"]] = now
        self._sums[role] = (asked, reused)

    def write(self, store: Store, generation: int) -> None:
        counts = {role: {"asked": asked, "reused": reused} for role, (asked, reused) in self._sums.items()}
        store.replace(f"leases/{generation:04d}/{_KEY}", json.dumps(counts, sort_keys=True).encode())


def reuse(store: Store) -> dict[str, dict[str, float]]:
    """Return, by role, requests `asked` and `reused` over all stretches of a run, and the `rate` of the latter."""
    total: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path in store.root.glob(f"leases/*/{_KEY}"):
        for role, counts in json.loads(path.read_bytes()).items():
            total[role][0] += counts["asked"]
            total[role][1] += counts["reused"]
    return {
        role: {"asked": asked, "reused": reused, "rate": round(reused / asked, 4)}
        for role, (asked, reused) in sorted(total.items())
        if asked
    }
