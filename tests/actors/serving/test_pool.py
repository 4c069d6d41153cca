"""Pools without Ray: aggregation, routing, death, scaling, on replicas in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from actors.errors import BackendError, MaiaError, RefusedError, ReplicaLostError, UsageError
from actors.serving.backend import Priority
from actors.serving.coalescer import ClosedError
from actors.serving.pool import MAP_WINDOW, LocalPool
from actors.serving.replica import ExchangeRequest, ExchangeResponse, Replica, ReplicaFacts, ReplicaStatistics
from actors.serving.replica_pool import PoolOptions, ReplicaPool
from actors.serving.transport import Payload, unpack
from actors.settings import Placement
from tests.actors.scripted import Clock, ScriptedBackend, Show, image, settle, submit

PICTURES = {each.id: each for each in (image(value) for value in range(8))}


class InProcessReplica:
    """A replica in this process that can be killed, hung and restarted, and records the calls made to it."""

    def __init__(self, backend: ScriptedBackend, failure: MaiaError | None = None) -> None:
        self.replica = Replica(backend)
        self.failure = failure
        self.alive = asyncio.Event()
        self.alive.set()
        self.gone = self.hangs = self.stopped = False
        self.exchanges: list[ExchangeRequest] = []
        self.in_flight = self.most_in_flight = 0
        self.deadly: int | None = None
        """A request of this number kills the replica."""
        self._deaths: list[asyncio.Future[None]] = []

    @property
    def backend(self) -> ScriptedBackend:
        backend = self.replica.backend
        assert isinstance(backend, ScriptedBackend)
        return backend

    def sent(self) -> list[list[int]]:
        """Return the numbers of the requests that each call brought."""
        return [
            [show.number for _, show, *_ in unpack(exchange.payload, PICTURES)]
            for exchange in self.exchanges
            if exchange.payload is not None
        ]

    async def kill(self, gone: bool = False, restart: bool = True) -> None:
        """Fail the calls in flight and forget everything, as a process that dies does."""
        self.gone = gone
        self.alive.clear()
        deaths, self._deaths = self._deaths, []
        for death in deaths:
            if not death.done():
                death.set_result(None)
        old = self.replica
        backend = ScriptedBackend(self.backend.max_batch, self.backend.gated)
        backend.seen = self.backend.seen
        self.replica = Replica(backend)
        old.backend.gated = False  # type: ignore[attr-defined]
        await old.backend.release()  # type: ignore[attr-defined]
        if restart:
            self.alive.set()
        await settle()

    async def _guard(self, coroutine: Any) -> Any:
        if not self.alive.is_set() or self.stopped:
            coroutine.close()
            raise ReplicaLostError("the actor is dead", gone=self.gone or self.stopped)
        if self.failure is not None:
            coroutine.close()
            raise self.failure
        death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deaths.append(death)
        task = asyncio.ensure_future(coroutine)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ReplicaLostError("the actor died", gone=self.gone)
            return await task
        finally:
            self.in_flight -= 1
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not death.done():
                death.cancel()

    async def exchange(self, request: ExchangeRequest) -> ExchangeResponse:
        self.exchanges.append(request)
        if request.payload is not None and self.deadly in self.sent()[-1] and not self.stopped:
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.kill()))
        response: ExchangeResponse = await self._guard(self.replica.exchange(request))
        return response

    async def call(self, payload: Payload, pixels: dict[str, np.ndarray]) -> ExchangeResponse:
        response: ExchangeResponse = await self._guard(self.replica.call(payload, pixels))
        return response

    async def ping(self) -> int:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        return int(await self._guard(self.replica.ping()))

    async def describe(self) -> ReplicaFacts:
        async def facts() -> ReplicaFacts:
            return self.replica.describe()

        answer: ReplicaFacts = await self._guard(facts())
        return answer

    async def statistics(self) -> ReplicaStatistics:
        return self.replica.statistics()

    async def stop(self) -> None:
        self.stopped = True
        self.gone = True
        for death in self._deaths:
            if not death.done():
                death.set_result(None)
        self.backend.gated = False
        await self.backend.release()
        await self.replica.close()


class InProcessLauncher:
    def __init__(self, gated: bool = True, failures: tuple[MaiaError | None, ...] = ()) -> None:
        self.launched: list[InProcessReplica] = []
        self.second = asyncio.Event()
        self._gated, self._failures = gated, list(failures)

    def launch(self) -> InProcessReplica:
        failure = self._failures.pop(0) if self._failures else None
        self.launched.append(InProcessReplica(ScriptedBackend(max_batch=4, gated=self._gated), failure))
        if len(self.launched) == 2:
            self.second.set()
        return self.launched[-1]


class Bench:
    """A pool of replicas in this process, with everything a test looks at."""

    def __init__(
        self,
        replicas: int = 1,
        most: int | None = None,
        launcher: InProcessLauncher | None = None,
        **options: Any,
    ) -> None:
        self.launcher = launcher or InProcessLauncher()
        self.clock = Clock()
        pool_options = PoolOptions(**{"retry_pause_s": 0.0, "tick_s": 1e6} | options)
        placement = Placement(min_replicas=replicas, max_replicas=most or replicas)
        self.pool: ReplicaPool[Show, Any] = ReplicaPool(
            "bench", self.launcher, placement, options=pool_options, clock=self.clock
        )

    @property
    def replicas(self) -> list[InProcessReplica]:
        return self.launcher.launched

    async def __aenter__(self) -> Bench:
        await self.pool.__aenter__()
        await settle()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.aclose()
        statistics = self.pool.statistics()
        assert (statistics.outstanding, statistics.unsent) == (0, 0)
        assert all(replica.stopped for replica in self.replicas)
        assert not self.pool._tasks

    def ask(self, *numbers: int, **options: Any) -> list[asyncio.Future[Any]]:
        return [asyncio.ensure_future(self.pool.submit(Show(number), **options)) for number in numbers]

    async def release(self) -> None:
        for replica in self.replicas:
            await replica.backend.release()
        await settle()


async def test_requests_join_the_next_call_while_two_are_in_flight() -> None:
    async with Bench() as bench:
        futures = bench.ask(1, 2, 3)
        await settle()
        for number in range(4, 9):
            futures += bench.ask(number)
        await settle()
        (replica,) = bench.replicas
        assert replica.sent() == [[1, 2, 3], [4, 5, 6, 7, 8]]
        for _ in range(3):
            await bench.release()
        assert [number for number, _ in await asyncio.gather(*futures)] == list(range(1, 9))
        assert replica.most_in_flight == 2
        assert [len(batch) for batch in replica.backend.seen] == [3, 4, 1]


async def test_a_lone_request_takes_one_call() -> None:
    async with Bench(launcher=InProcessLauncher(gated=False)) as bench:
        assert await bench.pool.submit(Show(1)) == (1, None)
        assert len(bench.replicas[0].exchanges) == 1


async def test_results_come_as_soon_as_their_batch_is_done() -> None:
    async with Bench() as bench:
        futures = bench.ask(*range(6))
        await settle()
        await bench.release()
        assert [future.done() for future in futures] == [True] * 4 + [False] * 2
        await bench.release()
        await asyncio.gather(*futures)


async def test_pixels_travel_once_to_each_replica() -> None:
    async with Bench(launcher=InProcessLauncher(gated=False)) as bench:
        shows = [Show(i, image(i % 3)) for i in range(12)]
        expected = [(i, i % 3 * 90) for i in range(12)]
        assert await bench.pool.map(shows) == expected
        assert await bench.pool.map(shows) == expected
        assert bench.pool.statistics().pixels_sent == 3
        assert bench.replicas[0].replica.statistics().pixels_received == 3


async def test_pixels_of_many_images_are_spread_over_calls() -> None:
    """An image has 90 bytes."""
    async with Bench(launcher=InProcessLauncher(gated=False), pixel_bytes_per_call=200) as bench:
        assert len(await bench.pool.map([Show(i, image(i)) for i in range(7)])) == 7
        assert max(len(exchange.pixels) for exchange in bench.replicas[0].exchanges) == 2


async def test_requests_go_where_least_is_outstanding() -> None:
    async with Bench(replicas=3) as bench:
        futures = bench.ask(*range(7))
        await settle()
        assert [replica.sent() for replica in bench.replicas] == [[[0, 3, 6]], [[1, 4]], [[2, 5]]]
        await bench.replicas[1].backend.release()
        futures += bench.ask(10, 11)
        await settle()
        assert bench.replicas[1].sent()[-1] == [10, 11]
        await bench.release()
        await bench.release()
        await asyncio.gather(*futures)


async def test_a_cancelled_caller_withdraws_at_the_replica() -> None:
    async with Bench() as bench:
        first = bench.ask(0)
        await settle()
        task = asyncio.ensure_future(bench.pool.submit(Show(1)))
        stays, leaves = bench.ask(2, 3)
        await settle()
        assert bench.replicas[0].replica.statistics().queued == 3
        task.cancel()
        leaves.cancel()
        await settle()
        assert bench.replicas[0].replica.statistics().queued == 1
        assert bench.pool.statistics().outstanding == 2
        await bench.release()
        await bench.release()
        await asyncio.gather(*first, stays)


async def test_a_request_cancelled_before_it_was_sent_never_is() -> None:
    async with Bench() as bench:
        (leaves,) = bench.ask(1)
        leaves.cancel()
        await settle()
        assert bench.replicas[0].exchanges == []


async def test_a_dead_replicas_requests_are_sent_again_and_answered() -> None:
    async with Bench() as bench:
        futures = bench.ask(*range(6))
        await settle()
        await bench.release()
        await bench.replicas[0].kill()
        assert bench.pool.statistics().lost_replicas == 1
        assert bench.pool.statistics().resubmitted == 2
        await bench.release()
        assert [number for number, _ in await asyncio.gather(*futures)] == list(range(6))
        assert bench.replicas[0].sent() == [[0, 1, 2, 3, 4, 5], [4, 5]]


async def test_another_replica_takes_over_while_one_is_down() -> None:
    async with Bench(replicas=2) as bench:
        futures = bench.ask(*range(4))
        await settle()
        await bench.replicas[0].kill(restart=False)
        await bench.release()
        await bench.release()
        assert [number for number, _ in await asyncio.gather(*futures)] == list(range(4))
        bench.replicas[0].alive.set()


async def test_a_replica_that_will_not_come_back_is_replaced() -> None:
    async with Bench() as bench:
        futures = bench.ask(1)
        await settle()
        await bench.replicas[0].kill(gone=True, restart=False)
        await settle()
        assert len(bench.replicas) == 2
        await bench.release()
        assert await futures[0] == (1, None)
        assert bench.pool.statistics().restarted == 1
        bench.replicas[0].stopped = True


async def test_a_request_that_kills_replicas_fails_alone() -> None:
    """Each request that two replicas failed on is retried alone."""
    async with Bench(launcher=InProcessLauncher(gated=False)) as bench:
        bench.replicas[0].deadly = 5
        futures = bench.ask(*range(10))
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(done[5], ReplicaLostError)
        assert "3 replicas failed while they held this request" in str(done[5])
        assert [each for i, each in enumerate(done) if i != 5] == [(i, None) for i in range(10) if i != 5]
        assert bench.pool.statistics().lost_replicas == 3


async def test_a_backend_that_cannot_be_built_fails_every_caller_with_the_reason() -> None:
    launcher = InProcessLauncher(failures=(UsageError("there are no weights."),))
    async with Bench(launcher=launcher) as bench:
        with pytest.raises(UsageError, match="there are no weights"):
            await bench.pool.submit(Show(1))
        with pytest.raises(UsageError, match="there are no weights"):
            await bench.pool.ready()
        with pytest.raises(UsageError, match="there are no weights"):
            await bench.pool.call("layers")


async def test_one_broken_replica_leaves_the_work_to_the_others() -> None:
    launcher = InProcessLauncher(gated=False, failures=(UsageError("no such GPU."),))
    async with Bench(replicas=2, launcher=launcher) as bench:
        assert await bench.pool.map([Show(i) for i in range(5)]) == [(i, None) for i in range(5)]
        assert bench.pool.statistics().replicas == 1


async def test_requests_wait_until_a_replica_is_ready() -> None:
    bench = Bench(launcher=InProcessLauncher(gated=False))
    bench.pool.start()
    future = bench.ask(1)[0]
    await asyncio.sleep(0)
    assert bench.pool.statistics().unsent == 1
    assert await future == (1, None)
    await bench.pool.aclose()


async def test_callers_of_a_full_pool_wait_in_order() -> None:
    async with Bench(limit=3) as bench:
        futures = bench.ask(0, 1, 2)
        waits = [asyncio.ensure_future(bench.pool.submit(Show(i))) for i in (3, 4, 5)]
        await settle()
        waits[0].cancel()
        await bench.release()
        assert bench.pool.statistics().outstanding == 2
        await bench.release()
        await asyncio.gather(*futures, *waits[1:])
        assert bench.replicas[0].sent() == [[0, 1, 2], [4, 5]]


async def test_a_request_that_a_replica_has_no_capacity_for_is_sent_again() -> None:
    async with Bench() as bench:
        bench.replicas[0].replica.coalescer._capacity.limit = 4
        futures = bench.ask(*range(10))
        for _ in range(20):
            await settle()
            await bench.release()
            if all(future.done() for future in futures):
                break
        assert [number for number, _ in await asyncio.gather(*futures)] == list(range(10))


@pytest.mark.slow
async def test_map_keeps_order_takes_any_iterable_and_is_bounded() -> None:
    most, count = 0, 3 * MAP_WINDOW
    async with Bench(launcher=InProcessLauncher(gated=False)) as bench:

        def shows() -> Any:
            nonlocal most
            for i in range(count):
                most = max(most, bench.pool.statistics().outstanding)
                yield Show(i)

        assert await bench.pool.map(shows(), agent="a", priority=Priority.SWEEP) == [
            (i, None) for i in range(count)
        ]
    assert most <= MAP_WINDOW


async def test_map_raises_the_first_failure_and_withdraws_the_rest() -> None:
    async with Bench() as bench:
        mapping = asyncio.ensure_future(bench.pool.map([Show(-1), *(Show(i) for i in range(9))]))
        await settle()
        await bench.release()
        with pytest.raises(RefusedError, match="number -1"):
            await mapping
        assert bench.pool.statistics().outstanding == 0


async def test_a_request_that_cannot_be_pickled_fails_alone() -> None:
    async with Bench(launcher=InProcessLauncher(gated=False)) as bench:
        bad = asyncio.ensure_future(bench.pool.submit(Show(1, unit=lambda: None)))  # type: ignore[arg-type]
        (good,) = bench.ask(2)
        with pytest.raises(UsageError, match="a Show cannot be sent to a replica"):
            await bad
        assert await good == (2, None)


async def test_control_calls_reach_a_replica_and_survive_its_death() -> None:
    async with Bench() as bench:
        assert await bench.pool.call("layers") == ["conv1", "conv2"]
        assert await bench.pool.call("echo", image(3), twice=True) == [image(3)] * 2
        with pytest.raises(UsageError, match="no such layer"):
            await bench.pool.call("fail", True)
        await bench.replicas[0].kill()
        assert await bench.pool.call("layers") == ["conv1", "conv2"]
        assert (await bench.pool.describe()).backend["name"] == "scripted"
        assert [replica.running for replica in await bench.pool.replica_statistics()] == [0]


async def test_replicas_are_added_under_load_and_stopped_when_idle() -> None:
    async with Bench(replicas=1, most=2, scale_up_batches=2, scale_down_s=60) as bench:
        futures = bench.ask(*range(9))
        await settle()
        bench.pool.autoscale()
        assert len(bench.replicas) == 1, "one busy moment is not load"
        bench.pool.autoscale()
        await settle()
        assert len(bench.replicas) == 2
        futures += bench.ask(*range(20, 23))
        await settle()
        assert bench.replicas[1].sent() == [[20, 21, 22]]
        bench.pool.autoscale()
        bench.pool.autoscale()
        assert len(bench.replicas) == 2, "not above max_replicas"
        for _ in range(3):
            await bench.release()
        await asyncio.gather(*futures)
        bench.pool.autoscale()
        bench.clock.now += 61
        bench.pool.autoscale()
        await settle()
        assert [replica.stopped for replica in bench.replicas].count(True) == 1
        bench.clock.now += 61
        bench.pool.autoscale()
        await settle()
        assert bench.pool.statistics().replicas == 1, "not below min_replicas"


async def test_requests_of_other_processes_count_as_load() -> None:
    async with Bench(replicas=1, most=2, scale_up_batches=2, scale_down_s=60) as bench:
        others = [submit(bench.replicas[0].replica.coalescer, Show(number)) for number in range(9)]
        for _ in range(2):
            await bench.pool.refresh_load()
            bench.pool.autoscale()
        await settle()
        assert len(bench.replicas) == 2
        bench.clock.now += 61
        await bench.pool.refresh_load()
        bench.pool.autoscale()
        await settle()
        assert not bench.replicas[0].stopped, "idle for this process alone"
        for _ in range(3):
            await bench.release()
        await asyncio.gather(*others)


class SharedLauncher(InProcessLauncher):
    """Replicas of another pool: `there` are those that exist now."""

    def __init__(self) -> None:
        super().__init__()
        self.there: list[InProcessReplica] = []
        self._given: set[int] = set()

    def start(self) -> InProcessReplica:
        self.there.append(super().launch())
        return self.there[-1]

    def launch(self) -> InProcessReplica:
        if not self.there:
            raise UsageError("no replica is there.")
        self._given.add(id(self.there[0]))
        return self.there[0]

    def fresh(self) -> list[InProcessReplica]:
        found = [each for each in self.there if id(each) not in self._given]
        self._given |= {id(each) for each in found}
        return found


class FailingStartLauncher(InProcessLauncher):
    """Its replicas end while they are started, as where their process cannot import them."""

    def launch(self) -> InProcessReplica:
        replica = super().launch()
        replica.gone = True
        replica.alive.clear()
        return replica


async def test_a_pool_whose_replicas_end_while_they_are_started_gives_up_and_says_why() -> None:
    """Nothing waits for ever for a model that no process can hold."""
    async with Bench(launcher=FailingStartLauncher()) as bench:
        with pytest.raises(BackendError, match=r"5 replicas in a row ended.*the actor is dead"):
            await bench.pool.submit(Show(1))
        assert len(bench.replicas) == 5
        for replica in bench.replicas:
            replica.stopped = True


async def test_a_shared_pool_follows_the_replicas_that_come_and_go() -> None:
    launcher = SharedLauncher()
    first = launcher.start()
    async with Bench(launcher=launcher) as bench:
        second = launcher.start()
        await bench.pool.refresh_load()
        await bench.pool.refresh_load()
        await settle()
        assert bench.pool.statistics().ready == 2
        futures = bench.ask(1, 2, 3, 4)
        await settle()
        assert (first.sent(), second.sent()) == ([[1, 3]], [[2, 4]])
        launcher.there.remove(first)
        await first.kill(gone=True, restart=False)
        await settle()
        assert bench.pool.statistics().replicas == 1
        await second.backend.release()
        await second.backend.release()
        assert await asyncio.gather(*futures) == [(number, None) for number in (1, 2, 3, 4)]
        await first.stop()


async def test_a_shared_pool_without_any_replica_left_says_so() -> None:
    launcher = SharedLauncher()
    only = launcher.start()
    async with Bench(launcher=launcher, liveness_timeout_s=60) as bench:
        futures = bench.ask(1)
        await settle()
        bench.clock.now += 61
        launcher.there.clear()
        await only.kill(gone=True, restart=False)
        await settle()
        with pytest.raises(UsageError, match="no replica"):
            await futures[0]
        await only.stop()


async def test_a_shared_pool_waits_for_the_replica_that_its_owner_starts_in_place_of_a_lost_one() -> None:
    launcher = SharedLauncher()
    lost = launcher.start()
    async with Bench(launcher=launcher) as bench:
        futures = bench.ask(1)
        await settle()
        launcher.there.clear()
        await lost.kill(gone=True, restart=False)
        await settle()
        assert not futures[0].done()
        launcher.start()
        await settle()
        await bench.release()
        assert await futures[0] == (1, None)
        await lost.stop()


async def test_a_replica_that_does_not_say_how_it_stands_is_still_looked_at() -> None:
    """One that hangs is found out all the same, and its work is done elsewhere."""
    async with Bench(replicas=1, most=2, tick_s=0.01, liveness_timeout_s=0.01) as bench:
        never = asyncio.get_running_loop().create_future()
        replica: Any = bench.replicas[0]
        replica.statistics = lambda: asyncio.shield(never)
        futures = bench.ask(1)
        await settle()
        bench.replicas[0].hangs = True
        bench.clock.now += 1
        await bench.pool.refresh_load()
        bench.pool.autoscale()
        await bench.launcher.second.wait()
        await settle()
        await bench.release()
        assert await futures[0] == (1, None)
        never.cancel()


async def test_a_replica_that_hangs_is_replaced_and_its_work_done_elsewhere() -> None:
    async with Bench(liveness_timeout_s=0.01) as bench:
        futures = bench.ask(1)
        await settle()
        bench.replicas[0].hangs = True
        bench.clock.now += 1
        bench.pool.autoscale()
        await bench.launcher.second.wait()
        await settle()
        await bench.release()
        assert await futures[0] == (1, None)


async def test_a_busy_replica_that_answers_pings_is_left_alone() -> None:
    async with Bench(liveness_timeout_s=10) as bench:
        futures = bench.ask(1)
        await settle()
        bench.clock.now += 11
        bench.pool.autoscale()
        await settle()
        assert bench.pool.statistics().lost_replicas == 0
        await bench.release()
        await asyncio.gather(*futures)


async def test_closing_fails_what_is_unanswered_and_stops_the_replicas() -> None:
    async with Bench(limit=2) as bench:
        futures = bench.ask(1, 2)
        waits = asyncio.ensure_future(bench.pool.submit(Show(3)))
        await settle()
        await bench.pool.aclose()
        for future in (*futures, waits):
            with pytest.raises(ClosedError):
                await future
        with pytest.raises(ClosedError):
            await bench.pool.submit(Show(4))
        with pytest.raises(ClosedError):
            await bench.pool.call("layers")


@pytest.fixture
async def local() -> AsyncIterator[LocalPool[Show, Any]]:
    backend = ScriptedBackend()
    async with LocalPool(backend) as pool:
        yield pool
        assert pool.statistics().outstanding == 0
    assert backend.closed


async def test_a_local_pool_is_the_same_handle(local: LocalPool[Show, Any]) -> None:
    backend = local.backend
    assert isinstance(backend, ScriptedBackend)
    futures = [asyncio.ensure_future(local.submit(Show(i, image(i)))) for i in range(3)]
    await settle()
    assert local.statistics().outstanding == 3
    await backend.release()
    assert await asyncio.gather(*futures) == [(0, 0), (1, 90), (2, 180)]
    backend.gated = False
    assert await local.map([Show(i) for i in range(9)]) == [(i, None) for i in range(9)]
    with pytest.raises(RefusedError):
        await local.submit(Show(-1))
    assert await local.call("layers") == ["conv1", "conv2"]
    with pytest.raises(UsageError, match="no control method"):
        await local.call("run")
    assert (await local.describe()).backend["name"] == "scripted"
    statistics = local.statistics()
    assert (statistics.requests, statistics.answered, statistics.failed) == (13, 13, 1)
    assert (await local.replica_statistics())[0].batches >= 4
