"""CLIP, SigLIP, SigLIP 2 and MetaCLIP 2 through transformers: prompts and padding as each was trained.

CLIP (Radford et al. 2021) averages the unit-norm embeddings of several sentences around a word. SigLIP (Zhai
et al. 2023) and SigLIP 2 pool the last token, so a text that is not padded to the full length is silently
wrong; they were trained on lower-case text.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from actors import hub
from actors.embedding.base import EmbedderFacts, unit_norm
from actors.embedding.settings import ImageTextEmbedding, TrainedEmbedding
from actors.errors import UsageError
from actors.images import Image

_FAMILIES = ("clip", "siglip", "siglip2", "metaclip_2")
_TEMPLATES = {"siglip": ("this is a photo of {}.",), "siglip2": ("this is a photo of {}.",)}
USUAL_TEMPLATES = ("a photo of a {}.",)


class TrainedEmbedder:
    """What image-text models of every library share: batches, templates, and a check of their weights.

    Implements `Embedder`. A library's class loads the model and embeds one batch.
    """

    def __init__(self, settings: TrainedEmbedding, name: str, templates: tuple[str, ...]) -> None:
        self._name = settings.model
        self.max_batch = settings.max_batch
        self._templates = settings.templates or templates
        name = f"{name} {settings.dtype} {'|'.join(self._templates)}"
        self.facts = EmbedderFacts(name, 0, settings.present_above)
        words = self.texts(["red", "blue"])
        self.facts = EmbedderFacts(name, words.shape[1], settings.present_above)
        if settings.check:
            self._check_tells_colors_apart(words)

    def images(self, images: Sequence[Image]) -> np.ndarray:
        """As in `Embedder`."""
        rows = [
            self._embed_pictures([image.to_pil() for image in images[start : start + self.max_batch]])
            for start in range(0, len(images), self.max_batch)
        ]
        return unit_norm(np.concatenate(rows), self.facts.name)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """As in `Embedder`."""
        sentences = [each.format(text) for text in texts for each in self._templates]
        vectors = np.concatenate(
            [
                self._embed_sentences(sentences[start : start + self.max_batch])
                for start in range(0, len(sentences), self.max_batch)
            ]
        )
        each = unit_norm(vectors, self.facts.name).reshape(len(texts), len(self._templates), -1)
        return unit_norm(each.mean(1), self.facts.name)

    def _embed_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        """Return the embeddings of one batch, float32 (n, d), of any length."""
        raise NotImplementedError

    def _embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        """Return the embeddings of one batch, float32 (n, d), of any length."""
        raise NotImplementedError

    def _check_tells_colors_apart(self, words: np.ndarray) -> None:
        pictures = [
            Image.from_pil(PIL.Image.new("RGB", (224, 224), color))
            for color in ((220, 20, 20), (20, 40, 220))
        ]
        likeness = self.images(pictures) @ words.T
        if not (likeness[0, 0] > likeness[0, 1] and likeness[1, 1] > likeness[1, 0]):
            raise UsageError(
                f"{self._name!r} confuses a red picture with a blue one: its weights are random or "
                "broken, or its preprocessing does not fit.",
                "Check the folder, or set `check: false` to use it anyway.",
            )


class ImageTextEmbedder(TrainedEmbedder):
    """An image-text model of transformers on one device.

    Raises (when built):
        MissingDependencyError: Without transformers.
        UsageError: An unknown model, one of another kind, one that confuses colors, an unreachable hub, too
            little memory.
    """

    def __init__(self, settings: ImageTextEmbedding) -> None:
        hub.require("an image-text model", "torch", "torchvision", "transformers")
        from actors.runtime import pick_device, set_threads
        from actors.vision_libraries import import_torchvision

        import_torchvision()
        if settings.placement.threads is not None:
            set_threads(settings.placement.threads)
        self._settings = settings
        self._device = str(pick_device(settings.device))
        self._dtype = hub.loading_dtype(settings.dtype, self._device)
        folder = hub.resolve(settings.model, settings.revision)
        hub.check_memory(settings.model, hub.weights_bytes(folder, self._dtype.itemsize), self._device)
        with hub.translated_errors(settings.model):
            self._load(folder)
        name = hub.identity(settings.model, folder)
        super().__init__(settings, name, _TEMPLATES.get(self._family, USUAL_TEMPLATES))

    def _load(self, folder: Path) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        self._family = str(config.model_type)
        if self._family not in _FAMILIES:
            raise UsageError(
                f"{self._settings.model!r} is no image-text model of a known kind but {self._family}.",
                f"Use one of the kinds {', '.join(_FAMILIES)}, such as openai/clip-vit-base-patch32.",
            )
        self._length = int(config.text_config.max_position_embeddings)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._reads: Any = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = transformers.AutoModel.from_pretrained(
            folder, dtype=self._dtype, local_files_only=True, output_loading_info=True
        )
        self._model, loaded = model
        if missing := sorted(loaded["missing_keys"]):
            raise UsageError(
                f"{self._settings.model!r} lacks {len(missing)} of its weights, the first {missing[0]}.",
                "Save the whole model with save_pretrained: what is missing would be random.",
            )
        self._model = self._model.to(self._device).eval()

    def _embed_pictures(self, pictures: Sequence[PIL.Image.Image]) -> np.ndarray:
        import torch

        read = self._reads(images=pictures, return_tensors="pt").to(self._device)
        read["pixel_values"] = read["pixel_values"].to(self._dtype)
        with torch.inference_mode():
            return _pooled(self._model.get_image_features(**read))

    def canonical(self, text: str) -> str:
        """Return a sentence as the model was trained to read it."""
        if not self._family.startswith("siglip"):
            return text
        text = text.lower()
        if "gemma" not in type(self._tokenizer).__name__.lower():  # SigLIP 2 keeps punctuation
            text = text.translate(str.maketrans("", "", string.punctuation))
        return re.sub(r"\s+", " ", text).strip()

    def _embed_sentences(self, sentences: Sequence[str]) -> np.ndarray:
        import torch

        padded = "max_length" if self._family.startswith("siglip") else True
        read = self._tokenizer(
            [self.canonical(each) for each in sentences],
            padding=padded,
            max_length=self._length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        if padded == "max_length":
            # Trained without one: the padding is attended to.
            read.pop("attention_mask", None)
        read.pop("token_type_ids", None)
        with torch.inference_mode():
            return _pooled(self._model.get_text_features(**read))


def _pooled(features: Any) -> np.ndarray:
    """Return the pooled embedding, float32 (n, d): from transformers 5 on it is in an output object."""
    tensor = getattr(features, "pooler_output", features)
    pooled: np.ndarray = tensor.float().cpu().numpy()
    return pooled
