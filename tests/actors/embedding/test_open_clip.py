"""open_clip's models embed as open_clip does, and are never silently random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.embedding.factory import build_embedder
from actors.embedding.settings import OpenClipEmbedding
from actors.errors import UsageError
from actors.images import Image

TOWER = {"width": 16, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of open_clip's own class, with random weights."""
    from actors.vision_libraries import import_torchvision

    import_torchvision()
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("open-clip")
    model: dict[str, Any] = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "head_width": 8, "width": 16, "layers": 2},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, **TOWER},
    }
    look = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": look}))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**model).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def settings(model: str, **more: object) -> OpenClipEmbedding:
    return OpenClipEmbedding.model_validate({"model": model, "check": False, "device": "cpu", **more})


def unit(rows: Any) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def test_images_and_texts_are_embedded_as_by_open_clip(folder: Path) -> None:
    import open_clip
    import torch

    embedder = build_embedder(settings(f"local-dir:{folder}", templates=("a photo of a {}.", "a {}")), None)
    model, _, reads = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}")
    image = Image.from_pixels(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    with torch.inference_mode():
        seen = model.eval().encode_image(reads(image.to_pil())[None]).numpy()
        said = unit(model.encode_text(words(["a photo of a dog.", "a dog"])).numpy())
    np.testing.assert_allclose(embedder.images([image]), unit(seen), atol=1e-5)
    np.testing.assert_allclose(embedder.texts(["dog"])[0], unit(said.mean(0)), atol=1e-5)
    assert embedder.facts.dimensions == 12
    assert str(folder.parent) not in embedder.facts.name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B-16", "does not say which weights"),
        ("ViT-B-16:mine", "no weights 'mine' for ViT-B-16"),
        ("ViT-Z:laion2b_s34b_b88k", "no architecture 'ViT-Z'"),
    ],
)
def test_a_model_without_known_weights_is_refused(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_embedder(settings(model), None)
