"""Reads the wait that a server asks for: in headers, fields of the body, or its words."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from actors.endpoint.error_body import ErrorBody

_UNITS = {
    "ms": 0.001,
    "millisecond": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "d": 86_400.0,
    "day": 86_400.0,
}
_NUMBER = r"\d+(?:\.\d+)?"
_UNIT = r"(?:milliseconds?|ms|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?|[smhd])(?![a-z])"
_PIECE = re.compile(rf"({_NUMBER})\s*({_UNIT})", re.I)
_DURATION = re.compile(rf"{_NUMBER}\s*{_UNIT}(?:[\s,]*(?:and )?{_NUMBER}\s*{_UNIT})*", re.I)
_ASKS = re.compile(
    r"(?:try(?:ing)?(?: it)? again|retry(?:ing)?|wait|available again|resets?)\b[^.;]{0,30}?"
    rf"(?:in|after|for|wait|at least)?\s*({_DURATION.pattern})",
    re.I,
)
_UNTIL = re.compile(
    r"(?:regain access|reset|available again|try again|retry)\b[^.;]{0,30}?"
    r"(\d{4}-\d\d-\d\d(?:[T ](?:at )?\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?)",
    re.I,
)
_RESET = re.compile(r"(x-)?ratelimit-reset(-[a-z]+)?|anthropic-ratelimit-.*-reset")
_MAX_S = 40 * 86_400.0
"""A longer wait than this was misread, or is too long to wait: a month and the days to a reset."""


def wait_for(
    headers: Mapping[str, str], body: ErrorBody, *, limited: bool = True, now: float | None = None
) -> float | None:
    """Return the seconds that a server asks to wait, None if it does not say.

    `Retry-After` is believed first, then the body's `retryDelay`, its words, and last, of a request that was
    refused for its rate (`limited`), the times at which the limits in the headers are full again. `now`:
    seconds since 1970 by our clock, for times that are absolute.
    """
    lowered = {name.lower(): str(value) for name, value in headers.items()}
    now = time.time() if now is None else now
    asked = _retry_after(lowered, now)
    if asked is not None:
        return asked
    waits = [
        parse_duration(body.values.get("retrydelay", "")),
        parse_duration(body.values.get("retry_after", ""), 1.0),
    ]
    waits += [parse_duration(words) for words in _ASKS.findall(body.plain)]
    waits += [_until(date, now) for date in _UNTIL.findall(body.plain)]
    if (longest := _longest(waits)) is not None:
        return longest
    return _limit_reset({**body.values, **lowered}, now) if limited else None


def _limit_reset(values: Mapping[str, str], now: float) -> float | None:
    """Return when the limits that are used up are full again; where none says so, when the first one is."""
    resets = {name: _reset(value, now) for name, value in values.items() if _RESET.fullmatch(name)}
    spent = [
        seconds
        for name, seconds in resets.items()
        if values.get(name.replace("reset", "remaining")) in ("0", "0.0")
    ]
    if (longest := _longest(spent)) is not None:
        return longest
    return min((wait for wait in resets.values() if wait is not None and wait <= _MAX_S), default=None)


def parse_duration(text: str, bare_unit: float | None = None) -> float | None:
    """Return the seconds in "7m12.5s", "220ms" or "2 minutes"; a number without a unit counts `bare_unit`
    seconds."""
    text = text.strip()
    if bare_unit is not None and re.fullmatch(_NUMBER, text):
        return float(text) * bare_unit
    pieces = _PIECE.findall(text)
    if not pieces:
        return None
    return sum(float(number) * _UNITS[_singular(unit)] for number, unit in pieces)


def _singular(unit: str) -> str:
    unit = unit.lower()
    return unit if unit in _UNITS else unit.rstrip("s")


def _longest(seconds: Iterable[float | None]) -> float | None:
    known = [wait for wait in seconds if wait is not None and math.isfinite(wait) and 0 <= wait <= _MAX_S]
    return max(known, default=None)


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                until = email.utils.parsedate_to_datetime(value)
            except (ValueError, TypeError, OverflowError):
                continue
            seconds = max(until.timestamp() - _sent(headers, now), 0.0)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _sent(headers: Mapping[str, str], now: float) -> float:
    """Return when the answer was sent, by the endpoint's clock if it is known: ours may be wrong."""
    try:
        return email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return now


def _reset(value: str, now: float) -> float | None:
    """Return the seconds until a limit's reset: a duration, seconds, a Unix time (s or ms) or an RFC 3339
    time."""
    try:
        number = float(value)
    except ValueError:
        return _until(value, now) if "-" in value else parse_duration(value)
    if number > 1e11:
        return max(number / 1000 - now, 0.0)
    return max(number - now, 0.0) if number > 1e9 else number


def _until(date: str, now: float) -> float | None:
    try:
        when = datetime.fromisoformat(date.replace("at ", "").replace("Z", "+00:00"))
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(when.timestamp() - now, 0.0)
