"""What can go wrong at an HTTP endpoint, and which of it is worth another attempt.

Two vocabularies: a `Fault` says what one attempt met, and the errors below are what a caller sees when
no further attempt can help. The error bodies differ between providers, so a fault is recognised by its
code where there is one, else by its status, and by words only where many providers share the words.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actors.errors import BackendError, MaiaError, RefusedError, UsageError

FaultKind = Literal[
    "rate_limited",  # too fast: slow everyone down
    "overloaded",  # a server error that usually passes
    "unreachable",  # no connection, or it broke
    "timeout",  # no complete answer in time
    "garbled",  # an answer that is none: HTML, broken JSON, no choices
    "filtered",  # the provider declined the content: an answer
    "too_long",  # the prompt does not fit the model
    "rejected",  # this request can never work
    "no_model",
    "bad_key",
    "no_quota",
]

PASSING: frozenset[str] = frozenset({"rate_limited", "overloaded", "unreachable", "timeout", "garbled"})
"""Faults that another attempt may cure."""

_FILTER_CODES = {
    "content_filter",
    "content_policy_violation",
    "moderation_blocked",
    "responsibleaipolicyviolation",
    "invalid_prompt",
    "data_inspection_failed",
}
_QUOTA_CODES = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
}
_FILTER_WORDS = re.compile(
    r"content (management|filter|polic)|safety system|usage polic|moderation|flagged", re.I
)
_LENGTH_WORDS = re.compile(
    r"context[ _](length|window|size)|prompt is too long|input is too long|too many (input )?tokens"
    r"|exceeds? the (model'?s )?maximum (number of )?tokens|maximum (model|context|input) len",
    re.I,
)
_TOO_LARGE_WORDS = re.compile(r"request too large|tokens must be reduced", re.I)
"""Of a request that takes more than a minute's allowance: waiting does not help it, and others fit."""
_QUOTA_WORDS = re.compile(
    r"insufficient[ _](quota|balance|funds|credit)|exceeded your current quota|billing", re.I
)
_DETAIL_CHARS = 400


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
    """The endpoint serves nobody (no connection, refusals for their rate, a long outage): wait and resume rather than
    try the next request."""


class ContextLengthError(EndpointError):
    """The conversation does not fit the model: shorten it and ask again."""


class ContentFilteredError(AttemptedError, RefusedError):
    """The provider declined the content. It is an answer; asking again would only be billed again."""


class EndpointStopError(AttemptedError, UsageError):
    """No request can work until a person acts (key, quota, model name): stop everything."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What one attempt met. `in_doubt`: the endpoint may have done, and billed, the work."""

    kind: FaultKind
    detail: str
    retry_after_s: float | None = None
    in_doubt: bool = False

    @property
    def passing(self) -> bool:
        return self.kind in PASSING


class FaultyAnswerError(Exception):
    """Raised by a sender for an answer that arrived and is a fault; it does not leave `EndpointCaller`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


def from_status(status: int, body: object, headers: Mapping[str, str]) -> Fault:
    """Return the fault that an HTTP status, its decoded (or raw) body and its headers tell of."""
    error: Any = body.get("error", body) if isinstance(body, dict) else body
    fields = error if isinstance(error, dict) else {}
    codes = {str(fields.get(name, "")).lower() for name in ("code", "type", "status")}
    inner = fields.get("innererror")
    if isinstance(inner, dict):
        codes.add(str(inner.get("code", "")).lower())
    text = fields.get("message") or (error if isinstance(error, str) else "")
    detail = f"HTTP {status}: {_one_line(str(text)) or 'no message'}"
    words = str(text)

    kind: FaultKind
    if status == 402 or codes & _QUOTA_CODES or (status in (403, 429) and _QUOTA_WORDS.search(words)):
        kind = "no_quota"
    elif status == 429 and _TOO_LARGE_WORDS.search(words):
        kind = "too_long"
    elif status == 429:
        return Fault("rate_limited", detail, retry_after(headers))
    elif status in (408, 409, 425) or status >= 500:
        return Fault("overloaded", detail, retry_after(headers), in_doubt=status in (408, 504))
    elif codes & _FILTER_CODES or (status in (400, 403, 422) and _FILTER_WORDS.search(words)):
        kind = "filtered"
    elif status in (401, 403):
        kind = "bad_key"
    elif "context_length_exceeded" in codes or status == 413 or _LENGTH_WORDS.search(words):
        kind = "too_long"
    elif status == 404:
        kind = "no_model"
    else:
        kind = "rejected"
    return Fault(kind, detail)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` (or `retry-after-ms`) asks for; None if absent or nonsense."""
    lowered = {name.lower(): value for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = lowered.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                until = email.utils.parsedate_to_datetime(value)
                # The endpoint's own clock tells how far off that is; ours may have jumped, or never been right.
                sent = email.utils.parsedate_to_datetime(lowered["date"]) if "date" in lowered else None
                now = sent.timestamp() if sent is not None else time.time()
                seconds = until.timestamp() - now
            except (ValueError, TypeError, OverflowError):
                continue
            seconds = max(seconds, 0.0)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def to_error(fault: Fault, host: str, model: str, attempts: int, in_doubt: int) -> MaiaError:
    """Return what a caller sees when `fault` is the end of its request."""
    where = f"the endpoint {host}"
    match fault.kind:
        case "bad_key":
            return EndpointStopError(
                f"{where} does not accept the key ({fault.detail}).",
                "Check that the variable named in `api_key_env` holds a valid key for it, then resume.",
                attempts,
                in_doubt,
            )
        case "no_quota":
            return EndpointStopError(
                f"the account at {where} has no quota or credit left ({fault.detail}).",
                "Add credit or raise the account's limit, then resume; finished work is kept.",
                attempts,
                in_doubt,
            )
        case "no_model":
            return EndpointStopError(
                f"{where} does not know the model {model!r} or the address ({fault.detail}).",
                "Check `model` and `base_url`; the address usually ends in /v1.",
                attempts,
                in_doubt,
            )
        case "too_long":
            return ContextLengthError(
                f"the request is too long for {model} ({fault.detail}).",
                "Shorten the conversation: fewer rounds or images, or a smaller `image_side`.",
                attempts,
                in_doubt,
            )
        case "filtered":
            return ContentFilteredError(
                f"{where} declined the content ({fault.detail}).",
                "Reword the request or change its images.",
                attempts,
                in_doubt,
            )
        case "rejected":
            return EndpointError(
                f"{where} rejected the request ({fault.detail}).",
                "If it names a parameter, leave that out with `omit` or set it in `extra_body`.",
                attempts,
                in_doubt,
            )
        case _:
            # Nobody could have been served: it is not this request's failure, and the next would meet the same.
            down = fault.kind == "rate_limited" or (fault.kind == "unreachable" and not fault.in_doubt)
            tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            asks = f" It asks to wait for {fault.retry_after_s:,.0f} s." if fault.retry_after_s else ""
            return (EndpointDownError if down else EndpointError)(
                f"{where} gave no usable answer in {tries}, the last: {fault.kind} ({fault.detail}).{asks}",
                "Wait and resume, or lower `max_concurrent`, `requests_per_minute` or `tokens_per_minute`.",
                attempts,
                in_doubt,
            )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARS else line[: _DETAIL_CHARS - 1] + "…"
