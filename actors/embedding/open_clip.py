"""Image-text models of open_clip, with the tokenizer and the preprocessing that come with their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from actors import hub
from actors.embedding.image_text import USUAL_TEMPLATES, TrainedEmbedder
from actors.embedding.settings import OpenClipEmbedding
from actors.errors import UsageError


class OpenClipEmbedder(TrainedEmbedder):
    """An image-text model of open_clip on one device.

    Raises (when built):
        MissingDependencyError: Without open_clip.
        UsageError: An unknown architecture or weights, a model that confuses colors, an unreachable hub.
    """

    def __init__(self, settings: OpenClipEmbedding) -> None:
        hub.require("an image-text model of open_clip", "open_clip", install='pip install "maia[open-clip]"')
        from actors.runtime import pick_device, set_threads
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        if settings.placement.threads is not None:
            set_threads(settings.placement.threads)
        self._device = str(pick_device(settings.device))
        self._dtype = hub.loading_dtype(settings.dtype, self._device)
        with hub.translated_errors(settings.model), hub.quick_when_offline():
            self._load(settings.model)
        super().__init__(settings, f"{_short(settings.model)}@{_digest(self._model)}", USUAL_TEMPLATES)

    def _load(self, name: str) -> None:
        import open_clip

        architecture, tag = (name, None) if name.startswith(hub.OPEN_CLIP_FOLDERS) else _known(name)
        # OpenAI's weights need another activation function than their architecture names, which open_clip
        # only warns of.
        quick = bool(tag) and open_clip.pretrained.get_pretrained_cfg(architecture, tag).get(
            "quick_gelu", False
        )
        made = open_clip.create_model_and_transforms(architecture, tag, force_quick_gelu=quick)
        model: Any = made[0]
        self._reads: Any = made[2]
        self._model = model.to(self._device, self._dtype).eval()
        self._tokenizer: Any = open_clip.get_tokenizer(architecture)

    def _embed_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        import torch

        read = torch.stack([self._reads(picture) for picture in pictures]).to(self._device, self._dtype)
        with torch.inference_mode():
            return _rows(self._model.encode_image(read))

    def _embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return _rows(self._model.encode_text(self._tokenizer(list(sentences)).to(self._device)))


def _known(name: str) -> tuple[str, str]:
    """Return the architecture and the weights that `ARCHITECTURE:WEIGHTS` names.

    Raises:
        UsageError: If open_clip does not know them. Without weights it would give a random model.
    """
    import open_clip

    architecture, _, tag = name.partition(":")
    known = open_clip.list_pretrained_tags_by_model(architecture)
    if architecture not in open_clip.list_models():
        raise UsageError(
            f"open_clip has no architecture {architecture!r}.",
            "Write ARCHITECTURE:WEIGHTS, such as ViT-B-16:laion2b_s34b_b88k; "
            "open_clip.list_pretrained() has all.",
        )
    if tag not in known:
        raise UsageError(
            f"open_clip has no weights {tag!r} for {architecture}."
            if tag
            else f"{name!r} does not say which weights.",
            f"Write {architecture}:WEIGHTS with one of {', '.join(known)}."
            if known
            else f"Use hf-hub:OWNER/NAME or local-dir:FOLDER: open_clip has no weights for {architecture}.",
        )
    return architecture, tag


def _short(name: str) -> str:
    """Return a name without the path of a folder."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("local-dir:") else name


def _digest(model: Any) -> str:
    """Return 16 hex digits of a model's weights."""
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _rows(features: Any) -> np.ndarray:
    rows: np.ndarray = features.float().cpu().numpy()
    return rows
