"""A run's numbers are where Prometheus fetches them."""

from __future__ import annotations

import time
import urllib.request

import pytest

from actors.serving.coalescer import WAIT_BOUNDS_MS
from actors.serving.replica import ReplicaStatistics
from experiments.runs.metrics import RunMetrics

pytestmark = pytest.mark.ray

REPLICA = ReplicaStatistics(
    queued=0,
    running=0,
    waiting=7,
    batches=2,
    batch_items=9,
    duplicates_saved=3,
    lookups_answered=5,
    withdrawn=0,
    failed=0,
    busy_s=0.0,
    wait_ms=(4, 0, 5, *[0] * (len(WAIT_BOUNDS_MS) - 2)),
)


def scrape(wanted: str, timeout_s: float = 60) -> dict[str, float]:
    """Return the values of this machine's node by series, once `wanted` is among them."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    end = time.monotonic() + timeout_s
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("ray_maia_"):
                name, _, rest = line.partition("{")
                labels, _, value = rest.rpartition("} ")
                kept = [label for label in labels.split(",") if label.startswith(("run=", "pool=", "le="))]
                found[f"{name}{{{','.join(sorted(kept))}}}"] = float(value)
        if any(wanted in name for name in found):
            return found
        assert time.monotonic() < end, f"{wanted} is not among {sorted(found)}"
        time.sleep(0.5)


def test_the_numbers_of_a_run_can_be_scraped(ray_cluster: None) -> None:
    pytest.importorskip("prometheus_client", reason="the extra maia[cluster] is not installed")
    metrics = RunMetrics("night-run")
    metrics.run({"units_done": 3, "dollars": 1.25})
    metrics.pool("vision", [REPLICA, REPLICA])
    found = scrape('le="+Inf"')
    assert found['ray_maia_units_done{run="night-run"}'] == 3
    assert found['ray_maia_dollars{run="night-run"}'] == 1.25
    vision = 'pool="vision",run="night-run"'
    assert found[f"ray_maia_pool_waiting{{{vision}}}"] == 14
    assert found[f"ray_maia_pool_mean_batch{{{vision}}}"] == 4.5
    assert found[f"ray_maia_pool_duplicates_saved{{{vision}}}"] == 16
    waits = {
        bound: found[f'ray_maia_pool_wait_ms_bucket{{le="{bound}",{vision}}}'] for bound in (1, 2, 4, "+Inf")
    }
    assert waits == {1: 8, 2: 8, 4: 18, "+Inf": 18}
