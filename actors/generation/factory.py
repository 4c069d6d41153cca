"""From settings to loaded image makers, inside the process that will own them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from actors import hub
from actors.endpoint.secrets import read_secrets
from actors.errors import UsageError
from actors.generation.backend import AsyncImageMaker, GenerationBackend, ThreadedImageMaker
from actors.generation.settings import (
    DiffusersEditor,
    DiffusersGeneration,
    EditorSettings,
    GenerationSettings,
    OpenAIEditor,
    OpenAIGeneration,
    ScenesGeneration,
)
from actors.generation.store import ImageStore
from actors.serving.backend import Readiness


def build_backend(settings: GenerationSettings) -> GenerationBackend:
    """Return the loaded maker, and its editor where that is another.

    Raises:
        UsageError: If it cannot work as configured: a missing package, an unknown model, an offline hub,
            too little memory, no key.
    """
    store = ImageStore(Path(settings.store)) if settings.store else None
    generator = _generator(settings)
    editor = generator
    if not isinstance(settings, ScenesGeneration) and settings.editor is not None:
        editor = _editor(settings.editor)
    return GenerationBackend(
        generator, editor, remembered_bytes=int(settings.remembered_mb * 1e6), store=store
    )


def _generator(settings: GenerationSettings) -> AsyncImageMaker:
    match settings:
        case DiffusersGeneration():
            from actors.generation.diffusion import DiffusionMaker

            return ThreadedImageMaker(DiffusionMaker(settings, "generate"))
        case OpenAIGeneration():
            from actors.generation.openai_images import OpenAIImageMaker

            return OpenAIImageMaker(settings)
        case ScenesGeneration():
            from actors.embedded.image_maker import ScenesMaker

            return ThreadedImageMaker(ScenesMaker(settings))


def _editor(settings: EditorSettings) -> AsyncImageMaker:
    match settings:
        case DiffusersEditor():
            from actors.generation.diffusion import DiffusionMaker

            return ThreadedImageMaker(DiffusionMaker(settings, "edit"))
        case OpenAIEditor():
            from actors.generation.openai_images import OpenAIImageMaker

            return OpenAIImageMaker(settings)


def available(settings: GenerationSettings, environ: Mapping[str, str] = os.environ) -> tuple[Readiness, str]:
    """Return whether these makers could be used here, and in one sentence why (not). Never shows a key.

    Nothing is loaded and nothing is asked of an endpoint or a hub.
    """
    parts: list[GenerationSettings | EditorSettings] = [settings]
    if not isinstance(settings, ScenesGeneration) and settings.editor is not None:
        parts.append(settings.editor)
    states = []
    for part in parts:
        try:
            states.append(_maker_available(part, environ))
        except UsageError as error:
            return "missing", str(error)
    state: Readiness = "ready" if all(here for here, _ in states) else "not asked"
    return state, " ".join(sentence for _, sentence in states)


def _maker_available(
    settings: GenerationSettings | EditorSettings, environ: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether the maker is on this machine, and the sentence."""
    match settings:
        case DiffusersGeneration() | DiffusersEditor():
            hub.require("the diffusers backend", "torch", "diffusers", "transformers", "accelerate")
            if hub.local_folder(settings.model) is not None:
                return True, f"{settings.model} on this machine, through diffusers."
            return False, f"{settings.model} from the Hugging Face hub or its cache (the hub was not asked)."
        case OpenAIGeneration() | OpenAIEditor():
            read_secrets(settings, environ)
            return False, f"{settings.model} at {settings.base_url} (the endpoint was not asked)."
        case _:
            return True, "scenes drawn from a fixed vocabulary, a stand-in."
