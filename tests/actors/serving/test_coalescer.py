"""The coalescer, tested by which batches it formed on a device that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass, field

import pytest

from actors.errors import BackendError, MaiaError, OverloadedError, RefusedError
from actors.serving.backend import Backend, Priority
from actors.serving.coalescer import BatchMismatchError, ClosedError, Coalescer
from tests.actors.scripted import Clock, settle, submit


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks for `parts` of `subject`; probes of one subject are one piece of work."""

    subject: str
    parts: frozenset[str] = frozenset({"a"})
    size: int = 1
    depth: float = 0.0


@dataclass
class ScriptedDevice(Backend[Probe, str]):
    """Records each batch; a batch ends when the test says so, with what the test says."""

    slots: int = 1
    max_batch: int = 4
    name: str = "device"
    known: dict[str, str] = field(default_factory=dict)
    batches: list[list[Probe]] = field(default_factory=list)
    running: list[asyncio.Future[Sequence[str | MaiaError]]] = field(default_factory=list)

    def key(self, request: Probe) -> Hashable | None:
        return request.subject if request.subject != "unique" else None

    def merge(self, first: Probe, second: Probe) -> Probe:
        assert first.subject == second.subject
        return Probe(first.subject, first.parts | second.parts, first.size, max(first.depth, second.depth))

    def covers(self, running: Probe, wanted: Probe) -> bool:
        assert running.subject == wanted.subject
        return running.parts >= wanted.parts

    def bucket(self, request: Probe) -> Hashable:
        return request.size

    def rank(self, request: Probe) -> float:
        return request.depth

    def lookup(self, request: Probe) -> str | None:
        return self.known.get(request.subject)

    def answer(self, request: Probe, result: str) -> str:
        return "".join(part for part in result if part.isupper() or part in request.parts)

    async def run(self, batch: Sequence[Probe]) -> Sequence[str | MaiaError]:
        assert 1 <= len(batch) <= self.max_batch
        assert len({probe.size for probe in batch}) == 1, "one bucket a batch"
        self.batches.append(list(batch))
        self.running.append(asyncio.get_running_loop().create_future())
        assert sum(not future.done() for future in self.running) <= self.slots
        return await self.running[-1]

    def describe(self) -> dict[str, object]:
        return {}

    async def close(self) -> None:
        return None

    def subjects(self, i: int = -1) -> str:
        return " ".join(probe.subject for probe in self.batches[i])

    async def finish(
        self, outcomes: Sequence[str | MaiaError] | Exception | None = None, i: int = -1
    ) -> None:
        """End batch `i`, by default with each request's subject in capitals and its parts."""
        if isinstance(outcomes, Exception):
            self.running[i].set_exception(outcomes)
        elif outcomes is None:
            self.running[i].set_result(
                [probe.subject.upper() + "".join(sorted(probe.parts)) for probe in self.batches[i]]
            )
        else:
            self.running[i].set_result(outcomes)
        await settle()


@pytest.fixture
def device() -> ScriptedDevice:
    return ScriptedDevice()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def coalescer(device: ScriptedDevice, clock: Clock) -> AsyncIterator[Coalescer[Probe, str]]:
    coalescer = Coalescer(device, limit=20, clock=clock)
    yield coalescer
    statistics = coalescer.statistics()
    assert (statistics.queued, statistics.running, statistics.waiting) == (0, 0, 0), (
        "something was left behind"
    )
    assert not coalescer._queues
    assert not coalescer._queued_by_key
    assert not coalescer._running_by_key


def ask(coalescer: Coalescer[Probe, str], *subjects: str, agent: str = "") -> list[asyncio.Future[str]]:
    return [submit(coalescer, Probe(subject), agent=agent) for subject in subjects]


async def test_an_idle_device_starts_at_once_and_a_busy_one_accumulates(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, "x")
    await settle()
    assert [device.subjects(i) for i in range(len(device.batches))] == ["x"]
    futures += ask(coalescer, "y")
    await settle()
    futures += ask(coalescer, "z", "w")
    await settle()
    assert len(device.batches) == 1, "nothing is sealed while the device is busy"
    await device.finish()
    assert device.subjects() == "y z w"
    await device.finish()
    assert await asyncio.gather(*futures) == ["Xa", "Ya", "Za", "Wa"]


async def test_all_that_is_asked_in_one_turn_of_the_loop_is_one_batch(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    tasks = [asyncio.ensure_future(coalescer.submit(Probe(s))) for s in "xyz"]
    await settle()
    assert device.subjects() == "x y z"
    await device.finish()
    assert await asyncio.gather(*tasks) == ["Xa", "Ya", "Za"]


async def test_callers_just_answered_join_the_next_batch(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    async def agent(name: str) -> None:
        await coalescer.submit(Probe(f"{name}1"))
        await coalescer.submit(Probe(f"{name}2"))

    tasks = [asyncio.ensure_future(agent(name)) for name in "xyz"]
    await settle()
    await device.finish()
    assert device.subjects() == "x2 y2 z2"
    await device.finish()
    await asyncio.gather(*tasks)


async def test_a_batch_holds_at_most_max_batch(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, *"abcdefghi")
    await settle()
    for _ in range(3):
        await device.finish()
    assert [len(batch) for batch in device.batches] == [4, 4, 1]
    await asyncio.gather(*futures)


async def test_batches_run_at_the_same_time_up_to_the_slots() -> None:
    device = ScriptedDevice(slots=2, max_batch=1)
    coalescer: Coalescer[Probe, str] = Coalescer(device)
    futures = ask(coalescer, "x", "y", "z")
    await settle()
    assert [device.subjects(i) for i in range(len(device.batches))] == ["x", "y"]
    await device.finish(i=0)
    assert device.subjects() == "z"
    await device.finish(i=1)
    await device.finish(i=2)
    assert await asyncio.gather(*futures) == ["Xa", "Ya", "Za"]


async def test_waiting_requests_of_one_key_are_merged_and_each_gets_its_part(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = [submit(coalescer, Probe("s", frozenset(part))) for part in ("a", "b", "ab", "b")]
    await device.finish()
    assert device.batches[-1] == [Probe("s", frozenset("ab"))]
    await device.finish()
    assert await asyncio.gather(*blocker, *futures) == ["BLOCKERa", "Sa", "Sb", "Sab", "Sb"]
    assert coalescer.statistics().duplicates_saved == 3


async def test_running_work_is_shared_when_it_covers_and_repeated_when_not(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    first = submit(coalescer, Probe("s", frozenset("ab")))
    await settle()
    covered = submit(coalescer, Probe("s", frozenset("b")))
    more = submit(coalescer, Probe("s", frozenset("c")))
    await device.finish()
    assert (await first, await covered) == ("Sab", "Sb")
    assert device.batches == [[Probe("s", frozenset("ab"))], [Probe("s", frozenset("c"))]]
    await device.finish()
    assert await more == "Sc"


async def test_requests_without_a_key_are_never_merged(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, "unique", "unique")
    await settle()
    assert device.subjects() == "unique unique"
    await device.finish()
    await asyncio.gather(*futures)


async def test_a_known_result_costs_no_batch(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    device.known["s"] = "stored"
    assert await coalescer.submit(Probe("s")) == "stored"
    assert device.batches == []
    assert coalescer.statistics().lookups_answered == 1


async def test_agents_take_turns(coalescer: Coalescer[Probe, str], device: ScriptedDevice) -> None:
    """An agent with nine requests does not make one with two wait for all of them."""
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = ask(coalescer, *(f"many{i}" for i in range(9)), agent="many")
    futures += ask(coalescer, "few0", "few1", agent="few")
    await device.finish()
    assert device.subjects() == "many0 few0 many1 few1"
    await device.finish()
    assert device.subjects() == "many2 many3 many4 many5"
    await device.finish()
    await device.finish()
    await asyncio.gather(*blocker, *futures)


async def test_a_turn_goes_by_rank_and_ends_before_the_next(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    """Shallow work that keeps coming cannot pass by deep work of an earlier turn."""
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = [
        submit(coalescer, Probe(f"p{depth}", depth=depth), agent=f"agent{depth}") for depth in (5, 3, 1, 4, 2)
    ]
    await device.finish()
    assert device.subjects() == "p1 p2 p3 p4"
    futures += [submit(coalescer, Probe(f"q{i}", depth=0), agent=f"late{i}") for i in range(4)]
    await device.finish()
    assert device.subjects() == "q0 q1 q2 p5"
    await device.finish()
    await device.finish()
    await asyncio.gather(*blocker, *futures)


async def test_a_batch_holds_one_bucket_and_the_longest_waiting_goes_first(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice, clock: Clock
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = []
    for name, size in (("big0", 2), ("small0", 1), ("big1", 2), ("small1", 1), ("huge", 3)):
        clock.now += 1
        futures.append(submit(coalescer, Probe(name, size=size)))
    await device.finish()
    seen = [device.subjects()]
    for _ in range(2):
        await device.finish()
        seen.append(device.subjects())
    await device.finish()
    assert seen == ["big0 big1", "small0 small1", "huge"]
    await asyncio.gather(*blocker, *futures)


async def test_urgent_work_goes_first_and_never_shares_a_batch_with_filler(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = [submit(coalescer, Probe(f"sweep{i}"), priority=Priority.SWEEP) for i in range(2)]
    futures.append(submit(coalescer, Probe("confirm"), priority=Priority.CONFIRMATION))
    futures.append(submit(coalescer, Probe("agent")))
    seen = []
    for _ in range(3):
        await device.finish()
        seen.append(device.subjects())
    await device.finish()
    assert seen == ["agent", "confirm", "sweep0 sweep1"]
    await asyncio.gather(*blocker, *futures)


async def test_an_urgent_caller_hurries_the_work_it_shares(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    futures = [submit(coalescer, Probe(s), priority=Priority.SWEEP) for s in "xyz"]
    futures.append(submit(coalescer, Probe("z")))
    await device.finish()
    assert device.subjects() == "z"
    await device.finish()
    assert device.subjects() == "x y"
    await device.finish()
    await asyncio.gather(*blocker, *futures)


async def test_a_job_without_callers_is_dropped(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    task = asyncio.ensure_future(coalescer.submit(Probe("gone")))
    future, stays = ask(coalescer, "gone too", "stays")
    await settle()
    task.cancel()
    future.cancel()
    await settle()
    assert coalescer.statistics().queued == 1
    await device.finish()
    assert device.subjects() == "stays"
    await device.finish()
    await asyncio.gather(*blocker, stays)
    assert coalescer.statistics().withdrawn == 2


async def test_a_cancelled_caller_does_not_cancel_its_batch_or_those_who_share_its_work(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    leaves, stays, other = ask(coalescer, "s", "s", "t")
    await settle()
    leaves.cancel()
    await device.finish()
    assert (await stays, await other) == ("Sa", "Ta")


async def test_a_part_that_only_a_cancelled_caller_wanted_is_not_computed(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    blocker = ask(coalescer, "blocker")
    await settle()
    leaves = submit(coalescer, Probe("s", frozenset("abc")))
    stays = [submit(coalescer, Probe("s", frozenset(part))) for part in "ab"]
    leaves.cancel()
    await settle()
    await device.finish()
    assert device.batches[-1] == [Probe("s", frozenset("ab"))]
    await device.finish()
    assert await asyncio.gather(*blocker, *stays) == ["BLOCKERa", "Sa", "Sb"]


async def test_a_typed_failure_reaches_only_its_own_request(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    good, bad = ask(coalescer, "good", "bad")
    await settle()
    await device.finish(["GOODa", RefusedError("a picture was refused.", "Ask for another.")])
    assert await good == "GOODa"
    with pytest.raises(RefusedError, match="a picture was refused"):
        await bad
    assert coalescer.statistics().failed == 1


async def test_an_exception_fails_its_batch_typed_and_the_next_batch_runs(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, *"abcde")
    await settle()
    await device.finish(ValueError("out of memory"))
    for future in futures[:4]:
        with pytest.raises(BackendError, match="device failed on a batch of 4: ValueError: out of memory"):
            await future
    await device.finish()
    assert await futures[4] == "Ea"


async def test_a_wrong_number_of_results_fails_the_batch(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, *"abc")
    await settle()
    await device.finish(["Aa", "Ba"])
    for future in futures:
        with pytest.raises(BatchMismatchError, match="batch of 3 with 2 results"):
            await future


async def test_a_full_queue_raises_or_makes_the_caller_wait_its_turn(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    futures = ask(coalescer, *(str(i) for i in range(20)))
    with pytest.raises(OverloadedError, match="20 requests are waiting"):
        submit(coalescer, Probe("one too many"))
    waits = [asyncio.ensure_future(coalescer.submit(Probe(name))) for name in ("leaves", "stays", "also")]
    await settle()
    assert coalescer.statistics().waiting == 20
    waits[0].cancel()
    await device.finish()
    assert coalescer.statistics().waiting == 18, "four answered, two let in"
    for _ in range(5):
        await device.finish()
    assert [device.subjects(i) for i in range(5, 6)] == ["stays also"]
    await asyncio.gather(*futures, *waits[1:])


async def test_a_request_that_the_backend_cannot_place_fails_only_its_caller(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice
) -> None:
    (good,) = ask(coalescer, "good")
    with pytest.raises(TypeError):
        submit(coalescer, Probe(["not", "hashable"]))  # type: ignore[arg-type]
    await settle()
    await device.finish()
    assert await good == "GOODa"


async def test_closing_fails_what_waits_and_lets_what_runs_finish(device: ScriptedDevice) -> None:
    coalescer: Coalescer[Probe, str] = Coalescer(device, limit=6)
    futures = ask(coalescer, *"abcdef")
    extra = asyncio.ensure_future(coalescer.submit(Probe("waits for room")))
    await settle()
    closing = asyncio.ensure_future(coalescer.aclose())
    await settle()
    for future in (*futures[4:], extra):
        with pytest.raises(ClosedError):
            await future
    assert not closing.done()
    await device.finish()
    await closing
    assert [await future for future in futures[:4]] == ["Aa", "Ba", "Ca", "Da"]
    with pytest.raises(ClosedError):
        submit(coalescer, Probe("late"))


async def test_statistics_count_merges_and_waiting_times(
    coalescer: Coalescer[Probe, str], device: ScriptedDevice, clock: Clock
) -> None:
    futures = ask(coalescer, *"abcd", "e", "e")
    await settle()
    statistics = coalescer.statistics()
    assert (statistics.queued, statistics.running, statistics.waiting) == (1, 4, 6)
    clock.now += 0.005
    await device.finish()
    clock.now += 3
    await device.finish()
    statistics = coalescer.statistics()
    assert (statistics.batches, statistics.batch_items, statistics.mean_batch) == (2, 5, 2.5)
    assert statistics.duplicates_saved == 1
    assert statistics.busy_s == pytest.approx(3.005)
    assert statistics.wait_ms[0] == 4, "four works were sealed at once"
    assert statistics.wait_ms[3] == 1, "one waited for 5 ms: the bin that ends at 8 ms"
    assert sum(statistics.wait_ms) == 5
    await asyncio.gather(*futures)


async def test_a_request_that_has_waited_already_bypasses_the_queue_and_is_not_counted_again() -> None:
    class Admitting(ScriptedDevice):
        def bypasses_queue(self, request: Probe) -> bool:
            return request.subject == "admitted"

        async def run(self, batch: Sequence[Probe]) -> Sequence[str | MaiaError]:
            self.batches.append(list(batch))
            self.running.append(asyncio.get_running_loop().create_future())
            return await self.running[-1]

    device = Admitting()
    coalescer: Coalescer[Probe, str] = Coalescer(device)
    waits = submit(coalescer, Probe("x"))
    for _ in range(3):
        await asyncio.sleep(0)
    bypassing = [submit(coalescer, Probe("admitted")) for _ in range(2)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [[probe.subject for probe in batch] for batch in device.batches] == [
        ["x"],
        ["admitted"],
        ["admitted"],
    ]
    assert coalescer.statistics().batch_items == 1
    assert (coalescer.statistics().running, coalescer.statistics().waiting) == (3, 3)
    closing = asyncio.ensure_future(coalescer.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    for future in device.running:
        future.set_result(["A"])
    await closing
    assert [future.result() for future in (waits, *bypassing)] == ["A"] * 3
    assert (coalescer.statistics().running, coalescer.statistics().waiting) == (0, 0)
