"""The `cpython` executor: real Python behind the kernel's walls."""

from __future__ import annotations

import weakref
from types import TracebackType

from tools.sandbox.base import Check, Tier
from tools.sandbox.fork_server import ForkServer
from tools.sandbox.session import KernelSandbox
from tools.sandbox.settings import SandboxSettings


class KernelServer:
    """Makes `KernelSandbox`es from one fork server."""

    tier: Tier

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._fork_server = ForkServer(settings)
        self._sandboxes: weakref.WeakSet[KernelSandbox] = weakref.WeakSet()
        self.tier = "weak"

    @property
    def missing(self) -> tuple[str, ...]:
        """The walls that this machine lacks, one sentence each."""
        return self._fork_server.missing

    async def start(self) -> None:
        """Start the fork server.

        Raises:
            SandboxError: If it does not come up.
        """
        await self._fork_server.start()
        self.tier = "weak" if self.missing else "kernel"

    async def open(self, *, seed: int) -> KernelSandbox:
        sandbox = KernelSandbox(self._fork_server, self._settings, self.tier, seed)
        await sandbox.prepare()
        self._sandboxes.add(sandbox)
        return sandbox

    async def self_test(self) -> list[Check]:
        from tools.sandbox.self_test import run_checks

        return await run_checks(self, self._settings)

    async def close(self) -> None:
        for sandbox in list(self._sandboxes):
            await sandbox.close()
        await self._fork_server.close()

    async def __aenter__(self) -> KernelServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
