"""One process works on a run directory at a time, and a dead one never blocks the next."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.errors import UsageError
from agents.records import lease
from agents.records.lease import Lease, LeaseLostError
from agents.records.store import Store


class Watch:
    """A monotonic clock that moves when a caller sleeps; `during` runs at each sleep."""

    def __init__(self, during: object = None) -> None:
        self.now = 0.0
        self.during = during

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if callable(self.during):
            self.during()


def _claimed_elsewhere(store: Store, generation: int = 1) -> None:
    claim = {"host": "elsewhere", "pid": 7, "machine": "another boot", "started": "1"}
    store.put(f"leases/{generation:04d}/claim.json", json.dumps(claim).encode())
    (store.root / f"leases/{generation:04d}/beat").write_text("5")


async def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with await Lease.take(store, beat_s=0.01):
        with pytest.raises(UsageError, match="is working on"):
            await Lease.take(store, stale_s=5.0)
        assert lease.owner(store) is not None
    assert lease.owner(store) is None
    async with await Lease.take(store) as second:
        assert second.generation == 2


async def test_an_owner_whose_process_ended_here_is_replaced_at_once(tmp_path: Path) -> None:
    script = (
        "import sys,json; from pathlib import Path; from agents.records.store import Store; from "
        "agents.records import lease\n"
        "Store(Path(sys.argv[1])).put('leases/0001/claim.json', "
        "json.dumps(lease._own_claim().to_json()).encode())"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(tmp_path)], check=True)
    watch = Watch()
    async with await Lease.take(Store(tmp_path), sleep=watch.sleep, clock=watch) as taken:
        assert taken.generation == 2
    assert watch.now == 0, "nothing had to be waited for"


async def test_an_owner_elsewhere_is_replaced_when_its_beat_stands_still(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _claimed_elsewhere(store)
    watch = Watch()
    async with await Lease.take(store, stale_s=20, sleep=watch.sleep, clock=watch) as taken:
        assert taken.generation == 2
    assert watch.now >= 20


async def test_an_owner_elsewhere_that_beats_is_left_alone_whatever_the_clock_says(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _claimed_elsewhere(store)
    beat = tmp_path / "leases/0001/beat"
    watch = Watch(lambda: beat.write_text(str(int(beat.read_text()) + 1)))
    with pytest.raises(UsageError, match="process 7 on elsewhere"):
        await Lease.take(store, stale_s=20, sleep=watch.sleep, clock=watch)


async def test_an_owner_that_comes_back_learns_that_it_was_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with await Lease.take(store) as first:
        first.check()
        _claimed_elsewhere(store, 2)
        with pytest.raises(LeaseLostError):
            first.check()


async def test_a_cancel_reaches_the_run_that_works_now_and_no_later_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not lease.cancel(store), "no process holds it"
    async with await Lease.take(store) as first:
        assert lease.cancel(store)
        assert first.cancelled()
    async with await Lease.take(store) as second:
        assert not second.cancelled()
