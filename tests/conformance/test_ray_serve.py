"""Ray Serve before a small FastAPI application: its proxy's own answers, and FastAPI's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.endpoint.faults import EndpointDownError, EndpointError, EndpointStopError
from tests.conformance.asking import ask, endpoint, probe, study
from tests.conformance.servers import Environment, Server, free_port, serving

pytestmark = pytest.mark.anyio

RAY_SERVE = Environment(
    "ray-serve",
    ("ray[serve]==2.60.0", "fastapi==0.165.0", "uvicorn==0.54.0", "opentelemetry-api==1.45.2"),
    beside=True,
)
LAUNCH = Path(__file__).parent / "launch" / "ray_serve.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    command = (RAY_SERVE.python(), LAUNCH, str(port))
    folder = tmp_path_factory.mktemp("server")
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with serving(
        command, port, folder, ready="/app/docs", api="/app/v1", until=200, environ=environ
    ) as running:
        yield running


async def test_a_study_ends_in_order(server: Server, tmp_path: Path) -> None:
    """Answers without a program or a label end it after all of its rounds."""
    ended = await study(endpoint(server, "any"), tmp_path)
    assert ended.ending == "no_answer"


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


async def test_the_probe_goes_through_without_a_list_of_models(server: Server) -> None:
    """There is no such route; that says nothing of the model."""
    report = await probe(endpoint(server, "any"))
    assert report.error is None
    assert "the server has no list of models" in report.found
