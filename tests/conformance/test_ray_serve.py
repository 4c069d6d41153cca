"""Ray Serve before a small FastAPI application: its proxy's own answers, and FastAPI's."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from actors.endpoint.faults import ContextLengthError, EndpointDownError, EndpointError, EndpointStopError
from tests.conformance.asking import ask, ask_a_server_that_dies, endpoint, picture, probe, study
from tests.conformance.servers import Environment, Server, free_port, serving

RAY_SERVE = Environment(
    "ray-serve",
    ("ray[serve]==2.60.0", "fastapi==0.165.0", "uvicorn==0.54.0", "opentelemetry-api==1.45.2"),
    beside=True,
)
LAUNCH = Path(__file__).parent / "launch" / "ray_serve.py"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[Server]]:
    def begin() -> AbstractContextManager[Server]:
        port, folder = free_port(), tmp_path_factory.mktemp("server")
        environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        command = (RAY_SERVE.python(), LAUNCH, str(port))
        return serving(command, port, folder, ready="/app/docs", api="/app/v1", until=200, environ=environ)

    return begin


@pytest.fixture(scope="module")
def server(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    with start() as running:
        yield running


async def test_a_study_ends_in_order(server: Server, tmp_path: Path) -> None:
    """Answers without a program or a label end it after all of its rounds."""
    ended = await study(endpoint(server, "any"), tmp_path)
    assert ended.status == "no_answer"


async def test_a_wrong_address_stops_with_the_proxys_words(server: Server) -> None:
    """Ray Serve's proxy answers 404 in plain text for a route that no application has."""
    wrong = endpoint(server, "any").model_copy(update={"base_url": server.base_url.replace("/app", "")})
    with pytest.raises(EndpointStopError, match=r"HTTP 404: .*/v1/chat/completions.*not found") as stopped:
        await ask(wrong, "Say hi.")
    assert "base_url" in stopped.value.fix
    assert isinstance((await probe(wrong)).error, EndpointStopError)


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("loading", EndpointDownError, "overloaded .*still loading"),
        ("slow", EndpointError, "overloaded .*Request timed out after 1s"),
        ("broken", EndpointError, "overloaded .*HTTP 500"),
    ],
)
async def test_faults_that_pass_are_tried_again_and_told_with_their_words(
    server: Server, model: str, kind: type[EndpointError], words: str
) -> None:
    """Twice, as these settings say."""
    with pytest.raises(kind, match=words) as failed:
        await ask(endpoint(server, model), "Say hi.")
    assert failed.value.attempts == 2


async def test_an_empty_answer_is_an_answer(server: Server) -> None:
    """It is not asked for again."""
    reply = await ask(endpoint(server, "empty"), "Say hi.")
    assert (reply.text, reply.finish, reply.usage.requests) == ("", "stop", 1)


async def test_a_wrong_key_stops(server: Server) -> None:
    """FastAPI's words are shown, and the probe finds it out."""
    locked = endpoint(server, "locked")
    with pytest.raises(EndpointStopError, match=r"does not accept the key .*Invalid API key"):
        await ask(locked, "Say hi.")
    assert isinstance((await probe(locked)).error, EndpointStopError)


async def test_a_conversation_longer_than_the_context_is_a_failure_with_its_words(server: Server) -> None:
    """The engine's words are read through those that Ray Serve LLM puts around them."""
    with pytest.raises(ContextLengthError, match="maximum context length is 512 tokens"):
        await ask(endpoint(server, "short"), "long " * 900)


async def test_too_many_images_are_left_out_within_the_engines_limit(server: Server) -> None:
    """The limit is remembered for the endpoint, and what was left out is noted."""
    reply = await ask(endpoint(server, "images"), "What are these?", *map(picture, range(9)))
    assert (reply.text, reply.usage.requests) == ("red, blue", 2)
    assert "At most 4 image(s)" in reply.notes[0]


async def test_the_probe_goes_through_without_a_list_of_models(server: Server) -> None:
    """There is no such route; that says nothing of the model."""
    report = await probe(endpoint(server, "any"))
    assert report.error is None
    assert "the server has no list of models" in report.found


async def test_a_killed_server_is_down_and_its_last_answer_in_doubt(
    start: Callable[[], AbstractContextManager[Server]],
) -> None:
    """Ray's processes end soon after the one that started them; until then connections are accepted and
    broken.
    """
    with start() as server:
        patient = endpoint(server, "hanging", max_attempts=8, backoff_s=0.5)
        down = await ask_a_server_that_dies(server, patient)
    assert 1 <= down.in_doubt < down.attempts
