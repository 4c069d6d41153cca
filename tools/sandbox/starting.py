"""Picks an executor and claims a tier only after it has been proved."""

from __future__ import annotations

import logging
import sys

from tools.sandbox.base import SandboxError, SandboxServer, SandboxUnavailableError
from tools.sandbox.settings import SandboxSettings

_log = logging.getLogger(__name__)


async def start(settings: SandboxSettings, platform: str = sys.platform) -> SandboxServer:
    """Return a running server whose `tier` has just been proved by its self-test.

    With `executor="auto"` the order is `cpython` behind kernel walls, then `monty`, then (only with
    `allow_weak`) `cpython` with resource limits alone.

    Raises:
        SandboxUnavailableError: If none of the executors that the settings allow protects this machine.
    """
    reasons: list[str] = []
    if settings.executor in ("auto", "cpython"):
        try:
            return await _start_kernel(settings, platform)
        except (SandboxError, SandboxUnavailableError) as error:
            reasons.append(error.message)
    if settings.executor in ("auto", "monty"):
        try:
            return await _start_monty(settings)
        except SandboxError as error:
            reasons.append(error.message)
    raise SandboxUnavailableError(
        f"no sandbox for model-written programs on this machine: {'; '.join(reasons)}.",
        "Install pydantic-monty, use a Linux with Landlock and seccomp, or accept resource limits alone with"
        " sandbox.allow_weak (--allow-weak-sandbox).",
    )


async def _start_kernel(settings: SandboxSettings, platform: str) -> SandboxServer:
    if platform != "linux":
        raise SandboxUnavailableError(f"the kernel walls exist on Linux only, this is {platform}")
    from tools.sandbox.kernel import KernelServer

    server = KernelServer(settings)
    try:
        await server.start()
        reasons = list(server.missing)
        if not reasons:
            reasons = [
                f"{row.name} is not stopped ({row.detail})"
                for row in await server.self_test()
                if not row.passed
            ]
        if reasons:
            if not settings.allow_weak:
                raise SandboxUnavailableError("; ".join(reasons))
            server.tier = "weak"
            _log.warning("programs run with resource limits alone: %s", "; ".join(reasons))
    except BaseException:
        await server.close()
        raise
    return server


async def _start_monty(settings: SandboxSettings) -> SandboxServer:
    from tools.sandbox.monty import MontyServer

    server = MontyServer(settings)
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    return server
