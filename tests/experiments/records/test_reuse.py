"""The reuse rate counts a run's own requests, over interruptions and restarts of replicas."""

from __future__ import annotations

from pathlib import Path

from actors.serving.replica import ReplicaStatistics
from agents.records.store import Store
from experiments.records.reuse import RequestCount, RequestCounter, ReuseRate, request_counts, reuse


def said(id: str, ran: int, shared: int, known: int) -> ReplicaStatistics:
    return ReplicaStatistics(
        queued=0,
        running=0,
        waiting=0,
        batches=1,
        batch_items=ran,
        duplicates_saved=shared,
        lookups_answered=known,
        withdrawn=0,
        failed=0,
        busy_s=ran / 4,
        wait_ms=(),
        id=id,
    )


def test_counts_leave_out_earlier_requests_and_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    counts = RequestCounter()
    counts.read("vision", [said("a", 100, 10, 1), said("b", 7, 7, 7)])
    counts.read("vision", [said("a", 103, 11, 2), said("b", 7, 7, 7)])
    counts.read("vision", [said("b", 7, 7, 7)])
    counts.read("vision", [said("a, restarted", 2, 0, 3), said("b", 7, 7, 7)])
    counts.read("generation", [])
    counts.write(store, 1)
    assert reuse(store) == {"vision": ReuseRate(10, 5, 0.5)}
    assert request_counts(store) == {"vision": RequestCount(10, 5, 5 / 4)}


def test_all_periods_of_work_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for generation in (1, 2):
        counts = RequestCounter()
        for step in range(3):
            counts.read("vision", [said("a", step, 0, 0), said("b", 0, 2 * step, 0)])
            counts.write(store, generation)
    assert reuse(store)["vision"] == ReuseRate(12, 8, 0.6667)


def test_a_run_without_counts_has_no_rate(tmp_path: Path) -> None:
    assert reuse(Store(tmp_path)) == {}
