"""Ray Serve's `@serve.batch` as a peer, where it is installed: pip install "ray[serve]"."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.simulated import Ask, SimulatedDevice

MISSING = 'Ray Serve is not installed (pip install "ray[serve]"), so it is not among the peers.'


def serve_is_installed() -> bool:
    try:
        from ray import serve  # noqa: F401
    except ImportError:
        return False
    return True


def shut_down() -> None:
    """End what was deployed; nothing where Serve is not installed or not running."""
    if not serve_is_installed():
        return
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()


def deploy(
    name: str, wait_ms: float, base_ms: float, item_ms: float, max_batch: int
) -> Callable[[Ask], Awaitable[Any]]:
    """Deploy the simulated device behind `@serve.batch`; return what asks it.

    One replica, one batch at a time (the device is one), the timeout under test, and as many ongoing
    requests as Serve needs so that batches can fill.
    """
    from ray import serve

    @serve.deployment(num_replicas=1, max_ongoing_requests=5000, ray_actor_options={"num_cpus": 0})
    class Batched:
        def __init__(self) -> None:
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            self._device = SimulatedDevice(base_ms, item_ms, max_batch)

        @serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=wait_ms / 1000, max_concurrent_batches=1)
        async def _run(self, asks: list[Ask]) -> list[int]:
            return await self._device.run(asks)

        async def ask(self, ask: Ask) -> Any:
            return await self._run(ask)

    handle = serve.run(
        Batched.bind(),  # type: ignore[attr-defined]
        name=name,
        route_prefix=None,
        logging_config={"log_level": "WARNING"},
    )

    async def ask(request: Ask) -> Any:
        return await handle.ask.remote(request)

    return ask
