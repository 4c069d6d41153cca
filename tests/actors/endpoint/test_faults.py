"""Providers word their errors differently; each of these is a body that one of them sends."""

from __future__ import annotations

import datetime
import email.utils
import pickle

import pytest

from actors.endpoint.error_body import ErrorBody
from actors.endpoint.faults import Fault, from_status, to_error
from actors.endpoint.secrets import Secrets
from actors.endpoint.settings import EndpointSettings
from actors.endpoint.waits import wait_for
from actors.errors import MaiaError


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"code": "insufficient_quota", "message": "You exceeded your current quota"}, "no_quota"),
        (429, {"code": "rate_limit_exceeded", "message": "Limit 30000, Requested 31000"}, "rate_limited"),
        (429, {"type": "tokens", "message": "Rate limit reached for tokens"}, "rate_limited"),
        (
            429,
            {
                "code": "rate_limit_exceeded",
                "message": "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested "
                "39104. The input or output tokens must be reduced in order to run successfully.",
            },
            "too_long",
        ),
        (402, {"code": 402, "message": "Insufficient credits"}, "no_quota"),
        (403, {"message": "Your billing is not active"}, "no_quota"),
        (401, {"code": "invalid_api_key", "message": "Incorrect API key provided"}, "bad_key"),
        (403, {"message": "Country not supported"}, "bad_key"),
        (403, {"code": 403, "message": "Your input was flagged by moderation"}, "filtered"),
        (400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, "filtered"),
        (400, {"code": "invalid_prompt", "message": "violating our usage policy"}, "filtered"),
        (400, {"code": 400, "message": "This model's maximum context length is 8192 tokens."}, "too_long"),
        (400, {"code": "context_length_exceeded", "message": "too long"}, "too_long"),
        (400, {"message": "the request exceeds the available context size"}, "too_long"),
        (413, "Payload Too Large", "too_long"),
        (400, {"code": "unsupported_parameter", "message": "max_tokens is not supported"}, "rejected"),
        (422, {"message": "extra fields not permitted"}, "rejected"),
        (404, {"code": "model_not_found", "message": "no such model"}, "no_model"),
        (404, {"detail": "Not Found"}, "no_model"),
        (500, "Internal Server Error", "overloaded"),
        (503, {"message": "Model is loading"}, "overloaded"),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        (520, b"<html>", "overloaded"),
        (400, None, "rejected"),
        (400, ["odd"], "rejected"),
    ],
)
def test_a_body_is_recognised(status: int, error: object, kind: str) -> None:
    for body in (error, {"error": error}):
        fault = from_status(status, body, {})
        assert fault.kind == kind
        error = to_error(fault, "host", "model", 2, 1)
        assert isinstance(error, MaiaError)
        assert error.fix
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), getattr(again, "attempts", 2)) == (str(error), 2)


def test_an_error_names_the_wait_that_the_endpoint_asks_for() -> None:
    fault = from_status(429, {"error": "slower"}, {"Retry-After": "86400"})
    assert "It asks to wait for 86,400 s." in str(to_error(fault, "host", "model", 1, 0))
    assert "asks to wait" not in str(to_error(from_status(429, {}, {}), "host", "model", 1, 0))


def test_a_long_message_is_cut_and_stays_on_one_line() -> None:
    detail = from_status(500, {"error": {"message": "line\n" * 1000}}, {}).redacted(str).detail
    assert len(detail) < 500
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_for(headers, ErrorBody()) == seconds


def test_a_date_to_wait_for_is_reckoned_by_the_clock_of_the_endpoint() -> None:
    headers = {"Date": "Mon, 06 Jan 2020 10:00:00 GMT", "Retry-After": "Mon, 06 Jan 2020 10:00:30 GMT"}
    assert wait_for(headers, ErrorBody()) == 30


def test_retry_after_as_a_date_to_come() -> None:
    when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    wait = wait_for({"Retry-After": email.utils.format_datetime(when, usegmt=True)}, ErrorBody())
    assert wait is not None
    assert 90 < wait <= 100


def test_secrets_are_redacted_also_url_quoted_and_never_pickled() -> None:
    secrets = Secrets(["k+y/1", "k+y", ""])
    assert secrets.redact("a k+y/1 b k%2By%2F1 c k+y d") == "a [redacted] b [redacted] c [redacted] d"
    assert "k+y" not in repr(secrets)
    assert b"k+y" not in pickle.dumps(secrets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "ftp://x/v1"}, "http"),
        ({"base_url": "localhost:8000/v1"}, "http"),
        ({"base_url": "https://me:hunter2@x/v1"}, "user name"),
        ({"extra_headers": {"authorization": "Bearer x"}}, "api_key_env"),
        ({"model": ""}, "model"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"api_key": "sk-x"}, "api_key"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        EndpointSettings(**{"model": "m", **settings})  # type: ignore[arg-type]
    assert "must not hold" not in str(caught.value) or "hunter2" not in str(caught.value.errors()[0]["msg"])


def test_passing_faults() -> None:
    assert Fault("garbled", "").transient
    assert not Fault("bad_key", "").transient
