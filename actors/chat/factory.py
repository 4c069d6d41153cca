"""From settings to a language model, inside the process that will own it; and what can run here at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from actors import hub
from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.chat.settings import BuiltinChat, ChatSettings, OpenAIChat, TransformersChat
from actors.endpoint.secrets import read_secrets
from actors.errors import UsageError
from actors.packaged import PackagedNetwork
from actors.serving.backend import Backend, Readiness


def build_backend(
    settings: ChatSettings, photographs: PackagedNetwork | None = None
) -> Backend[ChatRequest, ChatReply]:
    """Return the loaded model. `photographs` is the network that sees photographs for a built-in one.

    Raises:
        UsageError: If it cannot work as configured: no key, no such model, a missing package.
    """
    match settings:
        case OpenAIChat():
            from actors.chat.hosted.openai_compatible import OpenAIBackend

            return OpenAIBackend(settings)
        case TransformersChat():
            from actors.chat.local import LocalBackend

            return LocalBackend(settings)
        case BuiltinChat():
            from actors.embedded.chat_model import BuiltinBackend
            from actors.embedded.photographs.classifier import LiteClassifier

            return BuiltinBackend(settings, LiteClassifier(photographs) if photographs else None)


def available(settings: ChatSettings, environ: Mapping[str, str] = os.environ) -> tuple[Readiness, str]:
    """Return whether this model could be used here, and in one sentence why (not). Never shows a key.

    Nothing is loaded and nothing is asked of an endpoint or a hub.
    """
    try:
        match settings:
            case OpenAIChat():
                read_secrets(settings, environ)
                how = f"with the key in {settings.api_key_env}" if settings.api_key_env else "without a key"
                where = f"{settings.model} at {settings.base_url}"
                return "not asked", f"{where}, {how} (the endpoint was not asked)."
            case TransformersChat():
                return _transformers_available(settings)
            case BuiltinChat():
                return "ready", f"built-in {settings.model}: rules in place of a language model, a stand-in."
    except UsageError as error:
        return "missing", str(error)


def _transformers_available(settings: TransformersChat) -> tuple[Readiness, str]:
    """Return as `available`; raise UsageError for a missing package or folder."""
    model = settings.model
    hub.require("A local language model", "transformers")
    if settings.gguf_file is not None or model.endswith(".gguf"):
        hub.require("A GGUF file", "gguf", install="pip install gguf")
    if Path(model).expanduser().is_file() or hub.local_folder(model) is not None:
        return "ready", f"{model} on this machine, through transformers."
    if _in_hub_cache(settings):
        return "ready", f"{model} from the Hugging Face cache of this machine."
    if settings.local_files_only:
        return "missing", f"{model} is not in the Hugging Face cache of this machine."
    return "not asked", f"{model}, to be fetched from the Hugging Face hub (which was not asked)."


def _in_hub_cache(settings: TransformersChat) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(
            settings.model, settings.gguf_file or "config.json", revision=settings.revision
        )
    except HFValidationError:
        return False
    return isinstance(cached, str)
