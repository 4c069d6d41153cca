"""Admission: how many callers may be inside at a time; further ones wait in order."""

from __future__ import annotations

import asyncio
from collections import deque


class CapacityLimiter:
    """Counts callers up to `limit`; further ones wait, first come, first served.

    `wait` reserves nothing: a caller that it let through adds itself to `in_use` before it yields to the
    event loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def full(self) -> bool:
        return self.in_use >= self.limit

    async def wait(self) -> None:
        """Return when there is capacity, or `release_all` was called."""
        while self.full and not self._closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)  # its turn goes to the next
                raise

    def release(self, n: int = 1) -> None:
        self.in_use -= n
        self._wake(n)

    def release_all(self) -> None:
        """Let all waiting callers through, now and later: what they wait for is closed, and raises."""
        self._closed = True
        self._wake(len(self._waiters))

    def _wake(self, n: int) -> None:
        while n > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                n -= 1
