"""What an endpoint refuses is found out once, from its own words, and remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.hosted.adaptive_request import context_and_prompt
from actors.endpoint.faults import (
    ContextLengthError,
    EndpointDownError,
    EndpointError,
    EndpointStopError,
    ImageRejectedError,
    ThinkingError,
    from_status,
)
from tests.actors.chat.conftest import FakeClock, picture
from tests.fake_endpoint import FakeEndpoint, Fault, Reply, Seen

Opened = Callable[..., Any]
Script = Callable[[Seen], Any]

SYSTEM = Message("system", ("You are shown images.",))


def ask(*parts: Any, **fields: Any) -> ChatRequest:
    return ChatRequest((SYSTEM, Message("user", parts or ("What is it?",))), **fields)


def conversation(rounds: int, images: int = 2, words: str = "seen:") -> ChatRequest:
    """Return a conversation that shows `images` new images in each round."""
    messages = [SYSTEM, Message("user", ("The task.",))]
    for turn in range(rounds):
        messages.append(Message("assistant", (f"program {turn}",)))
        shown = [picture(100 * turn + number) for number in range(images)]
        messages.append(Message("user", (words, *shown)))
    return ChatRequest(tuple(messages), conversation="unit")


def refusing(complains: Callable[[Seen], Fault | None]) -> Script:
    return lambda seen: complains(seen) or "fine"


# Fields and roles


FIELD_COMPLAINTS = {
    "seed": Fault(
        "status", 400, [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]
    ),
    "temperature": Fault.error(400, "`temperature` is deprecated for this model."),
    "reasoning_effort": Fault(
        "status", 400, {"error": "Argument not supported on this model: reasoningEffort"}
    ),
    "service_tier": Fault(
        "status", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "service_tier"], "msg": "x"}]}
    ),
}


@pytest.mark.parametrize("field", FIELD_COMPLAINTS)
async def test_a_field_that_the_server_names_is_left_out_from_then_on(
    endpoint: FakeEndpoint, opened: Opened, field: str
) -> None:
    """By quotes, camel case, or the place in the body: one refusal, then the answer, and never again."""
    endpoint.script = refusing(lambda seen: FIELD_COMPLAINTS[field] if field in seen.body else None)
    async with opened(endpoint, temperature=0.5, reasoning_effort="low", service_tier="default") as backend:
        first = await backend.complete(ask(seed=1))
        second = await backend.complete(ask(seed=2))
        facts = backend.describe()["learned"]
    assert (first.text, second.text, len(endpoint.seen)) == ("fine", "fine", 3)
    assert first.usage.requests == 2
    assert field in first.notes[0]
    assert second.notes == ()
    assert facts["not_sent"] == [field]


async def test_detail_is_left_out_where_the_server_does_not_know_it(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """A field inside of a message is found out like one of the body."""
    complaint = Fault("status", 422, {"detail": "Unexpected fields in the request: {'detail'}"})
    endpoint.script = refusing(lambda seen: complaint if b'"detail"' in seen.raw else None)
    async with opened(endpoint) as backend:
        assert (await backend.complete(ask("look", picture(1)))).text == "fine"
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize("refused", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_is_renamed_to_the_one_that_the_server_knows(
    endpoint: FakeEndpoint, opened: Opened, refused: str
) -> None:
    """Whichever of the two names is refused, the other one is sent."""
    body = {
        "message": f"Unsupported parameter: '{refused}'",
        "param": refused,
        "code": "unsupported_parameter",
    }
    endpoint.script = refusing(
        lambda seen: Fault("status", 400, {"error": body}) if refused in seen.body else None
    )
    async with opened(endpoint, max_tokens_field=refused) as backend:
        assert (await backend.complete(ask())).text == "fine"
    assert [sorted(seen.body) for seen in endpoint.seen][1] == sorted(
        ["model", "messages", *({"max_tokens", "max_completion_tokens"} - {refused})]
    )


async def test_a_longest_answer_that_the_server_names_is_kept_to(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """A limit that is too high is lowered, not renamed or dropped."""
    complaint = Fault.error(
        400, "max_tokens is too large: 4096. This model supports at most 1024 completion tokens."
    )
    endpoint.script = refusing(lambda seen: complaint if seen.body["max_tokens"] > 1024 else None)
    async with opened(endpoint) as backend:
        assert (await backend.complete(ask())).text == "fine"
    assert endpoint.seen[-1].body["max_tokens"] == 1024


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "System role not supported"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (500, "Value is not callable: System role not supported"),
        (400, "Developer instruction is not enabled for models/gemma-3-27b-it"),
        (400, "Invalid value: 'system'. Supported values are: 'user', 'assistant'."),
        (422, "messages[0].role: Input should be 'user' or 'assistant'"),
        (400, "Prompting with images is incompatible with system messages"),
        (400, "`system` messages are not permitted for this model"),
    ],
)
async def test_without_a_system_role_its_words_lead_the_first_message(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock, status: int, words: str
) -> None:
    """Found out from the refusal, without a wait, and remembered."""
    endpoint.script = refusing(
        lambda seen: Fault.error(status, words) if seen.messages[0]["role"] == "system" else None
    )
    async with opened(endpoint) as backend:
        await backend.complete(ask())
        await backend.complete(ask())
    assert len(endpoint.seen) == 3
    assert endpoint.seen[-1].texts == ["You are shown images.\nWhat is it?"]
    assert clock.slept == []


async def test_a_complaint_about_a_user_setting_is_raised(endpoint: FakeEndpoint, opened: Opened) -> None:
    """`extra_body` is the user's own: it is not dropped in silence."""
    endpoint.script = lambda seen: Fault.error(400, "Unknown parameter: 'reasoning_effort'")
    async with opened(endpoint, extra_body={"reasoning_effort": "low"}) as backend:
        with pytest.raises(EndpointError, match="reasoning_effort"):
            await backend.complete(ask())
    assert len(endpoint.seen) == 1


async def test_a_server_that_refuses_everything_is_not_asked_for_ever(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Each change is made once; then the refusal counts."""
    endpoint.script = lambda seen: Fault.error(
        400, "Unsupported: 'seed', 'temperature', 'max_tokens', 'stream'; system role not supported"
    )
    async with opened(endpoint, temperature=1.0) as backend:
        with pytest.raises(EndpointError, match="rejected"):
            await backend.complete(ask(seed=1))
    assert len(endpoint.seen) <= 6


async def test_many_requests_at_once_find_the_same_out_together(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Those that were sent before the first refusal are sent again, and the limit is not halved for each."""

    def script(seen: Seen) -> Any:
        if "seed" in seen.body:
            return FIELD_COMPLAINTS["seed"]
        return (
            Fault.error(400, "too many images; at most 16 are allowed") if len(seen.images) > 16 else "fine"
        )

    endpoint.script, endpoint.delay_s = script, 0.05
    request = replace(conversation(12), seed=1)
    async with opened(endpoint) as backend:
        replies = await asyncio.gather(*(backend.complete(request) for _ in range(8)))
        facts = backend.describe()["learned"]
    assert {reply.text for reply in replies} == {"fine"}
    assert facts == {"not_sent": ["seed"], "max_images": 16}


# Images and length


@pytest.mark.parametrize(
    ("status", "words", "limit"),
    [
        (400, "Exceeded maximum number of images ({}) allowed in the request.", 10),
        (400, "At most {} image(s) may be provided in one request.", 5),
        (500, "this model only supports one image while more than one image requested", 1),
        (400, "too many images", 12),
    ],
)
async def test_old_images_are_left_out_within_what_the_server_takes(
    endpoint: FakeEndpoint, opened: Opened, status: int, words: str, limit: int
) -> None:
    """One refusal, the limit is remembered and named with its setting, and the newest images are seen."""
    fault = Fault.error(status, words.format(limit))
    endpoint.script = refusing(lambda seen: fault if len(seen.images) > limit else None)
    async with opened(endpoint) as backend:
        reply = await backend.complete(conversation(12))
        sent = len(endpoint.seen[-1].images)
        await backend.complete(conversation(13))
        facts = backend.describe()["learned"]
    assert reply.text == "fine"
    assert "old images are left out" in reply.notes[0]
    assert len(endpoint.seen) == 3
    assert 0.8 * limit <= sent <= limit
    assert facts["max_images"] == limit
    assert "image_url" in str(endpoint.seen[-1].messages[-1])


async def test_one_question_with_more_images_than_are_taken_keeps_the_first(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """A summary of many images is made of as many as the server takes, and the text says so."""
    fault = Fault.error(400, "Too many images in request: 9, maximum allowed: 3.")
    endpoint.script = refusing(lambda seen: fault if len(seen.images) > 3 else None)
    async with opened(endpoint) as backend:
        await backend.complete(ask("Compare.", *map(picture, range(9))))
    assert len(endpoint.seen[-1].images) == 3
    assert endpoint.seen[-1].texts[-1].count("more images than the model takes") == 6


async def test_a_conversation_too_long_is_sent_with_fewer_images(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """By the numbers that the server names, at the first try; what fitted is kept to afterwards."""

    def script(seen: Seen) -> Any:
        tokens = 200 * len(seen.images)
        return (
            Fault.error(
                400,
                f"This model's maximum context length is 4000 tokens, however you requested {tokens} tokens",
            )
            if tokens > 4000
            else "fine"
        )

    endpoint.script = script
    async with opened(endpoint, image_tokens=200) as backend:
        await backend.complete(conversation(20))
        await backend.complete(conversation(20))
    assert len(endpoint.seen[0].images) == 40
    assert len(endpoint.seen) == 3
    assert all(10 <= len(seen.images) <= 20 for seen in endpoint.seen[1:])


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("prompt is too long: 216000 tokens > 200000 maximum", (200000, 216000)),
        ("`inputs` must have less than 4095 tokens. Given: 5012", (4095, 5012)),
        (
            "Reduce the length of the messages. Current length is 9000 while limit is 8192",
            (8192, 9000),
        ),
        ("exceeded model token limit: 262144 (requested: 300000)", (262144, 300000)),
        ("The total number of tokens (5000) exceeds max_seq_len (4096)", (4096, 5000)),
        (
            "maximum context length is 8192 tokens. You requested 1024 output tokens and your prompt "
            "contains at least 7681 input tokens",
            (8192, 7681),
        ),
        ("maximum context length is 8192 tokens. However, your messages resulted in 8227", (8192, 8227)),
    ],
)
def test_a_context_and_a_prompt_are_read_from_the_servers_words(words, numbers) -> None:
    fault = from_status(400, {"error": {"message": words}}, {})
    assert (fault.kind, context_and_prompt(fault)) == ("too_long", numbers)


async def test_a_payload_too_large_is_sent_with_fewer_images(endpoint: FakeEndpoint, opened: Opened) -> None:
    """A proxy's limit on bytes is met by leaving old images out, and remembered."""
    page = Fault("status", 413, {"message": "failed to parse request"})
    endpoint.script = refusing(lambda seen: page if len(seen.raw) > 60_000 else None)
    async with opened(endpoint) as backend:
        assert (await backend.complete(conversation(20))).text == "fine"
        known = len(endpoint.seen)
        await backend.complete(conversation(20))
    assert len(endpoint.seen) == known + 1
    assert endpoint.seen[-1].images


async def test_a_prompt_that_fits_gets_a_shorter_answer(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Where only prompt and answer together are too long, no image has to go."""
    words = (
        "'max_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and your "
        "request has 1000 input tokens"
    )
    endpoint.script = refusing(
        lambda seen: Fault.error(400, words) if seen.body["max_tokens"] > 3096 else None
    )
    async with opened(endpoint) as backend:
        await backend.complete(conversation(3))
    assert [len(seen.images) for seen in endpoint.seen] == [6, 6]


async def test_an_image_alone_is_never_left_out_for_length(endpoint: FakeEndpoint, opened: Opened) -> None:
    """A question about an image without the image would be answered from nothing."""
    endpoint.script = lambda seen: Fault.context_length()
    async with opened(endpoint) as backend:
        with pytest.raises(ContextLengthError, match="context length"):
            await backend.complete(ask("What is it?", picture(1)))


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "Failed to load image"), (500, "Internal Server Error"), (400, "image too small: 9x9")],
)
async def test_an_image_that_a_server_fails_on_costs_that_image(
    endpoint: FakeEndpoint, opened: Opened, status: int, words: str
) -> None:
    """It is found by asking about each new image alone, left out, named, and not sent again."""
    bad = picture(7, 40, 44)
    endpoint.script = refusing(
        lambda seen: Fault.error(status, words) if any(image.size[0] != 80 for image in seen.images) else None
    )
    good = [picture(n, 60, 80) for n in range(2)]
    turns = (SYSTEM, Message("user", ("go",)), Message("assistant", ("code",)), Message("user", (*good, bad)))
    async with opened(endpoint) as backend:
        reply = await backend.complete(ChatRequest(turns))
        asked = len(endpoint.seen)
        again = await backend.complete(
            ChatRequest((*turns, Message("assistant", ("x",)), Message("user", ("on",))))
        )
    assert (reply.text, again.text) == ("fine", "fine")
    assert f"{bad.id[:8]} (44x40 px)" in reply.notes[0]
    assert "the model's server fails on it" in endpoint.seen[-1].texts[3]
    assert len(endpoint.seen) == asked + 1
    assert reply.usage.requests == asked


async def test_a_question_about_an_image_that_fails_alone_is_a_failure_of_that_image(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Nothing is answered from nothing."""
    endpoint.script = refusing(
        lambda seen: Fault.error(400, "Could not process image") if seen.images else None
    )
    async with opened(endpoint) as backend:
        with pytest.raises(ImageRejectedError, match=r"Could not process image.*image_least_side"):
            await backend.complete(ask("What is it?", picture(1)))


async def test_a_server_that_fails_on_everything_blames_no_image(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """An outage costs no image."""
    endpoint.script = lambda seen: Fault.error(500, "oops")
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointError, match="overloaded"):
            await backend.complete(conversation(2))
        assert "images_left_out" not in backend.describe()["learned"]


async def test_a_model_without_eyes_stops_the_run_and_names_the_setting(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """It is no failure of one unit."""
    endpoint.script = lambda seen: Fault.error(404, "No endpoints found that support image input")
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointStopError, match="sees_images: false"):
            await backend.complete(conversation(1))


# Thoughts


THOUGHT = "<think>[LABEL]: draft</think>"
MISTRAL_THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("reply", "thoughts"),
    [
        (Reply(f"{THOUGHT}\nanswer"), "[LABEL]: draft"),
        (Reply("[LABEL]: draft\n</think>\nanswer"), "[LABEL]: draft"),
        (Reply("answer", message={"reasoning_content": "hm"}), "hm"),
        (Reply("answer", message={"reasoning": "hm"}), "hm"),
        (Reply("answer", message={"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), "hm"),
        (Reply(message={"content": [MISTRAL_THOUGHT, {"type": "text", "text": "answer"}]}), "hm"),
        (Reply("answer"), ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_kept_apart_from_the_answer(
    endpoint: FakeEndpoint, opened: Opened, reply: Reply, thoughts: str, stream: bool
) -> None:
    """From fields, parts and tags, whole and streamed."""
    endpoint.script = lambda seen: reply
    async with opened(endpoint, stream=stream) as backend:
        read = await backend.complete(ask())
    assert (read.text, read.thoughts, read.finish) == ("answer", thoughts, "stop")


@pytest.mark.parametrize(("field", "sent"), [(None, None), ("reasoning_content", "hm")])
async def test_thoughts_are_sent_again_only_if_the_settings_say_so(
    endpoint: FakeEndpoint, opened: Opened, field: str | None, sent: str | None
) -> None:
    """Most servers do not want them, and they are paid for."""
    turns = (SYSTEM, Message("user", ("go",)), Message("assistant", ("x",), "hm"), Message("user", ("on",)))
    async with opened(endpoint, send_thoughts=field) as backend:
        await backend.complete(ChatRequest(turns))
    assert endpoint.seen[0].messages[2].get("reasoning_content") == sent


async def test_an_answer_that_thinking_left_no_room_for_is_asked_for_once_more(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """With more room, which later requests have from the start; both answers are counted."""
    endpoint.script = lambda seen: (
        Reply("answer")
        if seen.body["max_tokens"] > 2000
        else Reply("", finish="length", message={"reasoning": "hm"})
    )
    async with opened(endpoint) as backend:
        first = await backend.complete(ask(max_tokens=512))
        second = await backend.complete(ask(max_tokens=512))
    assert (first.text, second.text, len(endpoint.seen)) == ("answer", "answer", 3)
    assert first.usage.requests == 2
    assert "thinking had used 512" in first.notes[0]


async def test_thinking_without_end_is_an_error_that_names_the_settings(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Two answers were paid for, and it says what to set."""
    endpoint.script = lambda seen: Reply("<think>on and on", finish="length")
    async with opened(endpoint) as backend:
        with pytest.raises(ThinkingError, match=r"reasoning_tokens.*reasoning_effort") as caught:
            await backend.complete(ask(max_tokens=512))
    assert (len(endpoint.seen), caught.value.in_doubt) == (2, 2)


# Streams, ends, faults inside of a 200


async def test_a_streamed_answer_is_the_same_as_a_whole_one(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Text, end, model and usage come together from the pieces."""
    endpoint.script = lambda seen: Reply("some long answer", finish="length")
    replies = []
    for stream in (False, True):
        async with opened(endpoint, stream=stream) as backend:
            replies.append(await backend.complete(ask("x" * 5000)))
        endpoint.cache.__init__()  # type: ignore[misc]
    assert replies[0] == replies[1]
    assert replies[1].usage.prompt_tokens > 1000


@pytest.mark.parametrize(
    "fault", [Fault.cut_stream(), Fault.error_in_stream("upstream died"), Fault.reset_in_body()]
)
async def test_a_stream_that_breaks_is_tried_again_and_in_doubt(
    endpoint: FakeEndpoint, opened: Opened, fault: Fault
) -> None:
    """Its beginning is no answer, and it may have been billed."""
    endpoint.faults.append(fault)
    async with opened(endpoint, stream=True) as backend:
        reply = await backend.complete(ask())
        assert backend.describe()["in_doubt"] == 1
    assert reply.usage.requests == 2
    assert "half" not in reply.text


@pytest.mark.parametrize(
    "words",
    [
        "This model only support stream mode, please enable the stream parameter to access the model.",
        "parameter.enable_thinking must be set to false for non-streaming calls",
        "'stream' does not support false with this model. Only the true value is supported.",
        "This endpoint requires stream: true",
    ],
)
async def test_a_model_that_only_streams_is_asked_to_stream(
    endpoint: FakeEndpoint, opened: Opened, words: str
) -> None:
    """Found out from its words."""
    endpoint.script = refusing(lambda seen: None if seen.body.get("stream") else Fault.error(400, words))
    async with opened(endpoint) as backend:
        assert (await backend.complete(ask())).text == "fine"


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        ("SAFETY", "filtered"),
        ("PROHIBITED_CONTENT", "filtered"),
        ("sensitive", "filtered"),
        ("refusal", "refused"),
        ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        ("end_turn", "stop"),
        ("repetition", "stop"),
    ],
)
async def test_every_spelling_of_an_end_is_known(
    endpoint: FakeEndpoint, opened: Opened, finish: str, kind: str
) -> None:
    """Upper and lower case, of all providers."""
    endpoint.script = lambda seen: Reply("text", finish=finish)
    async with opened(endpoint) as backend:
        assert (await backend.complete(ask())).finish == kind


@pytest.mark.parametrize("finish", ["error", "network_error", "abort", "OTHER"])
async def test_an_answer_that_broke_off_is_asked_for_again(
    endpoint: FakeEndpoint, opened: Opened, finish: str
) -> None:
    """It is not taken for an empty answer, and is in doubt."""
    answers = iter([Reply("", finish=finish), Reply("whole")])
    endpoint.script = lambda seen: next(answers)
    async with opened(endpoint) as backend:
        assert (await backend.complete(ask())).text == "whole"
        assert backend.describe()["in_doubt"] == 1


async def test_an_error_in_the_first_choice_is_read_like_any_other(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Its words and its kind count, not the status 200."""
    choice = {
        "finish_reason": "error",
        "error": {"code": 402, "message": "no credits left"},
        "message": {"content": ""},
    }
    endpoint.script = lambda seen: Fault.choices([choice])
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointStopError, match="no credits left"):
            await backend.complete(ask())


# Waiting


@pytest.mark.parametrize("status", [499, 520, 522, 524])
async def test_a_gateway_that_gave_up_leaves_the_attempt_in_doubt(
    endpoint: FakeEndpoint, opened: Opened, status: int
) -> None:
    """The server behind it may have done the work."""
    endpoint.faults.append(Fault("raw", status, b"<html>"))
    endpoint.faults[0] = Fault("status", status, {"message": "gave up"})
    async with opened(endpoint) as backend:
        await backend.complete(ask())
        assert backend.describe()["in_doubt"] == 1


async def test_an_answer_slower_than_the_proxy_allows_names_the_setting(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Cloudflare's 524 is cured by streaming."""
    endpoint.script = lambda seen: Fault("status", 524, {"message": "timeout"})
    async with opened(endpoint, max_attempts=2) as backend:
        with pytest.raises(EndpointError, match="stream: true"):
            await backend.complete(ask())


async def test_a_wait_in_the_words_is_kept(endpoint: FakeEndpoint, opened: Opened, clock: FakeClock) -> None:
    """As if it had stood in `Retry-After`."""
    endpoint.faults.append(
        Fault.error(
            429, "Rate limit reached (TPM). Please try again in 7.84s. See https://x/settings/billing"
        )
    )
    async with opened(endpoint) as backend:
        before = clock.now
        await backend.complete(ask())
    assert clock.now - before == pytest.approx(7.84 + 0.5)


async def test_a_wait_until_tomorrow_ends_with_the_time(
    endpoint: FakeEndpoint, opened: Opened, clock: FakeClock
) -> None:
    """Nobody sits out a day: the run can be resumed then."""
    endpoint.script = lambda seen: Fault.error(
        429, "Rate limit reached on tokens per day (TPD). Please try again in 5h2m."
    )
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointDownError, match=r"asks to wait for 18,120 s"):
            await backend.complete(ask())
    assert clock.slept == []


@pytest.mark.parametrize(("should", "requests"), [("false", 1), ("true", 2)])
async def test_the_should_retry_header_is_obeyed(
    endpoint: FakeEndpoint, opened: Opened, should: str, requests: int
) -> None:
    """`x-should-retry` is a firm no or yes."""
    status = 500 if should == "false" else 400
    endpoint.faults.append(Fault.error(status, "hm", x_should_retry=should))
    async with opened(endpoint) as backend:
        if should == "false":
            with pytest.raises(EndpointError):
                await backend.complete(ask())
        else:
            await backend.complete(ask())
    assert len(endpoint.seen) == requests


async def test_a_refused_connection_names_the_address(opened: Opened, endpoint: FakeEndpoint) -> None:
    """Limits are no cure for a wrong port."""
    async with opened(endpoint, base_url="http://127.0.0.1:9/v1", max_attempts=2) as backend:
        with pytest.raises(EndpointDownError, match=r"base_url") as caught:
            await backend.complete(ask())
    assert "requests_per_minute" not in str(caught.value)


async def test_flex_is_given_time(endpoint: FakeEndpoint, opened: Opened) -> None:
    """The slow tier has waiting rules of its own, which settings still beat."""
    async with opened(endpoint, service_tier="flex", deadline_s=100) as backend:
        await backend.complete(ask())
        assert (backend._settings.attempt_timeout_s, backend._settings.deadline_s) == (900, 100)
    assert endpoint.seen[0].body["service_tier"] == "flex"


# Silent truncation


async def test_a_server_that_cuts_conversations_in_silence_is_noticed_once(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """The prompt tokens that it reports stop growing."""
    endpoint.script = lambda seen: Reply(
        "ok", reported={"prompt_tokens": min(4096, len(seen.raw) // 4), "total_tokens": 0}
    )
    async with opened(endpoint) as backend:
        replies = [await backend.complete(conversation(n, 0, "word " * 1000)) for n in range(1, 12)]
        facts = backend.describe()["learned"]
    notes = [note for reply in replies for note in reply.notes]
    assert len(notes) == 1
    assert "4,096 tokens" in notes[0]
    assert "OLLAMA_CONTEXT_LENGTH" in notes[0]
    assert facts["context_seems_to_be"] == 4096


async def test_an_honest_server_is_not_suspected(endpoint: FakeEndpoint, opened: Opened) -> None:
    """Estimates are rough: an honest count, half as high again or a third lower, raises no alarm."""
    for factor in (0.65, 1.5):
        endpoint.script = lambda seen, factor=factor: Reply(
            "ok", reported={"prompt_tokens": int(factor * len(seen.raw) / 4)}
        )
        async with opened(endpoint) as backend:
            for n in range(1, 10):
                assert (await backend.complete(conversation(n, 0, "word " * 1000))).notes == ()


async def test_a_server_is_not_suspected_for_images_that_were_left_out(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """Its count falls, and the text grows, while a request with fewer images is sent each time."""
    endpoint.script = lambda seen: Reply(
        "ok", reported={"prompt_tokens": sum(map(len, seen.texts)) // 4 + 500 * len(seen.images)}
    )
    async with opened(endpoint) as backend:
        for n in range(1, 9):
            backend._limits.max_images = 20 - 2 * n
            assert (await backend.complete(conversation(n, 4, "word " * 300))).notes == ()


async def test_a_route_that_is_gone_while_a_server_is_deployed_anew_is_waited_for(
    endpoint: FakeEndpoint, opened: Opened
) -> None:
    """At an address that answered before, a 404 of the route passes; at one that never did, it is the
    address.
    """
    gone = Fault("status", 404, {"message": "Path '/v1/chat/completions' not found. Ping /-/routes"})
    async with opened(endpoint) as backend:
        await backend.complete(ask())
        endpoint.faults.append(gone)
        assert (await backend.complete(ask())).usage.requests == 2
    endpoint.faults.append(gone)
    async with opened(endpoint) as backend:
        with pytest.raises(EndpointStopError, match="base_url"):
            await backend.complete(ask())
