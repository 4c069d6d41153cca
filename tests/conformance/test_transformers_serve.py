"""The transformers library's own server, with a small Qwen2-VL of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import EndpointError, EndpointStopError
from actors.vision_libraries import import_torchvision
from tests.actors.chat.tiny_models import save_qwen2_vl
from tests.conformance.asking import ask, ask_a_server_that_dies, endpoint, picture, probe, study
from tests.conformance.servers import ROOT, Environment, Server, free_port, serving

TRANSFORMERS = Environment(
    "transformers-serve", ("fastapi==0.165.0", "uvicorn==0.54.0", "opentelemetry-api==1.45.2"), beside=True
)
LAUNCH = Path(__file__).parent / "launch" / "transformers_serve.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("transformers")
    import_torchvision()
    return str(save_qwen2_vl(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def start(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractContextManager[Server]]:
    def begin() -> AbstractContextManager[Server]:
        port, folder = free_port(), tmp_path_factory.mktemp("server")
        command = (TRANSFORMERS.python(), LAUNCH, "serve", model, "--device", "cpu", "--port", str(port))
        environ = {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder)}
        return serving((*command, "--host", "127.0.0.1"), port, folder, environ=environ)

    return begin


@pytest.fixture(scope="module")
def server(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    with start() as running:
        yield running


@pytest.fixture
def settings(server: Server, model: str) -> OpenAIChat:
    return endpoint(server, model)


async def test_a_study_ends_in_order(settings: OpenAIChat, tmp_path: Path) -> None:
    """The server puts the prompt before what random weights say, so that its example may be taken for an
    answer.
    """
    ended = await study(settings, tmp_path)
    assert ended.status in ("answered", "no_answer")


async def test_a_model_that_takes_any_number_of_images_is_shown_all(settings: OpenAIChat) -> None:
    """No limit of images is set here, so that none is learned; what is billed grows with them."""
    one = await ask(settings, "What is this?", picture(1))
    many = await ask(settings, "What are these?", *map(picture, range(60)))
    assert many.usage.prompt_tokens > one.usage.prompt_tokens + 59
    assert not many.usage.estimated
    assert many.notes == ()


async def test_an_overlong_conversation_is_answered_by_a_server_without_a_limit(settings: OpenAIChat) -> None:
    """The model's 512 positions are not enforced by this server: some answer comes, and no crash."""
    reply = await ask(settings, "long " * 2000)
    assert reply.usage.prompt_tokens > 512


async def test_a_wrong_model_is_named_in_the_servers_words(settings: OpenAIChat) -> None:
    """It answers 400, and which model it has."""
    wrong = settings.model_copy(update={"model": "no-such-model"})
    with pytest.raises(EndpointStopError, match=r"does not know the model .*Server is pinned to"):
        await ask(wrong, "Say hi.")
    report = await probe(wrong)
    assert isinstance(report.error, EndpointStopError)


async def test_a_field_that_it_does_not_know_is_said(settings: OpenAIChat) -> None:
    """`extra_body` is the user's: the refusal comes with the server's words, and nothing is dropped."""
    odd = settings.model_copy(update={"extra_body": {"top_z": 3}})
    with pytest.raises(EndpointError, match=r"HTTP 422: Unexpected fields in the request.*top_z"):
        await ask(odd, "Say hi.")


async def test_answers_can_be_streamed(settings: OpenAIChat) -> None:
    """Usage is complete in a stream too."""
    reply = await ask(settings.model_copy(update={"stream": True}), "Say hi.")
    assert reply.usage.prompt_tokens > 0
    assert reply.finish == "length"


async def test_the_probe_goes_through_and_warns_of_a_model_that_names_no_color(settings: OpenAIChat) -> None:
    """Random weights see nothing, and the probe says so without refusing them."""
    report = await probe(settings)
    assert report.error is None
    assert "may not see images" in " ".join(report.warnings)


async def test_a_killed_server_is_down_and_its_last_answer_in_doubt(
    start: Callable[[], AbstractContextManager[Server]], model: str
) -> None:
    """What was asked may have been worked on; then nobody answers at the address."""
    with start() as server:
        down = await ask_a_server_that_dies(server, endpoint(server, model))
    assert down.in_doubt == 1
