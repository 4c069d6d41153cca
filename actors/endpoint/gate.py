"""Rate limits, adaptive concurrency and a circuit breaker in front of one endpoint.

One gate admits the requests of all agents to one endpoint. It has three independent limits:
- token buckets for requests and tokens per minute, filled continuously (a reservation may run ahead of the
  bucket and waits for it, so waiting is first come, first served without a lock);
- a concurrency limit, adapted as in TCP (AIMD): halved by overload, one more for every success;
- a pause, asked for by `Retry-After` or by many failures in a row (a circuit breaker); after failures the
  concurrency is one, so that a single request probes the endpoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from actors.endpoint.faults import EndpointDownError
from actors.endpoint.settings import EndpointSettings
from actors.errors import MaiaError

Sleep = Callable[[float], Awaitable[None]]

_MAX_PAUSE_S = 300.0


class TokenBucket:
    """At most `per_minute` units in any minute on average, with a burst of at most `burst`."""

    def __init__(self, per_minute: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = per_minute / 60.0, burst, clock
        self._level, self._at = burst, clock()

    def reserve(self, amount: float) -> float:
        """Take `amount`; return the seconds until it is there. More than a burst waits for a full bucket."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        debt = min(amount, self._burst) - self._level
        self._level -= amount
        return max(0.0, debt / self._rate)

    def refund(self, amount: float) -> None:
        """Return what was reserved and not used; negative takes what was used beyond it."""
        self._level = min(self._burst, self._level + amount)


@dataclass(slots=True)
class Permit:
    """Permission to send one request; numbered in order. Its holder sets how many tokens were really used."""

    number: int
    reserved_tokens: float
    used_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """A snapshot of a gate, to find out why requests stall."""

    in_flight: int
    waiting: int
    concurrency: int
    """Requests in flight at most, now."""
    paused_s: float
    """Seconds until the end of a pause; 0.0 without one."""
    failures_in_a_row: int


class Gate:
    """Lets requests through to one endpoint as fast as it, its limits and its health allow."""

    def __init__(self, settings: EndpointSettings, clock: Callable[[], float], sleep: Sleep) -> None:
        self._settings, self._clock, self._sleep = settings, clock, sleep
        rpm, tpm = settings.requests_per_minute, settings.tokens_per_minute
        # A tenth of a minute at once: agents start together, and a full minute's burst would be refused.
        self._requests = TokenBucket(rpm, max(1.0, rpm / 10), clock) if rpm else None
        self._tokens = TokenBucket(tpm, tpm / 2, clock) if tpm else None
        self._concurrency = float(settings.max_concurrent)
        self._in_flight = 0
        self._admitted = 0
        self._halved_at = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until = -1.0
        self._failures = 0
        self._failing_since = 0.0
        self._last_failure = ""
        self._trips = 0
        self._stop: MaiaError | None = None

    @asynccontextmanager
    async def admit(self, tokens: float) -> AsyncIterator[Permit]:
        """Wait for permission to send a request of about `tokens` tokens, and hold a slot for it.

        Raises:
            EndpointDownError: If the endpoint is in an outage longer than `outage_patience_s`.
            EndpointStopError: If it was stopped (bad key, no quota) and the pause is not over.
        """
        wait = self._reserve(tokens)
        try:
            if wait > 0:
                await self._sleep(wait)
            await self._wait_out_pause()
            await self._acquire_slot()
            while self._clock() < self._paused_until:
                # A pause began while this one waited: it must not overtake the probe that ends the pause.
                self._release_slot()
                await self._wait_out_pause()
                await self._acquire_slot()
        except BaseException:
            self._refund(1, tokens)
            raise
        self._admitted += 1
        permit = Permit(self._admitted, tokens)
        try:
            yield permit
        finally:
            if permit.used_tokens is not None:
                self._refund(0, permit.reserved_tokens - permit.used_tokens)
            self._release_slot()

    def _release_slot(self) -> None:
        self._in_flight -= 1
        self._wake()

    async def _acquire_slot(self) -> None:
        if self._in_flight < int(self._concurrency) and not self._waiting:
            self._in_flight += 1
            return
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(slot)
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                # Granted in the same turn as cancelled: pass the slot on.
                self._release_slot()
            raise

    def _reserve(self, tokens: float) -> float:
        wait = 0.0 if self._requests is None else self._requests.reserve(1)
        return wait if self._tokens is None else max(wait, self._tokens.reserve(tokens))

    def _refund(self, requests: int, tokens: float) -> None:
        if self._requests is not None:
            self._requests.refund(requests)
        if self._tokens is not None:
            self._tokens.refund(tokens)

    async def _wait_out_pause(self) -> None:
        while (wait := self._paused_until - self._clock()) > 0:
            if self._stop is not None:
                raise _fresh(self._stop)
            if wait > self._settings.deadline_s:
                raise EndpointDownError(
                    f"the endpoint {self._settings.host} asked everyone to wait {wait:.0f} s, "
                    f"longer than deadline_s ({self._settings.deadline_s:.0f} s).",
                    "Resume after that time, or raise `deadline_s`.",
                )
            if self._trips and self._clock() - self._failing_since > self._settings.outage_patience_s:
                raise self._down()
            await self._sleep(wait)
        self._stop = None

    def _down(self) -> EndpointDownError:
        minutes = (self._clock() - self._failing_since) / 60
        return EndpointDownError(
            f"the endpoint {self._settings.host} has failed {self._failures} times in a row "
            f"for {minutes:.1f} minutes, the last: {self._last_failure}.",
            "Check that it is running and reachable, then repeat the command.",
        )

    def _wake(self) -> None:
        while self._waiting and self._in_flight < int(self._concurrency):
            slot = self._waiting.popleft()
            if not slot.done():
                self._in_flight += 1
                slot.set_result(None)

    def succeeded(self) -> None:
        """Record an answer: the outage, if there was one, is over."""
        self._failures = self._trips = 0
        self._concurrency = min(self._concurrency + 1, float(self._settings.max_concurrent))
        self._wake()

    def slow_down(self, permit: Permit, seconds: float | None) -> None:
        """Record that the endpoint asks for less: halve the concurrency, and pause everyone for `seconds`."""
        self._halve(permit)
        if seconds:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def failed(self, permit: Permit, what: str) -> None:
        """Record a failure that may concern every request; many in a row pause the endpoint."""
        now = self._clock()
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        self._last_failure = what
        if now < self._paused_until:
            return
        self._halve(permit)
        if self._failures >= self._settings.breaker_failures:
            self._trips += 1
            pause = min(self._settings.breaker_pause_s * 2.0 ** min(self._trips - 1, 30), _MAX_PAUSE_S)
            self._paused_until = now + pause
            self._concurrency = 1.0
            if now - self._failing_since > self._settings.outage_patience_s:
                self._fail_waiting(self._down())

    def _fail_waiting(self, error: MaiaError) -> None:
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_exception(_fresh(error))

    def _halve(self, permit: Permit) -> None:
        # Refusals of one volley are one reason to slow down, not thirty: as in TCP, only a request that was
        # sent after the last halving says that it was not enough.
        if permit.number > self._halved_at:
            self._concurrency = max(1.0, self._concurrency / 2)
            self._halved_at = self._admitted

    def stop(self, error: MaiaError) -> None:
        """Fail every request, waiting or new, with `error` for the length of a pause."""
        self._stop = error
        self._paused_until = max(self._paused_until, self._clock() + self._settings.breaker_pause_s)
        self._fail_waiting(error)

    def statistics(self) -> GateStatistics:
        return GateStatistics(
            in_flight=self._in_flight,
            waiting=len(self._waiting),
            concurrency=int(self._concurrency),
            paused_s=max(0.0, round(self._paused_until - self._clock(), 1)),
            failures_in_a_row=self._failures,
        )


def _fresh(error: MaiaError) -> MaiaError:
    # One exception raised in many tasks would collect all their tracebacks.
    return type(error)(*error.args)
