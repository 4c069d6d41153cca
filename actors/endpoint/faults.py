"""Faults of HTTP endpoints, and which of them are worth another attempt.

Two vocabularies: a `Fault` says what one attempt met, and the errors below are what a caller sees when no
further attempt can help. What a status and a body mean is in `actors.endpoint.rules`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from actors.endpoint.error_body import ErrorBody, read_body
from actors.endpoint.rules import FaultKind, image_limit, is_about_an_image, rule_for
from actors.endpoint.waits import wait_for
from actors.errors import BackendError, MaiaError, RefusedError, UsageError

T = TypeVar("T")

TRANSIENT: frozenset[str] = frozenset({"rate_limited", "overloaded", "unreachable", "timeout", "garbled"})
"""Faults that another attempt may cure."""

_DETAIL_CHARS = 400
_IN_DOUBT = frozenset({408, 499, 504, *range(520, 527)} - {521, 523, 525, 526})
"""Statuses of a request that may have been worked on, and billed, all the same."""


class AttemptedError(MaiaError):
    """A request failed for which `attempts` were made; `in_doubt` of them may have been billed."""

    def __init__(self, message: str, fix: str = "", attempts: int = 0, in_doubt: int = 0) -> None:
        super().__init__(message, fix)
        self.args = (message, fix, attempts, in_doubt)
        self.attempts = attempts
        self.in_doubt = in_doubt


class EndpointError(AttemptedError, BackendError):
    """An endpoint gave no usable answer."""


class EndpointDownError(EndpointError):
    """The endpoint serves no request (no connection, refusals for their rate, a long outage): wait and resume
    rather than try the next request."""


class ContextLengthError(EndpointError):
    """The conversation does not fit the model: shorten it and ask again."""


class ContentFilteredError(AttemptedError, RefusedError):
    """The provider declined the content. It is an answer; asking again would only be billed again."""


class EndpointStopError(AttemptedError, UsageError):
    """No request can work until a person acts (key, quota, model name): stop everything."""


class ImagesError(EndpointError):
    """The request holds more images than the endpoint takes."""


class ImageRejectedError(EndpointError):
    """The server fails on the only image of the request: others may be fine."""


class ThinkingError(EndpointError):
    """The model used all tokens for reasoning and gave no answer, also with a higher limit."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The failure of one attempt."""

    kind: FaultKind
    detail: str
    """The server's words; whole, with any secrets, until `redacted`."""
    retry_after_s: float | None = None
    in_doubt: bool = False
    """The endpoint may have done, and billed, the work."""
    status: int = 0
    """The HTTP status; 0 where there was none."""
    why: str = ""
    """The rule that decided."""
    body: ErrorBody = field(default_factory=ErrorBody)
    image_limit: int | None = None
    """Images that the server says it takes."""
    final: bool = False
    """The server forbids another attempt (`x-should-retry: false`)."""

    @property
    def transient(self) -> bool:
        return self.kind in TRANSIENT and not self.final

    @property
    def about_an_image(self) -> bool:
        """One image was not to the server's liking: it can be left out."""
        return self.kind == "rejected" and is_about_an_image(self.body)

    def redacted(self, redact: Callable[[str], str]) -> Fault:
        """Return the fault as it may be shown: without secrets, and then on one line of bounded length."""
        values = {name: redact(value) for name, value in self.body.values.items()}
        body = replace(self.body, words=redact(self.body.words), values=values)
        return replace(self, detail=_one_line(redact(self.detail)), body=body)


class FaultyAnswerError(Exception):
    """Raised by a sender for an answer that arrived and is a fault; it does not leave `EndpointCaller`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


async def try_once(
    send: Callable[[], Awaitable[T]], classify: Callable[[Exception], Fault | None], timeout_s: float
) -> T | Fault:
    """Return what `send` returns, or the fault that it met.

    `classify` returns the fault in a library's exception, or None for a bug, which is raised as it is.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await send()
    except FaultyAnswerError as error:
        return error.fault
    except TimeoutError:
        return Fault("timeout", f"no complete answer in {timeout_s:.3g} s", in_doubt=True)
    except Exception as error:
        fault = classify(error)
        if fault is None:
            raise
        return fault


def from_status(status: int, body: object, headers: Mapping[str, str]) -> Fault:
    """Return the fault that an HTTP status, its decoded (or raw) body and headers stand for."""
    read = read_body(body)
    rule = rule_for(status, read)
    kind = rule.kind
    should_retry = {name.lower(): value for name, value in headers.items()}.get("x-should-retry", "").lower()
    if should_retry == "true" and kind == "rejected":
        kind = "overloaded"
    fault = Fault(
        kind,
        f"HTTP {status}: {read.words or 'no message'}",
        status=status,
        why=rule.why,
        body=read,
        final=should_retry == "false",
    )
    if kind in TRANSIENT:
        seconds = wait_for(headers, read, limited=kind == "rate_limited")
        return replace(fault, retry_after_s=seconds, in_doubt=status in _IN_DOUBT)
    return replace(fault, image_limit=image_limit(read)) if kind == "too_many_images" else fault


_ADVICE: dict[str, tuple[type[MaiaError], str, str]] = {
    "bad_key": (
        EndpointStopError,
        "{where} does not accept the key ({detail}).",
        "Check that the variable named in `api_key_env` holds a valid key for it, and that its account may "
        "do this, then repeat the command.",
    ),
    "no_access": (
        EndpointStopError,
        "{where} refuses access ({detail}).",
        "The key is not the reason: a proxy, a firewall or the state of the account is. Put that right, "
        "or set `proxy`, then repeat the command.",
    ),
    "no_quota": (
        EndpointStopError,
        "the account at {where} has no quota or credit left ({detail}).",
        "Add credit or raise the account's limit, then repeat the command; finished work is kept.",
    ),
    "no_model": (
        EndpointStopError,
        "{where} does not know the model {model!r}, may not give it to this account, or has nothing at the "
        "address ({detail}).",
        "Check `model` and `base_url`; the address usually ends in /v1.",
    ),
    "no_vision": (
        EndpointStopError,
        "{model} at {where} takes no images ({detail}).",
        "Choose a model that sees images, or set `sees_images: false`: others then describe the images "
        "to it.",
    ),
    "too_long": (
        ContextLengthError,
        "the request is too long for {model} ({detail}).",
        "Shorten the conversation: fewer rounds, `history.max_images`, or a smaller `image_side`.",
    ),
    "too_many_images": (
        ImagesError,
        "the request holds more images than {where} takes ({detail}).",
        "Set `history.max_images` to what it takes.",
    ),
    "filtered": (
        ContentFilteredError,
        "{where} declined the content ({detail}).",
        "Reword the request or change its images.",
    ),
    "rejected": (
        EndpointError,
        "{where} rejected the request ({detail}).",
        "If it names a parameter, leave that out with `omit` or set it in `extra_body`.",
    ),
}


def to_error(fault: Fault, host: str, model: str, attempts: int, in_doubt: int, proxy: str = "") -> MaiaError:
    """Return what a caller sees when `fault` is the end of its request; `proxy` is the one on the way, if
    any."""
    where = f"the endpoint {host}"
    detail = f"{_one_line(fault.detail)}{f', through the proxy {proxy}' if proxy else ''}"
    if fault.kind in _ADVICE:
        kind, message, fix = _ADVICE[fault.kind]
        message = message.format(where=where, model=model, detail=detail)
        return kind(message, fix, attempts, in_doubt)  # type: ignore[call-arg]
    # No request could have been served: it is not this one's failure, and the next would meet the same.
    refused = fault.kind == "unreachable" and not fault.in_doubt
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    asks = f" It asks to wait for {fault.retry_after_s:,.0f} s." if fault.retry_after_s else ""
    # So is a wait that the server asks for and that was too long to sit out.
    down = refused or fault.kind == "rate_limited" or bool(fault.retry_after_s)
    return (EndpointDownError if down else EndpointError)(
        f"{where} gave no usable answer in {tries}, the last: {fault.kind} ({detail}).{asks}",
        _wait_advice(fault, refused, proxy),
        attempts,
        in_doubt,
    )


def _wait_advice(fault: Fault, refused: bool, proxy: str) -> str:
    if refused:
        return (
            f"Check that `base_url` has the right host and port and that the server runs"
            f"{', and `proxy`' if proxy else ''}, then repeat the command."
        )
    if fault.kind == "timeout" and fault.status == 524:
        return (
            "The proxy before the server does not wait that long: set `stream: true`, and repeat the command."
        )
    if fault.kind == "timeout":
        return "Wait and repeat the command, raise `attempt_timeout_s`, or set `stream: true`."
    return (
        "Repeat the command later, or lower `max_concurrent`, `requests_per_minute` or `tokens_per_minute`."
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARS else line[: _DETAIL_CHARS - 1] + "…"
