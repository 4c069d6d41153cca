"""One request to an endpoint, made until it is answered, declined or hopeless.

Retries of the HTTP library are off: they would be silent, with each attempt perhaps billed, and
without knowing of the other agents. Here every attempt is counted, and all agents share one gate.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Generic, TypeVar

import structlog

from actors.endpoint.faults import TRANSIENT, EndpointDownError, EndpointStopError, Fault, to_error, try_once
from actors.endpoint.gate import Gate, GateStatistics, Permit, Sleep
from actors.endpoint.secrets import Secrets
from actors.endpoint.settings import EndpointSettings
from actors.errors import MaiaError

T = TypeVar("T")

Adapt = Callable[[Fault], Awaitable[bool]]
"""Changes a request by the fault that it met; returns whether it did, so that another attempt is worthwhile.
"""

MAX_ADAPTATIONS = 12
"""Ways in which one request may be changed before its fault counts."""

PERMIT_LIFETIME_S = 15.0
"""How long a permit to send lasts: its holder only records that it will send, and may be gone."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sent(Generic[T]):
    """An answer, the tokens it was billed for, and how many attempts it took."""

    value: T
    tokens: float
    attempts: int = 1
    in_doubt: int = 0


@dataclass(slots=True)
class Tally:
    """Attempts at one endpoint and their outcomes, since this process started."""

    attempts: int = 0
    answers: int = 0
    in_doubt: int = 0
    """Attempts without an answer that the endpoint may have billed."""
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class EndpointStatistics(GateStatistics):
    """A snapshot of one endpoint's gate and of its `Tally`."""

    attempts: int
    answers: int
    in_doubt: int
    faults: dict[str, int]


@dataclass(frozen=True, slots=True)
class _HeldPermit:
    """A slot that is kept for a request to come, and the task that releases it when none comes."""

    slot: AsyncExitStack
    permit: Permit
    expiry: asyncio.Task[None]


class EndpointCaller:
    """Makes requests to one endpoint: gate, attempts, deadline, typed failures.

    Clock, sleep and random are passed in by tests; `random` returns floats in [0, 1).
    """

    def __init__(
        self,
        settings: EndpointSettings,
        secrets: Secrets,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random.random,
        proxy: str = "",
    ) -> None:
        self._settings, self._secrets, self._proxy = settings, secrets, proxy
        self._clock, self._sleep, self._random = clock, sleep, random
        self.gate = Gate(settings, clock, sleep)
        self.tally = Tally()
        self._held_permits: dict[str, _HeldPermit] = {}

    async def admit(self, tokens: float) -> str:
        """Wait until a request of about `tokens` tokens may be sent, and return the id of a permit with
        which `call` sends it at once.

        So a caller knows what was sent and what waits for its turn, a rate limit or the end of an outage.

        Raises:
            EndpointDownError: If the endpoint is in an outage longer than `outage_patience_s`.
            EndpointStopError: If no request can work until a person acts.
        """
        slot, permit_id = AsyncExitStack(), uuid.uuid4().hex
        permit = await slot.enter_async_context(self.gate.admit(tokens))
        self._held_permits[permit_id] = _HeldPermit(
            slot, permit, asyncio.create_task(self._expire(permit_id))
        )
        return permit_id

    async def _expire(self, permit_id: str) -> None:
        await self._sleep(PERMIT_LIFETIME_S)
        held = self._held_permits.pop(permit_id)
        held.permit.used_tokens = 0.0
        await held.slot.aclose()

    @asynccontextmanager
    async def _admitted(self, tokens: float, permit_id: str) -> AsyncIterator[Permit]:
        held = self._held_permits.pop(permit_id, None)
        if held is None:
            async with self.gate.admit(tokens) as permit:
                yield permit
        else:
            held.expiry.cancel()
            async with held.slot:
                yield held.permit

    def close(self) -> None:
        """Drop the permits that were not used."""
        for held in self._held_permits.values():
            held.expiry.cancel()
        self._held_permits.clear()

    async def call(
        self,
        send: Callable[[], Awaitable[Sent[T]]],
        tokens: float,
        classify: Callable[[Exception], Fault | None],
        permit_id: str = "",
        adapt: Adapt | None = None,
    ) -> Sent[T]:
        """Return the answer of the first attempt that gets one.

        `send` makes one attempt and raises what its library raises, or `FaultyAnswerError`; `classify`
        returns the fault in a library's exception, or None for a bug, which is raised as it is. `tokens` is
        what the request is expected to cost, for the tokens-per-minute limit. With the id of a permit
        (`admit`) that has not expired, the first attempt is made at once. When `adapt` changes what `send`
        asks for, the next attempt is made at once.

        Raises:
            ContentFilteredError: If the provider declined the content.
            EndpointError: If the request can never work, or no attempt was answered before `max_attempts`
                or `deadline_s`; `ContextLengthError` and `EndpointDownError` are special cases.
            EndpointStopError: If no request can work until a person acts.
        """
        settings = self._settings
        deadline: float | None = None
        attempts = adapted = in_doubt = 0
        fault: Fault | None = None
        while True:
            try:
                async with self._admitted(tokens, permit_id) as permit:
                    now = self._clock()
                    deadline = deadline if deadline is not None else now + settings.deadline_s
                    if fault is not None and now >= deadline:
                        raise self._error(fault, attempts, in_doubt)
                    attempts += 1
                    timeout_s = min(settings.attempt_timeout_s, deadline - now)
                    outcome = await self._attempt(send, classify, timeout_s)
                    if isinstance(outcome, Sent):
                        permit.used_tokens = outcome.tokens
                        self.tally.answers += 1
                        self.gate.succeeded()
                        return Sent(outcome.value, outcome.tokens, attempts, in_doubt)
                    fault = outcome
                    in_doubt += fault.in_doubt
                    if not fault.in_doubt:
                        permit.used_tokens = 0.0
                    self.tally.faults[fault.kind] += 1
                    if adapt is not None and adapted < MAX_ADAPTATIONS and await adapt(fault):
                        adapted += 1
                        self.gate.succeeded()
                        continue
                    self._report_to_gate(permit, fault, attempts, in_doubt)
            except (EndpointDownError, EndpointStopError) as error:
                # The gate's, which knows nothing of this request's attempts.
                raise type(error)(error.message, error.fix, attempts, in_doubt) from None
            wait = self._backoff(attempts - adapted + 1, fault)
            out_of_time = self._clock() + wait >= deadline
            if not fault.transient or attempts - adapted >= settings.max_attempts or out_of_time:
                raise self._error(fault, attempts, in_doubt) from None
            self._log_retry(fault, attempts, wait)
            await self._sleep(wait)

    def _log_retry(self, fault: Fault, attempts: int, wait: float) -> None:
        log.warning(
            "endpoint_retry",
            host=self._settings.host,
            fault=fault.kind,
            detail=fault.detail,
            attempt=attempts,
            wait_s=round(wait, 2),
        )

    def _error(self, fault: Fault, attempts: int, in_doubt: int) -> MaiaError:
        return to_error(fault, self._settings.host, self._settings.model, attempts, in_doubt, self._proxy)

    async def _attempt(
        self,
        send: Callable[[], Awaitable[Sent[T]]],
        classify: Callable[[Exception], Fault | None],
        timeout_s: float,
    ) -> Sent[T] | Fault:
        """Send once; return the answer, or the fault as it may be shown."""
        self.tally.attempts += 1
        # Counted first: an attempt that is cancelled, or ends in a bug, was sent all the same.
        self.tally.in_doubt += 1
        outcome = await try_once(send, classify, timeout_s)
        if not (isinstance(outcome, Fault) and outcome.in_doubt):
            self.tally.in_doubt -= 1
        if not isinstance(outcome, Fault):
            return outcome
        fault = outcome
        if fault.status == 404 and fault.why == "address" and self.tally.answers:
            # It answered here before: the route is gone while the server is deployed anew.
            fault = replace(fault, kind="overloaded")
        return fault.redacted(self._secrets.redact)

    def _report_to_gate(self, permit: Permit, fault: Fault, attempts: int, in_doubt: int) -> None:
        if fault.kind == "rate_limited":
            self.gate.slow_down(permit, fault.retry_after_s)
        elif fault.kind in TRANSIENT:
            self.gate.failed(permit, f"{fault.kind} ({fault.detail})")
            if fault.retry_after_s:
                self.gate.slow_down(permit, fault.retry_after_s)
        else:
            error = self._error(fault, attempts, in_doubt)
            if isinstance(error, EndpointStopError):
                self.gate.stop(error)
            else:
                self.gate.succeeded()  # it answered, if only with a refusal: it is alive

    def _backoff(self, attempt: int, fault: Fault) -> float:
        """Return the seconds to wait: what the endpoint asked for, plus full jitter (AWS's name for it)."""
        s = self._settings
        jitter = self._random() * min(s.backoff_max_s, s.backoff_s * 2 ** (attempt - 2))
        return (fault.retry_after_s or 0.0) + jitter

    def statistics(self) -> EndpointStatistics:
        tally = self.tally
        return EndpointStatistics(
            **asdict(self.gate.statistics()),
            attempts=tally.attempts,
            answers=tally.answers,
            in_doubt=tally.in_doubt,
            faults=dict(tally.faults),
        )
