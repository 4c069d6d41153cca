"""The reuse rate counts a run's own requests, over interruptions and restarts of replicas."""

from __future__ import annotations

from pathlib import Path

from actors.serving.replica import ReplicaStatistics
from agents.records.store import Store
from experiments.records.reuse import RequestCounts, reuse
from experiments.records.reuse import counts as counts_of


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


def test_what_was_asked_before_the_run_does_not_count_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    counts = RequestCounts()
    counts.look("vision", [said("a", 100, 10, 1), said("b", 7, 7, 7)])
    counts.look("vision", [said("a", 103, 11, 2), said("b", 7, 7, 7)])
    counts.look("vision", [said("b", 7, 7, 7)])
    counts.look("vision", [said("a, restarted", 2, 0, 3), said("b", 7, 7, 7)])
    counts.look("generation", [])
    counts.write(store, 1)
    assert reuse(store) == {"vision": {"asked": 10, "reused": 5, "rate": 0.5}}
    assert counts_of(store) == {"vision": {"asked": 10, "reused": 5, "busy_s": 5 / 4}}


def test_all_stretches_of_a_run_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for generation in (1, 2):
        counts = RequestCounts()
        for step in range(3):
            counts.look("vision", [said("a", step, 0, 0), said("b", 0, 2 * step, 0)])
            counts.write(store, generation)
    assert reuse(store)["vision"] == {"asked": 12, "reused": 8, "rate": 0.6667}


def test_a_run_without_counts_has_no_rate(tmp_path: Path) -> None:
    assert reuse(Store(tmp_path)) == {}
