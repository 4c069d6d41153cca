"""What a benchmark's record says of the machine that it ran on."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from benchmarks.harness import Context, Metric, Result, Watch, busy_cores, record, was_disturbed
from benchmarks.report import page

HZ = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("control_s", "others", "disturbed"),
    [
        ([0.018, 0.018], [0.0, 0.1], False),
        ([0.018, 0.023], [0.0, 0.0], True),
        ([0.018, 0.018], [1.8, 0.0], True),  # a free core hides others from the fixed work
        ([0.018, 0.018], [0.0, 0.9], True),
        ([0.018, 0.018], [None, None], False),
    ],
)
def test_a_run_is_disturbed_when_the_fixed_work_moves_or_others_are_busy(control_s, others, disturbed):
    assert was_disturbed(control_s, others) is disturbed


def test_only_what_others_do_counts_as_busy(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 900 7 1 2 3 0 0\ncpu0 1 2 3\n")

    def sleep(seconds):
        ticks = int(1.5 * HZ * seconds)
        stat.write_text(f"cpu  {100 + ticks} 0 50 {900 + HZ} 700 1 2 3 0 0\n")

    assert busy_cores(2.0, sleep, stat) == 1.5
    assert busy_cores(2.0, sleep, tmp_path / "none") is None


def test_the_record_and_its_page_say_that_others_were_busy():
    seen = iter([1.7, 0.0])
    watch = Watch(control=lambda: 0.02, busy_cores=lambda: next(seen), load=lambda: 9.18)
    module = SimpleNamespace(ID="B0", TITLE="nothing", run=lambda _: Result([Metric("time", 1.0, "s")]))
    entry = record(module, Context(), watch)
    assert (entry["disturbed"], entry["others_busy"], entry["load_before"]) == (True, [1.7, 0.0], 9.18)
    assert "others kept 1.7 cores busy before and 0.0 after" in page([entry])
    assert "not quiet" not in page([entry | {"disturbed": False}]), "a load alone is that of what ran before"
