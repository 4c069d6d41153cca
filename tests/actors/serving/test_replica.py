"""A replica without Ray: sessions, pixels by id, replies as soon as anything is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from actors.errors import BackendError, DeviceLostError, MaiaError, OverloadedError, RefusedError, UsageError
from actors.serving.backend import Priority
from actors.serving.replica import ExchangeRequest, ExchangeResponse, Replica, ReplicaService, build
from actors.serving.transport import images_from, pack, unpack
from tests.actors.scripted import ScriptedBackend, Show, build_badly, image, settle
from tests.actors.scripted import build as build_scripted


def exchange_request(
    *arrivals: tuple[int, Show] | tuple[int, Show, int], client: str = "c", epoch: int = 0
) -> ExchangeRequest:
    payload, _ = pack([(serial, request, "agent", *(rest or (0,))) for serial, request, *rest in arrivals])
    return ExchangeRequest(client, epoch, payload if arrivals else None)


def outcomes(response: ExchangeResponse) -> dict[int, Any]:
    return dict(unpack(response.payload, images_from(response.pixels))) if response.payload else {}


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
async def replica(backend: ScriptedBackend) -> AsyncIterator[Replica]:
    replica = Replica(backend)
    yield replica
    await settle()
    await replica.close()
    assert backend.closed


async def test_a_call_waits_for_its_results(replica: Replica, backend: ScriptedBackend) -> None:
    call = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)), (2, Show(2)))))
    await settle()
    assert not call.done()
    await backend.release()
    assert outcomes(await call) == {1: (1, None), 2: (2, None)}


async def test_results_go_out_with_whichever_call_is_there(
    replica: Replica, backend: ScriptedBackend
) -> None:
    """A quick answer does not wait for the slow request that travelled with it, nor a new call for an old."""
    first = asyncio.ensure_future(
        replica.exchange(
            exchange_request(*((i, Show(i)) for i in range(1, 5)), (5, Show(5), int(Priority.SWEEP)))
        )
    )
    await settle()
    second = asyncio.ensure_future(replica.exchange(exchange_request((6, Show(6)))))
    await settle()
    assert outcomes(await first) == {}, "the later call took its place"
    await backend.release()
    assert sorted(outcomes(await second)) == [1, 2, 3, 4]
    third = asyncio.ensure_future(replica.exchange(exchange_request()))
    await settle()
    await backend.release()
    assert sorted(outcomes(await third)) == [6], "the sweep's request comes after"
    fourth = asyncio.ensure_future(replica.exchange(exchange_request()))
    await settle()
    await backend.release()
    assert sorted(outcomes(await fourth)) == [5]


async def test_results_wait_for_the_next_call(replica: Replica, backend: ScriptedBackend) -> None:
    call = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)))))
    await settle()
    other = asyncio.ensure_future(replica.exchange(exchange_request((2, Show(2)))))
    await settle()
    assert outcomes(await call) == {}
    await backend.release()
    assert sorted(outcomes(await other)) == [1]
    await backend.release()
    assert sorted(outcomes(await replica.exchange(exchange_request()))) == [2]
    assert outcomes(await replica.exchange(exchange_request())) == {}, (
        "with nothing to wait for a call returns at once"
    )


async def test_ids_come_first_and_pixels_only_where_missing(
    replica: Replica, backend: ScriptedBackend
) -> None:
    backend.gated = False
    dark, light = image(1), image(2)
    response = await replica.exchange(
        exchange_request((1, Show(1, dark)), (2, Show(2, light)), (3, Show(3, dark)))
    )
    assert response.missing == (dark.id, light.id)
    assert backend.seen == []
    pixels = {each.id: each.pixels for each in (dark, light)}
    response = await replica.exchange(ExchangeRequest("c", 0, pixels=pixels))
    assert outcomes(response) == {1: (1, 90), 2: (2, 180), 3: (3, 90)}
    response = await replica.exchange(exchange_request((4, Show(4, light)), client="another"))
    assert (response.missing, outcomes(response)) == ((), {4: (4, 180)})
    assert replica.statistics().pixels_received == 2


async def test_pixels_may_come_in_parts_and_other_requests_pass(
    replica: Replica, backend: ScriptedBackend
) -> None:
    backend.gated = False
    dark, light = image(1), image(2)
    await replica.exchange(exchange_request((1, Show(1, dark)), (2, Show(2, light))))
    response = await replica.exchange(
        ExchangeRequest("c", 0, exchange_request((3, Show(3))).payload, pixels={dark.id: dark.pixels})
    )
    assert outcomes(response) == {3: (3, None)}
    response = await replica.exchange(ExchangeRequest("c", 0, pixels={light.id: light.pixels}))
    assert sorted(outcomes(response)) == [1, 2]


async def test_a_request_keeps_its_pixels_though_the_cache_forgets_them(backend: ScriptedBackend) -> None:
    backend.gated = False
    replica = Replica(backend, image_bytes=100)  # an image has 90 bytes
    images = [image(value) for value in (1, 2, 3)]
    await replica.exchange(exchange_request(*((i, Show(i, each)) for i, each in enumerate(images))))
    response = await replica.exchange(
        ExchangeRequest("c", 0, pixels={each.id: each.pixels for each in images})
    )
    assert outcomes(response) == {0: (0, 90), 1: (1, 180), 2: (2, 270)}
    assert replica.statistics().images == 1
    await replica.close()


async def test_a_withdrawn_request_is_not_run(replica: Replica, backend: ScriptedBackend) -> None:
    calls = [asyncio.ensure_future(replica.exchange(exchange_request((0, Show(0)))))]
    await settle()
    calls.append(asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)), (2, Show(2))))))
    await settle()
    calls.append(asyncio.ensure_future(replica.exchange(ExchangeRequest("c", 0, withdrawn=(1, 77)))))
    await settle()
    await backend.release()
    await backend.release()
    assert backend.seen == [[Show(0)], [Show(2)]]
    await asyncio.gather(*calls)


async def test_a_request_withdrawn_before_its_pixels_came_is_not_run(
    replica: Replica, backend: ScriptedBackend
) -> None:
    backend.gated = False
    dark = image(1)
    await replica.exchange(exchange_request((1, Show(1, dark)), (2, Show(2, dark))))
    call = asyncio.ensure_future(replica.exchange(ExchangeRequest("c", 0, withdrawn=(1,))))
    await settle()
    response = await replica.exchange(ExchangeRequest("c", 0, pixels={dark.id: dark.pixels}))
    assert outcomes(response) == {2: (2, 90)}
    await call


async def test_a_new_epoch_withdraws_what_the_old_one_asked(
    replica: Replica, backend: ScriptedBackend
) -> None:
    """A client that lost a response sends everything again; what had not started runs once."""
    old = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)))))
    await settle()
    older = asyncio.ensure_future(replica.exchange(exchange_request((2, Show(2)), (3, Show(3)))))
    await settle()
    new = asyncio.ensure_future(replica.exchange(exchange_request((2, Show(2)), epoch=1)))
    await settle()
    await backend.release()
    await backend.release()
    assert backend.seen == [[Show(1)], [Show(2)]]
    assert outcomes(await new) == {2: (2, None)}
    assert (outcomes(await old), outcomes(await older)) == ({}, {})
    assert await replica.exchange(exchange_request((9, Show(9)), epoch=0)) == ExchangeResponse(), (
        "the old epoch is over"
    )


async def test_work_of_a_new_epoch_joins_what_runs(replica: Replica, backend: ScriptedBackend) -> None:
    old = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1000)))))
    await settle()
    new = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1000)), epoch=1)))
    await settle()
    await backend.release()
    assert len(backend.seen) == 1
    assert outcomes(await new) == {1: (1000, None)}
    await old


async def test_clients_do_not_get_each_others_results(replica: Replica, backend: ScriptedBackend) -> None:
    calls = [
        asyncio.ensure_future(replica.exchange(exchange_request((1, Show(number)), client=client)))
        for client, number in (("a", 10), ("b", 20))
    ]
    await settle()
    await backend.release()
    await backend.release()
    assert [outcomes(await call) for call in calls] == [{1: (10, None)}, {1: (20, None)}]


async def test_a_client_that_went_silent_is_forgotten(backend: ScriptedBackend) -> None:
    now = [0.0]
    replica = Replica(backend, clock=lambda: now[0])
    lost = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)), client="lost")))
    await settle()
    await backend.release()
    await lost
    now[0] += 1000
    other = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(2)), client="other")))
    await settle()
    await backend.release()
    await other
    assert replica.statistics().sessions == 1
    await replica.close()


async def test_failures_are_typed_and_their_own(replica: Replica, backend: ScriptedBackend) -> None:
    backend.gated = False
    answers = outcomes(
        await replica.exchange(
            exchange_request((1, Show(-5)), (2, Show(2)), (3, Show(3, unit="unpicklable")))
        )
    )
    assert isinstance(answers[1], RefusedError)
    assert answers[2] == (2, None)
    assert isinstance(answers[3], BackendError)
    assert "cannot be pickled" in str(answers[3])


async def test_a_full_queue_is_a_typed_failure(backend: ScriptedBackend) -> None:
    replica = Replica(backend, limit=2)
    call = asyncio.ensure_future(replica.exchange(exchange_request(*((i, Show(i)) for i in range(3)))))
    await settle()
    assert isinstance(outcomes(await call)[2], OverloadedError)
    await backend.release()
    await replica.exchange(exchange_request())
    await replica.close()


async def test_images_in_results_arrive(replica: Replica, backend: ScriptedBackend) -> None:
    backend.gated = False
    answers = outcomes(await replica.exchange(exchange_request((1, Show(7, unit="image")))))
    assert np.array_equal(answers[1].pixels, np.full((2, 3, 3), 7, np.uint8))


async def call(replica: Replica, name: str, *args: Any, **kwargs: Any) -> Any:
    payload, images = pack((name, args, kwargs))
    response = await replica.call(payload, {id: each.pixels for id, each in images.items()})
    assert response.payload is not None
    return unpack(response.payload, images_from(response.pixels))


async def test_control_methods_are_called_by_name_with_images_and_typed_errors(replica: Replica) -> None:
    assert await call(replica, "layers") == ["conv1", "conv2"]
    dark = image(1)
    assert await call(replica, "echo", dark, twice=True) == [dark, dark]
    with pytest.raises(UsageError, match="no such layer"):
        await call(replica, "fail", True)
    with pytest.raises(BackendError, match="scripted failed in fail: RuntimeError: broken"):
        await call(replica, "fail", False)


@pytest.mark.parametrize("name", ["run", "close", "__class__", "nothing"])
async def test_only_declared_control_methods_can_be_called(replica: Replica, name: str) -> None:
    with pytest.raises(UsageError, match=f"scripted has no control method '{name}'. It has: counts, die"):
        await call(replica, name)


async def test_a_parked_call_does_not_keep_pings_and_statistics_waiting(
    replica: Replica, backend: ScriptedBackend
) -> None:
    parked = asyncio.ensure_future(replica.exchange(exchange_request((1, Show(1)))))
    await settle()
    assert await replica.ping() > 0
    assert replica.statistics().running == 1
    facts = replica.describe()
    assert (facts.backend["name"], facts.slots, facts.max_batch) == ("scripted", 1, 4)
    await backend.release()
    await parked


def test_a_factory_is_found_by_name() -> None:
    assert isinstance(build("tests.actors.scripted:build", {"max_batch": 3}), ScriptedBackend)
    for factory in ("nowhere:build", "tests.actors.scripted:nothing", "tests.actors.scripted", ""):
        with pytest.raises(UsageError, match="no backend factory"):
            build(factory, {})
    with pytest.raises(UsageError, match="there are no weights"):
        build("tests.actors.scripted:build_badly", {"reason": "lost"})
    with pytest.raises(BackendError, match="TypeError"):
        build("tests.actors.scripted:build", {"unknown": 1})


async def test_a_service_that_cannot_build_its_backend_says_so_in_every_call() -> None:
    service = ReplicaService(partial(build_badly, reason="lost"))
    for ask in (
        service.ping(),
        service.describe(),
        service.statistics(),
        service.exchange(exchange_request((1, Show(1)))),
    ):
        with pytest.raises(MaiaError, match="there are no weights: lost"):
            await ask


async def test_a_lost_device_fails_every_call_and_ends_the_process() -> None:
    ended: list[int] = []
    make_backend = partial(build_scripted, gated=False, max_batch=1)
    service = ReplicaService(make_backend, end_process=ended.append, grace_s=0.0)
    lasting = "on a device that lasts for two batches"
    for number in (1, 2):
        response = await service.exchange(exchange_request((number, Show(number, unit=lasting))))
        assert outcomes(response) == {number: (number, None)}
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="the GPU is gone"):
            await service.exchange(exchange_request((3, Show(3, unit=lasting)), (4, Show(4))))
    with pytest.raises(DeviceLostError, match="the GPU is gone"):
        await service.describe()
    await asyncio.sleep(0)
    await settle()
    assert ended == [1]
