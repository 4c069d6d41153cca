"""How long a server asks to wait is read from wherever it says so."""

from __future__ import annotations

import pytest

from actors.endpoint.error_body import ErrorBody, read_body
from actors.endpoint.waits import parse_duration, wait_for

NOW = 1_796_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("220ms", 0.22),
        ("2s", 2),
        ("7m12s", 432),
        ("9m57.024s", 597.024),
        ("28m48s", 1728),
        ("1h0m3s", 3603),
        ("2 minutes", 120),
        ("1 hour and 5 minutes", 3900),
        ("36.4s", 36.4),
        ("6m0s", 360),
        ("soon", None),
        ("5 messages", None),
    ],
)
def test_a_duration_is_read_in_all_its_units(text: str, seconds: float | None) -> None:
    """Hours to milliseconds, with fractions, alone and joined."""
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, {"message": "Please try again in 20ms. Visit us."}, 0.02),
        ({}, {"message": "Please wait 30 seconds before trying again."}, 30),
        ({}, {"message": "Please retry after 26 seconds."}, 26),
        ({}, {"details": [{"retryDelay": "36s"}], "message": "Please retry in 36.4s."}, 36.4),
        ({"retry-after": "3"}, {"message": "try again in 9m"}, 3),
        ({"retry-after": "Mon, 30 Nov 2026 00:53:30 GMT", "date": "Mon, 30 Nov 2026 00:53:25 GMT"}, {}, 5),
        ({"retry-after": "Mon, 30 Nov 2026 00:53:30 GMT", "date": "yesterday"}, {}, 10),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0",
          "x-ratelimit-reset-requests": "1h0m0s", "x-ratelimit-remaining-requests": "99"}, {}, 360),
        ({"x-ratelimit-reset-requests": "7.66s"}, {}, 7.66),
        ({"anthropic-ratelimit-tokens-reset": "2026-11-30T00:53:30Z"}, {}, 10),
        ({}, {"metadata": {"headers": {"X-RateLimit-Reset": str(int(NOW * 1000) + 5000)}}}, 5),
        ({}, {"message": "You will regain access on 2026-11-30 at 00:54 UTC."}, 40),
        ({}, {"message": "Limit 8000, Used 7800, Requested 900."}, None),
        ({}, {"message": "Add 10 credits to unlock 1000 requests per day"}, None),
    ],
)  # fmt: skip
def test_a_wait_is_read_from_headers_fields_and_words(
    headers: dict[str, str], body: dict[str, object], seconds: float | None
) -> None:
    """A header wins; of several hints the longest counts; a limit with room left is no reason to wait."""
    read = wait_for(headers, read_body(body), now=NOW)
    assert read == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_a_limit_in_the_headers_says_nothing_of_a_server_error() -> None:
    """Servers send their limits with every answer: only a refusal for the rate is about them."""
    assert wait_for({"x-ratelimit-reset-requests": "1h"}, ErrorBody(), limited=False, now=NOW) is None
