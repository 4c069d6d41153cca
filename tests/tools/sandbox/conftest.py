"""One fork server a test module; each test opens sandboxes of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import pytest

from tests.tools.sandbox.hosts import FakeHost
from tools.sandbox import SandboxSettings
from tools.sandbox.kernel import KernelSandbox, KernelServer

TIER = os.environ.get("MAIA_TEST_TIER", "kernel+ns")
"""The tier that the attacks are tried on: with or without namespaces."""
LIMITS = SandboxSettings(
    namespaces=TIER == "kernel+ns",
    program_timeout_s=4.0,
    calls_timeout_s=6.0,
    memory_bytes=256 << 20,
    max_calls=50,
    max_images=300,
    max_bytes=64 << 20,
)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[KernelServer]:
    server = KernelServer(LIMITS)
    await server.start()
    assert server.missing == ()
    assert server.tier == TIER or (TIER == "kernel+ns" and server.tier == "kernel")
    async with server:
        yield server


@pytest.fixture
async def open_sandbox(server: KernelServer) -> AsyncIterator[Callable[..., object]]:
    """Return a coroutine function that opens a sandbox which is closed after the test."""
    opened: list[KernelSandbox] = []

    async def open_sandbox(seed: int = 7) -> KernelSandbox:
        sandbox = await server.open(seed=seed)
        opened.append(sandbox)
        return sandbox

    yield open_sandbox
    for sandbox in opened:
        await sandbox.close()


@pytest.fixture
async def sandbox(open_sandbox: Callable[..., object]) -> KernelSandbox:
    return await open_sandbox()  # type: ignore[misc, no-any-return]


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()
