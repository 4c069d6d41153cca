"""A run's numbers as Ray metrics, which Ray's agents hand to Prometheus (`deploy/grafana/maia.json` shows
them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.serving.coalescer import WAIT_BOUNDS_MS
from actors.serving.replica import ReplicaStatistics

_RUN = {
    "maia_units_total": "Units of the run",
    "maia_units_done": "Units with a result",
    "maia_units_running": "Units being studied",
    "maia_units_failed": "Units with a failure on record",
    "maia_rounds": "Finished rounds",
    "maia_images": "Images generated and edited",
    "maia_tokens": "Tokens of language models",
    "maia_dollars": "Dollars for language models",
}
_POOL = {
    "maia_pool_waiting": "Requests waiting in a pool's replicas",
    "maia_pool_mean_batch": "Mean size of batches",
    "maia_pool_duplicates_saved": "Requests that shared another's work",
}
_WAIT = "maia_pool_wait_ms_bucket"
"""Cumulative, with the upper bounds as `le`: what Prometheus's histogram_quantile reads."""
METRICS = frozenset({*_RUN, *_POOL, _WAIT})
"""Names of all that a run gives out; Ray puts `ray_` before them."""


class RunMetrics:
    """Gauges of one run; `run` names the run, `pool` the model."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._run = {"run": run}
        self._gauges: dict[str, Any] = {
            **{name: Gauge(name, description=text, tag_keys=("run",)) for name, text in _RUN.items()},
            **{name: Gauge(name, description=text, tag_keys=("run", "pool")) for name, text in _POOL.items()},
            _WAIT: Gauge(
                _WAIT,
                description="Work by milliseconds from asking to running",
                tag_keys=("run", "pool", "le"),
            ),
        }

    def run(self, values: Mapping[str, float]) -> None:
        """Set gauges of the run, by their names without the prefix."""
        for name, value in values.items():
            self._gauges[f"maia_{name}"].set(value, self._run)

    def pool(self, name: str, replicas: Sequence[ReplicaStatistics]) -> None:
        """Set the gauges of a pool from its replicas' statistics."""
        tags = {**self._run, "pool": name}
        batches = sum(replica.batches for replica in replicas)
        items = sum(replica.batch_items for replica in replicas)
        self._gauges["maia_pool_waiting"].set(sum(replica.waiting for replica in replicas), tags)
        self._gauges["maia_pool_mean_batch"].set(items / max(batches, 1), tags)
        self._gauges["maia_pool_duplicates_saved"].set(
            sum(replica.duplicates_saved + replica.lookups_answered for replica in replicas), tags
        )
        bins = np.sum([replica.wait_ms for replica in replicas], axis=0, dtype=float) if replicas else []
        for bound, count in zip((*WAIT_BOUNDS_MS, "+Inf"), np.cumsum(bins), strict=False):
            self._gauges[_WAIT].set(float(count), {**tags, "le": str(bound)})
