"""What a run's models were asked, and how much of it needed no work of theirs: the reuse rate.

A measurement of an image that the stimulus bank knows, and a request that joined another's, are reused; so is an
image that the generator has made before. Counted by the replicas since they started, so a stretch of work is the
difference of two looks; a replica that restarts counts from zero again.

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
        self._last: dict[tuple[str, int], tuple[int, int]] = {}
        self._sums: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def look(self, role: str, replicas: Sequence[Mapping[str, Any]]) -> None:
        """Take in what the replicas of a role say now; the first look at a replica is where its counting begins."""
        for place, each in enumerate(replicas):
            reused = each["duplicates_saved"] + each["lookups_answered"]
            now = (each["batch_items"] + reused, reused)
            before = self._last.get((role, place), now)
            if now[0] < before[0] or now[1] < before[1]:
                before = (0, 0)
            asked, shared = self._sums[role]
            self._sums[role] = (asked + now[0] - before[0], shared + now[1] - before[1])
            self._last[role, place] = now

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
