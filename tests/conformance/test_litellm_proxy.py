"""The LiteLLM proxy: its own mock answers, and answers of the scripted server that pass through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import (
    ContextLengthError,
    EndpointDownError,
    EndpointError,
    EndpointStopError,
    ThinkingError,
)
from tests.conformance.asking import ask, ask_a_server_that_dies, endpoint, picture, probe, study
from tests.conformance.servers import Environment, Server, free_port, serving
from tests.fake_endpoint import KEY as UPSTREAM_KEY
from tests.fake_endpoint import MODEL, FakeEndpoint, Fault, Reply, Seen

LITELLM = Environment("litellm", ("litellm[proxy]==1.108.7",))
KEY = "sk-proxy-5d2a9e10"
MOCKS = {
    "hello": "hello",
    "limited": "litellm.RateLimitError",
    "too-long": "litellm.ContextWindowExceededError",
    "broken": "litellm.InternalServerError",
    "filtered": "Exception: content_filter_policy",
}


def configuration(upstream: FakeEndpoint) -> dict[str, Any]:
    """Return a proxy with a model for each mock, and `through`, which the scripted server answers."""
    mocks = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/fake", "api_key": "x", "mock_response": answer},
        }
        for name, answer in MOCKS.items()
    ]
    real = {"model": f"openai/{MODEL}", "api_key": UPSTREAM_KEY, "api_base": upstream.base_url}
    return {
        "model_list": [*mocks, {"model_name": "through", "litellm_params": real}],
        "general_settings": {"master_key": KEY},
        # Its own retries and pauses are switched off: each test meets one fault.
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeEndpoint]:
    with FakeEndpoint() as fake:
        yield fake
    assert fake.complaints == []


@pytest.fixture(scope="module")
def start(
    upstream: FakeEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractContextManager[Server]]:
    @contextmanager
    def begin() -> Iterator[Server]:
        python, port, folder = LITELLM.python(), free_port(), tmp_path_factory.mktemp("server")
        config = folder / "config.yaml"
        config.write_text(json.dumps(configuration(upstream)))  # JSON is YAML
        command = (
            python.with_name("litellm"),
            "--config",
            config,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        )
        environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
        with serving(command, port, folder, ready="/health/liveliness", environ=environ) as server:
            yield server

    return begin


@pytest.fixture(scope="module")
def server(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    with start() as running:
        yield running


@pytest.fixture
def through(server: Server) -> OpenAIChat:
    return endpoint(server, "through", key=True)


@pytest.fixture(autouse=True)
def fresh(upstream: FakeEndpoint) -> None:
    upstream.script = lambda _: "red, blue"
    upstream.faults.clear()


async def test_a_study_ends_in_order(through: OpenAIChat, upstream: FakeEndpoint, tmp_path: Path) -> None:
    """Images, rounds and the answer go through the proxy."""
    upstream.script = lambda seen: (
        "[CODE]:\n```python\nlook\n```" if seen.rounds == 0 else "[DESCRIPTION]: Dogs.\n[LABEL]: dogs"
    )
    ended = await study(through, tmp_path, key=KEY)
    assert ended.status == "answered"
    assert len(upstream.seen[-1].images) == 2


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("limited", EndpointDownError, "rate_limited .*this is a mock rate limit error"),
        ("too-long", ContextLengthError, "this is a mock context window exceeded error"),
        ("broken", EndpointError, "overloaded .*this is a mock internal server error"),
        ("no-such-model", EndpointStopError, "does not know the model .*Invalid model name"),
    ],
)
async def test_the_proxys_own_errors_are_told_apart(
    server: Server, model: str, kind: type[Exception], words: str
) -> None:
    """Its words are shown with each."""
    with pytest.raises(kind, match=words):
        await ask(endpoint(server, model, key=True), "Say hi.", key=KEY)


async def test_a_filtered_answer_is_an_answer(server: Server) -> None:
    """It holds the proxy's words, and nothing is asked again."""
    reply = await ask(endpoint(server, "filtered", key=True), "Say hi.", key=KEY)
    assert (reply.finish, reply.usage.requests) == ("filtered", 1)
    assert "content_filter_policy" in reply.text


async def test_a_wrong_key_stops(server: Server) -> None:
    """A proxy without a data base says only that it has none; that means a key that is not its own."""
    wrong, settings = "sk-wrong-7c40aa91", endpoint(server, "hello", key=True)
    with pytest.raises(EndpointStopError, match=r"does not accept the key .*No connected db"):
        await ask(settings, "Say hi.", key=wrong)
    assert isinstance((await probe(settings, key=wrong)).error, EndpointStopError)


def error(status: int, message: str) -> Fault:
    return Fault.error(status, message)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault.no_quota(), EndpointStopError, "no quota or credit left .*exceeded your current quota"),
        (Fault.rate_limit(), EndpointDownError, "rate_limited .*Rate limit reached for requests"),
        (Fault.context_length(), ContextLengthError, "maximum context length is 10 tokens"),
        (error(401, "Incorrect API key provided"), EndpointStopError, "does not accept the key .*Incorrect"),
        (error(404, "The model `x` does not exist"), EndpointStopError, "does not know the model .*`x`"),
        (error(400, "Your credit balance is too low"), EndpointStopError, "credit balance is too low"),
        (error(400, "Model m does not support image input"), EndpointStopError, "takes no images"),
        (error(413, "Payload too large"), ContextLengthError, "Payload too large"),
        (error(503, "The engine is overloaded"), EndpointError, "overloaded .*The engine is overloaded"),
    ],
)
async def test_errors_that_pass_through_the_proxy_keep_their_kind_and_words(
    through: OpenAIChat, upstream: FakeEndpoint, fault: Fault, kind: type[Exception], words: str
) -> None:
    """The proxy changes status, type and code; what the server said is still there."""
    upstream.faults.extend([fault] * 8)
    with pytest.raises(kind, match=words):
        await ask(through, "Say hi.", key=KEY)


async def test_too_many_images_are_left_out_within_the_servers_limit(
    through: OpenAIChat, upstream: FakeEndpoint
) -> None:
    """The limit is read through the proxy's words, and what was left out is noted with them."""

    def two(seen: Seen) -> str | Fault:
        many = len(seen.images) > 2
        return Fault.error(400, "At most 2 images may be provided in one prompt.") if many else "Two."

    upstream.script = two
    reply = await ask(through, "What are these?", *map(picture, range(5)), key=KEY)
    assert reply.text == "Two."
    assert "At most 2 images" in reply.notes[0]
    assert len(upstream.seen[-1].images) == 2


async def test_empty_answers_and_thoughts_alone_pass_through(
    through: OpenAIChat, upstream: FakeEndpoint
) -> None:
    """An empty answer stays one; an answer that is thoughts alone, cut off, is asked for again and then
    fails.
    """
    upstream.script = lambda _: ""
    assert (await ask(through, "Say hi.", key=KEY)).text == ""
    upstream.script = lambda _: Reply(None, message={"reasoning_content": "hmm"}, finish="length")
    with pytest.raises(ThinkingError, match=r"gave no answer"):
        await ask(through, "Say hi.", key=KEY)


async def test_the_probe_goes_through(through: OpenAIChat, server: Server) -> None:
    """The model is among those that the proxy lists, and a mistyped one is named with the nearest."""
    report = await probe(through, key=KEY)
    assert report.error is None
    assert "sees images" in report.found
    wrong = await probe(endpoint(server, "trough", key=True), key=KEY)
    assert wrong.error is not None
    assert "Nearest that it lists: through" in wrong.error.fix


async def test_a_killed_proxy_is_down_and_its_last_answer_in_doubt(
    start: Callable[[], AbstractContextManager[Server]], upstream: FakeEndpoint
) -> None:
    """What was asked may have been worked on; then nobody answers at the address."""
    upstream.faults.append(Fault.hang())
    with start() as server:
        down = await ask_a_server_that_dies(server, endpoint(server, "through", key=True), key=KEY)
    assert down.in_doubt == 1
