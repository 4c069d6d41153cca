from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from actors.chat.factory import available, build_backend
from actors.chat.hosted.openai_compatible import OpenAIBackend
from actors.chat.settings import BuiltinChat, ChatSettings, OpenAIChat, TransformersChat
from actors.serving.backend import Readiness
from tests.fake_endpoint import KEY

parse = TypeAdapter(ChatSettings).validate_python


def test_the_backend_key_selects_the_settings() -> None:
    assert isinstance(parse({"backend": "openai", "model": "m"}), OpenAIChat)
    assert isinstance(parse({"backend": "transformers", "model": "m"}), TransformersChat)
    assert parse({"backend": "builtin"}) == BuiltinChat(model="scientist")
    for wrong in (
        {"backend": "gpt"},
        {"model": "m"},
        {"backend": "openai"},
        {"backend": "builtin", "model": "x"},
    ):
        with pytest.raises(ValidationError):
            parse(wrong)


def test_an_endpoint_is_built_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    backend = build_backend(OpenAIChat(model="m", api_key_env="SOME_KEY", max_concurrent=5))
    assert isinstance(backend, OpenAIBackend)
    assert (backend.name, backend.slots, backend.max_batch) == ("openai:m", 5, 1)


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        (OpenAIChat(model="m", api_key_env="SOME_KEY"), "not asked", "with the key in SOME_KEY"),
        (OpenAIChat(model="m", api_key_env="OTHER"), "missing", "OTHER is not set"),
        (OpenAIChat(model="m", api_key_env=None, base_url="http://box:8000/v1"), "not asked", "box:8000"),
        (TransformersChat(model="/no/such/folder"), "missing", "does not exist"),
        (TransformersChat(model="owner/name"), "not asked", "to be fetched"),
        (
            TransformersChat(model="owner/name", local_files_only=True),
            "missing",
            "not in the Hugging Face cache",
        ),
        (
            TransformersChat(model="no such: name", local_files_only=True),
            "missing",
            "not in the Hugging Face cache",
        ),
        (BuiltinChat(), "ready", "stand-in"),
    ],
)
def test_availability_is_one_sentence(settings: ChatSettings, state: Readiness, words: str) -> None:
    state_found, sentence = available(settings, {"SOME_KEY": KEY})
    assert (state_found, words in sentence) == (state, True), sentence
    assert KEY not in sentence


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    state, sentence = available(TransformersChat(model=str(tmp_path)), {})
    assert state == "missing"
    assert 'needs the package transformers. Install with: pip install "maia[models]"' in sentence
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf" in available(TransformersChat(model=str(tmp_path / "m.gguf")), {})[1]


def test_settings_and_factory_import_nothing_heavy() -> None:
    code = (
        "import sys, actors.chat.factory; "
        "print([m for m in ('torch', 'ray', 'openai', 'transformers', 'aiohttp') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
