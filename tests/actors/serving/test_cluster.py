"""Real Ray: pools in actors, a killed replica, secrets, and pixels over the wire."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.cluster.settings import RaySettings
from actors.errors import MaiaError, RefusedError, UsageError
from actors.serving.cluster import Cluster
from actors.serving.replica_pool import PoolOptions, ReplicaPool
from actors.serving.transport import pack
from actors.settings import Placement
from tests.actors.scripted import Show, image
from tests.conftest import CANARY

SCRIPTED = "tests.actors.scripted:build"
ray_test = [pytest.mark.ray]


@pytest.fixture
async def cluster(ray_cluster: None) -> AsyncIterator[Cluster]:
    async with Cluster.start() as cluster:
        yield cluster


async def until(happened: Callable[[], bool]) -> None:
    """Return when another process has brought something about; the test's timeout bounds it."""
    while not happened():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class TestPools:
    pytestmark = ray_test

    async def test_two_pools_answer_side_by_side(self, cluster: Cluster) -> None:
        open_pool = cluster.pool("open", SCRIPTED, {"gated": False})
        other = cluster.pool("other", SCRIPTED, {"gated": False, "max_batch": 2})
        answers, others = await asyncio.gather(
            open_pool.map([Show(i) for i in range(50)]), other.map([Show(i) for i in range(7)])
        )
        assert answers == [(i, None) for i in range(50)]
        assert others == [(i, None) for i in range(7)]
        with pytest.raises(RefusedError, match="number -1 is negative"):
            await other.submit(Show(-1))
        assert (await other.describe()).max_batch == 2

    async def test_pixels_travel_once_and_then_as_ids(self, cluster: Cluster) -> None:
        pool = cluster.pool("pixels", SCRIPTED, {"gated": False, "max_batch": 64})
        shows = [Show(i, image(i % 5, side=200)) for i in range(20)]
        expected = [(i, i % 5 * 200 * 201 * 3) for i in range(20)]
        assert await pool.map(shows) == expected
        assert await pool.map(shows) == expected
        (counts,) = await pool.replica_statistics()
        assert (counts.pixels_received, counts.images) == (5, 5)

    async def test_a_killed_replica_comes_back_and_its_requests_are_sent_again(
        self, cluster: Cluster
    ) -> None:
        pool = cluster.pool("killed", SCRIPTED, {"gated": True})
        futures = [asyncio.ensure_future(pool.submit(Show(i))) for i in range(6)]
        pid = (await pool.describe()).pid
        await until(lambda: pool.statistics().unsent == 0)
        assert await pool.call("counts") == (1, 4)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: pool.statistics().lost_replicas == 1)
        await pool.call("open_gate")
        assert await asyncio.gather(*futures) == [(i, None) for i in range(6)]
        assert (await pool.describe()).pid != pid
        assert pool.statistics().resubmitted == 6

    @pytest.mark.slow
    async def test_a_process_whose_device_is_lost_ends_and_the_next_answers(self, cluster: Cluster) -> None:
        pool = cluster.pool("lost", SCRIPTED, {"gated": False, "max_batch": 1})
        shows = [Show(i, unit="on a device that lasts for two batches") for i in range(5)]
        pids, answers = set(), []
        for show in shows:
            answers.append(await pool.submit(show))
            pids.add((await pool.describe()).pid)
        assert answers == [(i, None) for i in range(5)]
        assert len(pids) == 3
        assert pool.statistics().lost_replicas == 2

    async def test_workers_see_no_secret_that_their_pool_did_not_ask_for(self, cluster: Cluster) -> None:
        pool = cluster.pool("scrubbed", SCRIPTED)
        keyed = cluster.pool("keyed", SCRIPTED, env={"OPENAI_API_KEY": "for this pool"})
        environment, with_key = await asyncio.gather(pool.call("environment"), keyed.call("environment"))
        assert not CANARY.keys() & environment.keys()
        assert not any("canary" in value for value in environment.values())
        assert with_key["OPENAI_API_KEY"] == "for this pool"
        assert not any("canary" in value for value in with_key.values())
        assert environment["OMP_WAIT_POLICY"] == "PASSIVE"

    async def test_a_backend_that_cannot_be_built_gives_the_typed_reason(self, cluster: Cluster) -> None:
        pool = cluster.pool("broken", "tests.actors.scripted:build_badly", {"reason": "lost"})
        with pytest.raises(UsageError, match="there are no weights: lost"):
            await pool.submit(Show(1))

    async def test_a_pool_has_the_replicas_of_its_placement(self, cluster: Cluster) -> None:
        placement = Placement(min_replicas=2, max_replicas=2, threads=1)
        pool: ReplicaPool[Show, Any] = cluster.pool("two", SCRIPTED, {"gated": False}, placement)
        await until(lambda: pool.statistics().ready == 2)
        await pool.map([Show(i) for i in range(10)])
        counts = [replica.batch_items for replica in await pool.replica_statistics()]
        assert sorted(counts) == [5, 5]
        assert (await pool.call("environment"))["OMP_NUM_THREADS"] == "1"


class TestInThisProcess:
    """Without Ray, by `ray: {address: none}`."""

    @pytest.fixture
    async def cluster(self) -> AsyncIterator[Cluster]:
        async with Cluster.start(RaySettings(address="none")) as cluster:
            yield cluster

    async def test_a_pool_answers_as_one_of_actors_does(self, cluster: Cluster) -> None:
        pool = cluster.pool("here", SCRIPTED, {"gated": False})
        shows = [Show(i, image(i % 5, side=20)) for i in range(20)]
        assert await pool.map(shows) == [(i, i % 5 * 20 * 21 * 3) for i in range(20)]
        with pytest.raises(RefusedError, match="number -1 is negative"):
            await pool.submit(Show(-1))
        assert (await pool.describe()).pid == os.getpid()

    async def test_what_cannot_be_built_or_placed_gives_the_typed_reason(self, cluster: Cluster) -> None:
        pool = cluster.pool("broken", "tests.actors.scripted:build_badly", {"reason": "lost"})
        with pytest.raises(UsageError, match="there are no weights: lost"):
            await pool.submit(Show(1))
        with pytest.raises(UsageError, match="asks for 2 replicas"):
            cluster.pool("two", SCRIPTED, {}, Placement(min_replicas=2, max_replicas=2))

    async def test_a_lost_device_fails_what_is_asked_and_not_the_process(self, cluster: Cluster) -> None:
        pool = cluster.pool("lost", SCRIPTED, {"gated": False, "max_batch": 1})
        shows = [Show(i, unit="on a device that lasts for two batches") for i in range(4)]
        outcomes = await asyncio.gather(*map(pool.submit, shows), return_exceptions=True)
        assert outcomes[:2] == [(0, None), (1, None)]
        assert all(isinstance(outcome, MaiaError) for outcome in outcomes[2:]), outcomes


class Host:
    """An actor that carries callers and reaches the models through a pool of its own process."""

    async def ask(self, address: str, numbers: list[int]) -> list[Any]:
        async with Cluster.start() as cluster:
            pool: ReplicaPool[Show, Any] = cluster.attach(address)
            return await pool.map([Show(number, image(1, side=100)) for number in numbers])

    async def miss(self, address: str) -> None:
        async with Cluster.start() as cluster:
            cluster.attach(address)


class TestHosts:
    pytestmark = ray_test

    async def test_a_host_sees_the_replicas_that_are_added_later_and_not_those_that_went(
        self, cluster: Cluster
    ) -> None:
        placement = Placement(min_replicas=1, max_replicas=2)
        options = PoolOptions(scale_up_batches=1, tick_s=0.1)
        pool = cluster.pool("growing", SCRIPTED, {"gated": True}, placement, options=options)
        await pool.ready()
        shared = cluster.attach(pool.address, options)
        # Only the host asks: the owner learns of the load from its replica.
        asked = [asyncio.ensure_future(shared.submit(Show(number))) for number in range(30)]
        await until(lambda: shared.statistics().ready == 2)
        while any(not future.done() for future in asked):
            await asyncio.gather(*(link.handle.call(*pack(("open_gate", (), {}))) for link in pool._links))
        assert [number for number, _ in await asyncio.gather(*asked)] == list(range(30))

    async def test_hosts_share_the_replicas_that_the_driver_started(self, cluster: Cluster) -> None:
        import ray

        pool = cluster.pool("shared", SCRIPTED, {"gated": False})
        hosts = [ray.remote(Host).options(num_cpus=0).remote() for _ in range(2)]
        await pool.ready()
        asked = [host.ask.remote(pool.address, [10 * i, 10 * i + 1]) for i, host in enumerate(hosts)]
        answers = await asyncio.gather(*asked)
        assert [[number for number, _ in each] for each in answers] == [[0, 1], [10, 11]]
        assert await pool.submit(Show(5)) == (5, None), "the replicas stay when hosts leave"
        (counts,) = await pool.replica_statistics()
        assert (counts.batch_items, counts.images) == (5, 1)
        with pytest.raises(UsageError, match="no pool has the address 'nowhere'"):
            await hosts[0].miss.remote("nowhere")
        for host in hosts:
            ray.kill(host)
