"""The endpoint backend against a real HTTP server: what is sent, what comes back, what it cost."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.chat.answers import read_completion
from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.hosted.usage import read_usage
from actors.chat.reply import ChatReply
from actors.chat.settings import OpenAIChat
from actors.endpoint import openai_client
from actors.endpoint.faults import (
    ContextLengthError,
    EndpointDownError,
    EndpointError,
    EndpointStopError,
    FaultyAnswerError,
    from_status,
    to_error,
)
from actors.endpoint.prices import TokenPrice
from actors.endpoint.secrets import MissingKeyError
from actors.errors import BackendError, UsageError
from tests.actors.chat.conftest import FakeClock, picture
from tests.fake_endpoint import KEY, MODEL, FakeEndpoint, Fault, Reply, Seen

Opened = Callable[..., Any]

SYSTEM = Message("system", ("You are shown images.",))


def ask(*parts: Any, **fields: Any) -> ChatRequest:
    return ChatRequest((SYSTEM, Message("user", parts or ("What is it?",))), **fields)


async def test_several_rounds_with_images_reach_the_endpoint_in_order(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.script = lambda seen: f"round {seen.rounds}: {[image.size for image in seen.images]}"
    messages = [SYSTEM]
    async with opened(endpoint, image_side=48) as backend:
        for turn in range(3):
            shown = picture(turn, height=32 + 4 * turn, width=64)
            messages.append(Message("user", ("before", shown, "after")))
            reply = await backend.complete(ChatRequest(tuple(messages)))
            messages.append(Message("assistant", (reply.text,)))
    assert [message.text for message in messages[2::2]] == [
        "round 0: [(48, 24)]",
        "round 1: [(48, 24), (48, 27)]",
        "round 2: [(48, 24), (48, 27), (48, 30)]",
    ]
    kinds = [part["type"] for part in endpoint.seen[0].messages[1]["content"]]
    assert kinds == ["text", "image_url", "text"]
    assert endpoint.complaints == []


async def test_the_body_holds_the_settings_and_nothing_else(endpoint: FakeEndpoint, opened: Opened) -> None:
    async with opened(
        endpoint,
        temperature=0.7,
        reasoning_effort="low",
        reasoning_tokens=1000,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        extra_headers={"X-Title": "maia"},
        extra_query={"api-version": "7"},
    ) as backend:
        await backend.complete(ask(max_tokens=50, seed=3, conversation="secret name"))
        await backend.complete(ask(max_tokens=50, temperature=0.0))
    first, second = (dict(seen.body) for seen in endpoint.seen)
    assert first.pop("messages") == second.pop("messages")
    assert first == {
        "model": MODEL,
        "max_tokens": 1050,
        "temperature": 0.7,
        "seed": 3,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert second["temperature"] == 0.0
    assert "seed" not in second
    assert endpoint.seen[0].headers["x-title"] == "maia"
    assert b"secret name" not in endpoint.seen[0].raw


async def test_parameters_a_model_rejects_are_left_out(endpoint: FakeEndpoint, opened: Opened) -> None:
    async with opened(endpoint, omit=["temperature", "seed", "max_tokens"], temperature=1.0) as backend:
        await backend.complete(ask(seed=1, temperature=0.5))
    assert set(endpoint.seen[0].body) == {"model", "messages"}


@pytest.mark.parametrize(
    ("base_url", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://lab.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://localhost:8000/v1", "max_tokens"),
        ("https://openai.com.example.org/v1", "max_tokens"),
    ],
)
async def test_the_limit_on_the_answer_has_the_name_that_the_endpoint_knows(
    base_url: str, field: str
) -> None:
    settings = OpenAIChat(base_url=base_url, model="m", api_key_env=None)
    body = OpenAIBackend(settings).body(ask(max_tokens=7))
    assert body[field] == 7


async def test_usage_is_what_was_reported_and_costs_what_the_price_list_says(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    reported = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    endpoint.script = lambda seen: Reply(body={"choices": [choice], "usage": reported, "model": "exact-1"})
    async with opened(endpoint, price=TokenPrice(prompt=3.0, cached=0.5, completion=10.0)) as backend:
        reply = await backend.complete(ask())
    assert (reply.usage.prompt_tokens, reply.usage.cached_tokens, reply.usage.completion_tokens) == (
        1000,
        400,
        200,
    )
    assert reply.usage.dollars == pytest.approx((600 * 3.0 + 400 * 0.5 + 200 * 10.0) / 1e6)
    assert not reply.usage.estimated
    assert reply.usage.requests == 1
    assert reply.model == "exact-1"


@pytest.mark.parametrize("tokens", [-5, None, True, "some", 10**30])
def test_a_count_of_tokens_that_no_call_can_have_is_estimated(tokens: object) -> None:
    usage = read_usage({"prompt_tokens": tokens, "completion_tokens": 3}, 40, "four", None, 1)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (40, 3, True)
    usage = read_usage({"input_tokens": "12", "output_tokens": 3.0}, 40, "four", None, 1)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (12, 3, False)


async def test_missing_usage_is_estimated_and_marked(endpoint: FakeEndpoint, opened: Opened) -> None:
    endpoint.script = lambda seen: Reply("twelve chars", usage=False)
    async with opened(endpoint, image_tokens=60, price=TokenPrice(prompt=1.0, completion=2.0)) as backend:
        reply = await backend.complete(ask("x" * 400, picture(1)))
    assert reply.usage.estimated
    assert reply.usage.prompt_tokens == pytest.approx(100 + 60, abs=20)
    assert reply.usage.completion_tokens == 3
    assert reply.usage.dollars > 0


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (Reply("done"), "done", "stop"),
        (Reply("cut of", finish="length"), "cut of", "length"),
        (Reply("", finish="content_filter"), "", "filtered"),
        (Reply(None, refusal="I cannot help with that"), "I cannot help with that", "refused"),
        (Reply(None), "", "stop"),
        (Reply(""), "", "stop"),
        (Reply("odd", finish="eos"), "odd", "stop"),
        (Reply("none", finish=None), "none", "stop"),
        (
            Reply(
                body={
                    "choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}}]
                }
            ),
            "ab",
            "stop",
        ),
    ],
)
async def test_every_way_of_ending_is_an_answer(
    endpoint: FakeEndpoint, opened: Opened, answer: Reply, text: str, finish: str
) -> None:
    endpoint.script = lambda seen: answer
    async with opened(endpoint) as backend:
        reply = await backend.complete(ask())
    assert (reply.text, reply.finish) == (text, finish)
    assert len(endpoint.seen) == 1


async def test_a_filtered_prompt_is_an_answer_and_not_asked_again(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.faults.append(Fault.content_filter())
    async with opened(endpoint) as backend:
        reply = await backend.complete(ask())
    assert reply.finish == "filtered"
    assert "content management policy" in reply.text
    assert (reply.usage.requests, reply.usage.dollars) == (1, 0.0)
    assert len(endpoint.seen) == 1


TRANSIENT_FAULTS = {
    "429": Fault.rate_limit(),
    "500": Fault.error(500, "oops"),
    "503": Fault.error(503, "overloaded"),
    "529": Fault.error(529, "overloaded"),
    "408": Fault.error(408, "timeout"),
    "409": Fault.error(409, "conflict"),
    "reset before body": Fault.reset_before_body(),
    "reset in body": Fault.reset_in_body(),
    "truncated body": Fault.truncated_body(),
    "malformed JSON": Fault.malformed_json(),
    "empty body": Fault.empty_body(),
    "HTML with 200": Fault.html_page(),
    "JSON list": Fault("raw", body=b"[1, 2]"),
    "deep JSON": Fault("raw", body=b"[" * 100_000),
    "error with 200": Fault.error_with_200(),
    "choices null": Fault.choices(None),
    "choices empty": Fault.choices([]),
    "choice null": Fault.choices([None]),
    "message missing": Fault.choices([{"finish_reason": "stop"}]),
    "hang": Fault.hang(),
    "slow drip": Fault.slow_drip(),
}


@pytest.mark.parametrize("fault", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS)
async def test_a_passing_fault_is_tried_again_and_counted(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock, fault: Fault
) -> None:
    endpoint.faults.extend([fault, fault])
    # Real time runs only where an answer must fail to come.
    patience = 1.0 if fault.kind in ("hang", "slow_drip") else 60.0
    async with opened(endpoint, attempt_timeout_s=patience) as backend:
        reply = await backend.complete(ask())
        facts = backend.describe()
    assert reply.text == "I was shown 2 messages and 0 images."
    assert reply.usage.requests == 3 == len(endpoint.seen)
    assert clock.slept == [0.5, 1.0]
    assert facts["attempts"] == 3
    assert facts["answers"] == 1
    assert sum(facts["faults"].values()) == 2
    assert facts["in_flight"] == 0
    worked_on = sum(endpoint.billed.values()) - 1
    assert facts["in_doubt"] >= worked_on


@pytest.mark.parametrize("fault", TRANSIENT_FAULTS.values(), ids=TRANSIENT_FAULTS)
async def test_a_fault_that_does_not_pass_becomes_one_typed_error(
    endpoint: FakeEndpoint, opened: Opened, fault: Fault
) -> None:
    endpoint.script = lambda seen: fault
    patience = 0.5 if fault.kind in ("hang", "slow_drip") else 60.0
    async with opened(endpoint, attempt_timeout_s=patience, max_attempts=2) as backend:
        with pytest.raises(EndpointError, match="2 attempts") as caught:
            await backend.complete(ask())
    assert caught.value.attempts == 2
    assert caught.value.in_doubt >= sum(endpoint.billed.values())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    # On a busy machine a request may be given up before the server has read it.
    assert len(endpoint.seen) == 2 or (patience < 1 and len(endpoint.seen) < 2)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault.error(401, "Incorrect API key"), EndpointStopError, "api_key_env"),
        (Fault.error(403, "not allowed"), EndpointStopError, "api_key_env"),
        (Fault.no_quota(), EndpointStopError, "credit"),
        (Fault.error(402, "pay"), EndpointStopError, "credit"),
        (Fault.error(404, "no such model"), EndpointStopError, "base_url"),
        (Fault.context_length(), ContextLengthError, "Shorten"),
        (Fault.error(400, "Input is too long for this model"), ContextLengthError, "Shorten"),
        (Fault.error(400, "Unsupported parameter: 'seed'"), EndpointError, "Unsupported parameter"),
        (Fault("status", 418, "just text"), EndpointError, "418"),
    ],
)
async def test_a_fault_that_no_retry_can_cure_ends_at_once_in_words(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock, fault: Fault, error: type, words: str
) -> None:
    endpoint.script = lambda seen: fault
    async with opened(endpoint) as backend:
        with pytest.raises(error, match=words) as caught:
            await backend.complete(ask())
        if isinstance(caught.value, EndpointStopError):
            assert isinstance(caught.value, UsageError)
            with pytest.raises(EndpointStopError, match=words):
                await backend.complete(ask())  # stopped: no request is sent for a while
    assert len(endpoint.seen) == 1
    assert clock.slept == []


async def test_a_stop_after_an_attempt_that_may_be_billed_says_so(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.faults.extend([Fault.error(504, "too slow"), Fault.no_quota()])
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointStopError) as caught:
            await backend.complete(ask())
        assert (caught.value.attempts, caught.value.in_doubt) == (2, 1)
        with pytest.raises(EndpointStopError) as caught:
            await backend.complete(ask())  # never sent: the other request's attempts are not its own
    assert (caught.value.attempts, caught.value.in_doubt) == (0, 0)


async def test_a_stopped_endpoint_is_asked_again_after_the_pause(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock
) -> None:
    endpoint.faults.append(Fault.no_quota())
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointStopError):
            await backend.complete(ask())
        clock.now += 3600
        assert (await backend.complete(ask())).finish == "stop"


async def test_a_long_retry_after_is_waited_out(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock
) -> None:
    endpoint.faults.append(Fault.rate_limit("300"))
    async with opened(endpoint) as backend:
        before = clock.now
        await backend.complete(ask())
        assert clock.now - before == pytest.approx(300.5)  # and half a second of jitter


async def test_a_wait_longer_than_the_deadline_fails_at_once(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock
) -> None:
    endpoint.faults.append(Fault.rate_limit("5000"))
    async with opened(endpoint, deadline_s=900) as backend:
        with pytest.raises(EndpointError, match="rate_limited"):
            await backend.complete(ask())
        with pytest.raises(EndpointDownError, match="wait 5000 s"):
            await backend.complete(ask())
    assert clock.slept == []


async def test_nothing_answers_at_the_address(opened: Opened, endpoint: FakeEndpoint) -> None:
    async with opened(endpoint, base_url="http://127.0.0.1:9/v1", max_attempts=3) as backend:
        with pytest.raises(EndpointError, match="unreachable") as caught:
            await backend.complete(ask())
    assert (caught.value.attempts, caught.value.in_doubt) == (3, 0)


async def test_a_cancelled_caller_leaves_nothing_in_flight(endpoint: FakeEndpoint, opened: Opened) -> None:
    endpoint.faults.append(Fault.hang())
    async with opened(endpoint) as backend:
        task = asyncio.ensure_future(backend.complete(ask()))
        await endpoint.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        facts = backend.describe()
        assert (facts["in_flight"], facts["in_doubt"]) == (0, 1)
        assert (await backend.complete(ask())).finish == "stop"


async def test_no_more_than_the_allowed_requests_are_in_flight(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.delay_s = 0.02
    async with opened(endpoint, max_concurrent=3) as backend:
        assert backend.slots == 3
        replies = await asyncio.gather(*(backend.complete(ask(str(i))) for i in range(9)))
    assert len(replies) == 9
    assert 1 < endpoint.max_in_flight <= 3
    assert set(endpoint.billed.values()) == {1}


async def test_no_answer_that_arrived_is_bought_twice(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Forty agents at an endpoint that fails in every passing way a third of the time."""
    rng = random.Random(0)
    faults = [fault for fault in TRANSIENT_FAULTS.values() if fault.kind not in ("hang", "slow_drip")]

    def unreliable(seen: Seen) -> str | Fault:
        return rng.choice(faults) if rng.random() < 0.35 else f"answer to {seen.texts[-1]}"

    endpoint.script = unreliable
    async with opened(endpoint, max_attempts=50, deadline_s=1e6, outage_patience_s=1e6) as backend:
        replies = await asyncio.gather(*(backend.complete(ask(f"agent {i}")) for i in range(40)))
        facts = backend.describe()
    assert [reply.text for reply in replies] == [f"answer to agent {i}" for i in range(40)]
    assert len(endpoint.billed) == 40
    assert sum(endpoint.billed.values()) - 40 <= facts["in_doubt"]
    assert sum(reply.usage.requests for reply in replies) == len(endpoint.seen) == facts["attempts"]
    assert (facts["in_flight"], facts["waiting"]) == (0, 0)


async def test_run_returns_failures_in_place(endpoint: FakeEndpoint, opened: Opened) -> None:
    endpoint.faults.extend([Fault.context_length()])
    async with opened(endpoint) as backend:
        failure, reply = await backend.run([ask("long"), ask("short")])
    assert isinstance(failure, BackendError)
    assert isinstance(reply, ChatReply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ODD_CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "message": JSON | st.fixed_dictionaries({}, optional={"content": JSON, "refusal": JSON}),
        "finish_reason": JSON,
    },
)
ODD_BODY = JSON | st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON | st.lists(ODD_CHOICE | JSON, max_size=2),
        "usage": JSON
        | st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "prompt_tokens_details": JSON}),
        "error": JSON | st.fixed_dictionaries({}, optional={"code": JSON, "message": JSON, "type": JSON}),
        "model": JSON,
    },
)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("FinishReason.MAX_TOKENS", "length"), ("maxOutputTokens", "length"), ("SAFETY", "filtered"),
     ("content_filter: PROHIBITED_CONTENT", "filtered"), ("refusal", "refused"), (None, "stop")],
)  # fmt: skip
def test_the_end_of_an_answer_is_read_however_it_is_spelled(reason: str | None, finish: str) -> None:
    choice = {"finish_reason": reason, "message": {"content": "so"}}
    assert read_completion(json.dumps({"choices": [choice]}).encode()).finish == finish


def test_a_refusal_among_the_parts_of_an_answer_is_one() -> None:
    message = {"content": [{"type": "refusal", "refusal": "I cannot"}]}
    read = read_completion(json.dumps({"choices": [{"message": message}]}).encode())
    assert (read.text, read.finish) == ("I cannot", "refused")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"detail": "Not authenticated"}, "bad_key"),
        ({"choices": None, "base_resp": {"status_msg": "insufficient balance"}}, "no_quota"),
        ({"code": 503, "msg": "come back", "success": False}, "overloaded"),
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "no_model"),
        ({"object": "chat.completion", "prompt_filter_results": ["content_filter"]}, "garbled"),
    ],
)  # fmt: skip
def test_an_error_that_came_as_a_success_is_read_by_its_words(body: dict[str, Any], kind: str) -> None:
    """Whole, and as an event of a stream that ends as if nothing were amiss."""
    for data in (json.dumps(body), f"data: {json.dumps(body)}\n\n"):
        with pytest.raises(FaultyAnswerError) as caught:
            read_completion(data.encode())
        assert caught.value.fault.kind == kind


def test_an_answer_counts_whatever_was_said_of_the_wait_for_it() -> None:
    waiting = {"type": "progress", "message": "Your request is in the queue; the server is overloaded"}
    choice = {"delta": {"content": "a dog"}, "finish_reason": "no_error"}
    data = f"data: {json.dumps(waiting)}\n\ndata: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
    assert read_completion(data.encode()).text == "a dog"


@pytest.mark.slow
@settings(deadline=None)
@given(body=ODD_BODY)
def test_any_json_is_an_answer_or_a_fault(body: Any) -> None:
    try:
        read = read_completion(json.dumps(body).encode())
    except FaultyAnswerError as error:
        _ = to_error(error.fault, "h", "m", 1, 0)
        return
    (read.text + read.thoughts + read.model).encode()
    assert read.finish in ("stop", "length", "filtered", "refused")
    assert read_usage(read.usage, 5, read.text, None, 1).prompt_tokens >= 0


@settings(deadline=None)
@given(status=st.integers(400, 599), body=ODD_BODY | st.binary(max_size=9) | st.text(max_size=9))
def test_any_error_body_is_some_fault(status: int, body: Any) -> None:
    fault = from_status(status, body, {})
    assert str(to_error(fault, "h", "m", 1, 0))


async def test_text_that_no_encoder_takes_is_mended_on_both_ways(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.script = lambda seen: Reply(f"{seen.texts[-1]} \ud800")
    async with opened(endpoint) as backend:
        reply = await backend.complete(ask("lone \udfff and \0 zero"))
    assert reply.text == "lone ? and \0 zero ?"


async def test_an_outage_error_counts_this_requests_attempts(endpoint: FakeEndpoint, opened: Opened) -> None:
    endpoint.script = lambda seen: Fault.html_page()
    async with opened(
        endpoint, breaker_failures=2, breaker_pause_s=40, outage_patience_s=30, max_attempts=50
    ) as backend:
        with pytest.raises(EndpointDownError, match="in a row") as caught:
            await backend.complete(ask())
    assert caught.value.attempts == caught.value.in_doubt == len(endpoint.seen)


async def test_the_deadline_holds_over_all_attempts(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock
) -> None:
    endpoint.script = lambda seen: Fault.error(500, "oops")
    started = clock.now
    async with opened(endpoint, deadline_s=20, max_attempts=99, breaker_failures=99) as backend:
        with pytest.raises(EndpointError, match="6 attempts"):
            await backend.complete(ask())
    assert clock.now - started < 20
    assert clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0]  # and 16 more would be too late


# Keys


def test_a_missing_key_is_named_before_any_request() -> None:
    with pytest.raises(MissingKeyError, match="SOME_KEY is not set") as caught:
        OpenAIBackend(OpenAIChat(model="m", api_key_env="SOME_KEY"), environ={"SOME_KEY": "  "})
    assert "api_key_env: null" in caught.value.fix


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown() -> None:
    with pytest.raises(MissingKeyError) as caught:
        OpenAIBackend(OpenAIChat(model="m"), environ={"OPENAI_API_KEY": f"{KEY}\nexport"})
    assert KEY not in str(caught.value)


async def test_a_keyless_endpoint_gets_no_key_even_if_the_environment_has_one(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-of-somebody-else")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with FakeEndpoint(key=None) as endpoint:
        async with opened(endpoint, api_key_env=None) as backend:
            await backend.complete(ask())
    assert endpoint.complaints == []
    assert "sk-of-somebody-else" not in str(endpoint.seen[0].headers)


async def test_a_secret_header_comes_from_the_environment(endpoint: FakeEndpoint) -> None:
    settings = OpenAIChat(
        base_url=endpoint.base_url, model=MODEL, api_key_env="FAKE_KEY", headers_env={"api-key": "AZURE"}
    )
    backend = OpenAIBackend(settings, environ={"FAKE_KEY": KEY, "AZURE": "az-canary"})
    await backend.complete(ask())
    await backend.close()
    assert endpoint.seen[0].headers["api-key"] == "az-canary"
    assert "az-canary" not in repr(backend) + repr(backend.describe()) + repr(backend.__dict__)


async def test_the_key_is_never_shown(
    endpoint: FakeEndpoint, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in errors, logs, text forms, stored requests or replies, even if the endpoint repeats it."""
    echo = f"you sent Bearer {KEY}"
    shown: list[str] = []
    with caplog.at_level("DEBUG"), structlog.testing.capture_logs() as logs:
        async with opened(endpoint, max_attempts=2) as backend:
            for answer in (Fault.error(500, echo), Fault.error(400, echo), Fault("raw", body=echo.encode())):
                endpoint.script = lambda seen, answer=answer: answer
                with pytest.raises(EndpointError) as caught:
                    await backend.complete(ask())
                shown += [str(caught.value), repr(caught.value), repr(caught.value.__cause__)]
                shown.append(repr(pickle.dumps(caught.value)))
            endpoint.script = lambda seen: echo
            shown.append(repr(await backend.complete(ask())))
            endpoint.script = lambda seen: Reply(None, refusal=echo)
            shown.append(repr(await backend.complete(ask())))
            endpoint.script = lambda seen: Fault.error(401, echo)
            with pytest.raises(EndpointStopError) as stopped:
                await backend.complete(ask())
            shown += [str(stopped.value), repr(backend), repr(backend.__dict__), repr(backend.describe())]
            shown.append(repr(backend.body(ask())))
            shown.append(backend._settings.model_dump_json())
    text = "\n".join([*shown, caplog.text, repr(logs), *(repr(r.__dict__) for r in caplog.records)])
    assert "[redacted]" in text
    assert KEY not in text


# Prefix caches


def growing(rounds: int) -> list[tuple[Message, ...]]:
    messages = [Message("system", ("The API page. " * 200,)), Message("user", ("The task.",))]
    conversations = []
    for turn in range(rounds):
        conversations.append(tuple(messages))
        messages.append(Message("assistant", (f"program {turn} with text é and \u2028",)))
        messages.append(Message("user", ("seen:", picture(turn), picture(100 + turn), "that was all")))
    return conversations


async def test_a_growing_conversation_is_sent_as_a_growing_prefix_of_the_same_bytes(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    async with opened(endpoint) as backend:
        for messages in growing(6):
            reply = await backend.complete(ChatRequest(messages))
        encoded = backend._encoder.encoded
    prefixes = [json.dumps(seen.messages) for seen in endpoint.seen]
    raws = [seen.raw for seen in endpoint.seen]
    for shorter, longer in itertools.pairwise(raws):
        end = shorter.index(b'],"model"') if b'],"model"' in shorter else shorter.rindex(b"}]")
        assert longer.startswith(shorter[:end])
    assert all(longer.startswith(s[:-1]) for s, longer in itertools.pairwise(prefixes))
    assert encoded == 10
    assert reply.usage.cached_tokens > 0.7 * reply.usage.prompt_tokens


async def test_two_processes_send_the_same_bytes(endpoint: FakeEndpoint, opened: Opened) -> None:
    messages = growing(3)[-1]
    for _ in range(2):
        async with opened(endpoint) as backend:
            await backend.complete(ChatRequest(messages))
    assert endpoint.seen[0].raw == endpoint.seen[1].raw
    assert endpoint.billed[endpoint.seen[0].digest] == 2


async def test_cache_breakpoints_mark_the_first_and_the_last_message(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    async with opened(endpoint, cache_breakpoints=True) as backend:
        await backend.complete(ChatRequest(growing(3)[-1]))
    marked = [
        "cache_control" in part
        for message in endpoint.seen[0].messages
        for part in (message["content"] if isinstance(message["content"], list) else [{}])
    ]
    assert marked[0]
    assert marked[-1]
    assert sum(marked) == 2


async def test_old_images_leave_where_the_settings_say_so(endpoint: FakeEndpoint, opened: Opened) -> None:
    async with opened(endpoint, history={"max_images": 4, "block": 2}) as backend:
        for messages in growing(6):
            await backend.complete(ChatRequest(messages))
    assert [len(seen.images) for seen in endpoint.seen] == [0, 2, 4, 4, 4, 4]
    assert endpoint.seen[-1].texts[3].count("image left out") == 2


def test_seen_texts_are_what_a_script_reads() -> None:
    seen = Seen(0, {"messages": [{"role": "user", "content": "hi"}]}, b"", {}, (), "")
    assert seen.texts == ["hi"]


async def test_a_reply_many_times_too_long_is_cut_and_said_to_be(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    endpoint.script = lambda seen: "word " * 20_000
    async with opened(endpoint) as backend:
        reply = await backend.complete(ask(max_tokens=100))
    assert (len(reply.text), reply.finish) == (6400, "length")
    assert reply.usage.completion_tokens == 25_000, "what is billed is counted"


async def test_an_answer_that_does_not_end_is_given_up_before_it_fills_the_memory(
    endpoint: FakeEndpoint, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_client, "MAX_BYTES", 1 << 20)
    endpoint.script = lambda seen: "x" * (3 << 20)
    async with opened(endpoint, max_attempts=2) as backend:
        with pytest.raises(EndpointError, match="more than 1 MiB") as failure:
            await backend.complete(ask())
        assert (failure.value.attempts, failure.value.in_doubt) == (2, 2)
        endpoint.script = lambda seen: "short"
        assert (await backend.complete(ask())).text == "short"


async def test_a_models_name_that_no_encoder_takes_costs_no_answer(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    body = b'{"model": "m\\ud800", "choices": [{"message": {"content": "yes"}}]}'
    endpoint.faults.append(Fault("raw", body=body))
    async with opened(endpoint) as backend:
        reply = await backend.complete(ask())
    assert (reply.text, reply.model) == ("yes", "m?")


@pytest.mark.parametrize("fault", [Fault.rate_limit(), Fault.rate_limit("100000")])
async def test_a_request_refused_for_its_rate_to_the_end_is_an_outage(
    endpoint: FakeEndpoint, opened: Opened, fault: Fault
) -> None:
    endpoint.faults.extend([fault] * 6)
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointDownError, match="rate_limited"):
            await backend.complete(ask())


async def test_an_address_without_a_server_is_an_outage(endpoint: FakeEndpoint, opened: Opened) -> None:
    async with opened(endpoint, base_url="http://127.0.0.1:9/v1", max_attempts=2) as backend:
        with pytest.raises(EndpointDownError):
            await backend.complete(ask())
