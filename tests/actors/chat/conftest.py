"""A clock that only moves during a sleep, and backends that talk to the fake endpoint by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.settings import OpenAIChat
from actors.images import Image
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint

__all__ = ["FakeClock", "picture"]


class FakeClock:
    """Time stands still except in `sleep`, which takes none and is written down."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(round(seconds, 6))
        self.now += seconds
        await asyncio.sleep(0)


def picture(seed: int, height: int = 40, width: int = 56) -> Image:
    """Return noise, a different one for each seed."""
    return Image.from_pixels(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as server:
        yield server


@pytest.fixture
def opened(clock: FakeClock) -> Callable[..., Any]:
    """Return a function that opens a backend on a fake endpoint; keywords are settings."""

    @asynccontextmanager
    async def open_backend(endpoint: FakeEndpoint, **settings: Any) -> AsyncIterator[OpenAIBackend]:
        settings = {"base_url": endpoint.base_url, "model": MODEL, "api_key_env": "FAKE_KEY", **settings}
        backend = OpenAIBackend(
            OpenAIChat(**settings),
            environ={"FAKE_KEY": KEY},
            clock=clock,
            sleep=clock.sleep,
            random=lambda: 0.5,
        )
        try:
            yield backend
        finally:
            await backend.close()

    return open_backend
