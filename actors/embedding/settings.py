"""Settings in `ray_config.yaml` for embeddings of images and words. Imports no model library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from actors.settings import Dtype, Placement, Settings


class SharedEmbedding(Settings):
    """Settings of every embedder: where it runs and what it remembers."""

    placement: Placement = Placement()
    remembered_mb: float = Field(256.0, ge=0)
    """Megabytes of embeddings kept in memory by each replica; all are kept on disk."""


class BuiltinEmbedding(SharedEmbedding):
    """A stand-in without an image-text model: it knows the words of the embedded classifiers only."""

    backend: Literal["builtin"] = "builtin"
    sees: Literal["auto", "scenes", "photographs"] = "auto"
    """`scenes`: the concept net's concepts and backgrounds. `photographs`: the thousand classes of ImageNet
    and their kinds. `auto`: scenes of `scenes:SIZE:SEED`, photographs of other data sets.
    """


class TrainedEmbedding(SharedEmbedding):
    """Settings of every trained image-text model."""

    model: str
    templates: tuple[str, ...] = ()
    """Sentences around a word, at `{}`; a word's embedding is the mean of theirs. Empty: the model's usual
    one.
    """
    present_above: float | None = Field(None, ge=-1, le=1)
    """Cosine from which an image counts as showing a word; null takes the most similar images."""
    check: bool = True
    """Refuse a model that confuses a red picture with a blue one: such weights are random or broken."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Dtype = "float32"
    """Lower precision moves similarities in the third digit."""
    max_batch: int = Field(32, ge=1, le=1024)
    """Images or sentences in one pass at most."""

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            if template.count("{}") != 1:
                raise ValueError(f"a template has one {{}}, where the word goes, got {template!r}")
        return value


class ImageTextEmbedding(TrainedEmbedding):
    """An image-text model of transformers: CLIP, SigLIP, SigLIP 2, MetaCLIP 2."""

    backend: Literal["transformers"] = "transformers"
    model: str = "google/siglip2-base-patch16-224"
    """Hub id, or a folder of `save_pretrained`."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""


class OpenClipEmbedding(TrainedEmbedding):
    """An image-text model of open_clip."""

    backend: Literal["open_clip"] = "open_clip"
    model: str = "ViT-B-16:laion2b_s34b_b88k"
    """`ARCHITECTURE:WEIGHTS`, `hf-hub:OWNER/NAME`, or `local-dir:FOLDER` of an `open_clip_config.json`."""


EmbeddingSettings = Annotated[
    BuiltinEmbedding | ImageTextEmbedding | OpenClipEmbedding, Field(discriminator="backend")
]
