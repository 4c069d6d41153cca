"""CLIP and SigLIP embed as the models' own classes do, with the prompts and padding of their training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.embedding.image_text import ImageTextEmbedder
from actors.embedding.settings import ImageTextEmbedding
from actors.errors import UsageError
from actors.images import Image
from tests.actors.embedding import tiny_models


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_clip(_folder(tmp_path_factory) / "clip")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_siglip(_folder(tmp_path_factory) / "siglip")


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from actors.vision_libraries import import_torchvision

    import_torchvision()
    return tmp_path_factory.mktemp("image-text")


COLORS = ((220, 20, 20), (20, 40, 220))


def settings(folder: Path, **more: object) -> ImageTextEmbedding:
    return ImageTextEmbedding.model_validate({"model": str(folder), "check": False, "device": "cpu", **more})


def unit(rows: object) -> np.ndarray:
    exact = np.asarray(rows, np.float64)
    return exact / np.linalg.norm(exact, axis=-1, keepdims=True)


def pictures() -> list[Image]:
    rng = np.random.default_rng(0)
    return [Image.from_pixels(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


def test_images_and_texts_of_clip_are_those_of_its_own_class(clip: Path) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    embedder = ImageTextEmbedder(settings(clip, templates=("a photo of a {}.", "a {}")))
    model = CLIPModel.from_pretrained(clip).eval()
    read = CLIPImageProcessor.from_pretrained(clip)
    words = AutoTokenizer.from_pretrained(clip)
    with torch.inference_mode():
        pixels = read(images=[image.to_pil() for image in pictures()], return_tensors="pt")
        seen = unit(model(input_ids=torch.tensor([[2, 5, 3]]), **pixels).image_embeds)
        each = [
            unit(model(**words([text], return_tensors="pt"), **pixels).text_embeds[0])
            for text in ("a photo of a dog.", "a dog")
        ]
    np.testing.assert_allclose(embedder.images(pictures()), seen, atol=1e-5)
    np.testing.assert_allclose(embedder.texts(["dog"])[0], unit(np.mean(each, 0)), atol=1e-5)
    assert embedder.facts.dimensions == 12


def test_a_text_has_the_same_embedding_alone_and_beside_a_longer_one(clip: Path, siglip: Path) -> None:
    for folder in (clip, siglip):
        embedder = ImageTextEmbedder(settings(folder))
        alone, beside = embedder.texts(["cat"])[0], embedder.texts(["a photo of a dog", "cat"])[1]
        np.testing.assert_allclose(alone, beside, atol=1e-5)


@pytest.mark.slow
def test_siglip_reads_lower_case_without_punctuation_padded_to_its_full_length(siglip: Path) -> None:
    import torch
    from transformers import AutoTokenizer, SiglipModel

    embedder = ImageTextEmbedder(settings(siglip))
    model = SiglipModel.from_pretrained(siglip).eval()
    words = AutoTokenizer.from_pretrained(siglip)
    text = "this is a photo of dog"
    with torch.inference_mode():
        padded = words([text], padding="max_length", max_length=24, return_tensors="pt").input_ids
        right = model.text_model(input_ids=padded).pooler_output
        wrong = model.text_model(input_ids=words([text], return_tensors="pt").input_ids).pooler_output
    found = embedder.texts(["Dog!"])
    np.testing.assert_allclose(found, unit(right), atol=1e-5)
    assert np.abs(found - unit(wrong)).max() > 1e-3


def test_a_model_that_takes_red_for_blue_is_refused(clip: Path) -> None:
    embedder = ImageTextEmbedder(settings(clip))
    red_and_blue = embedder.images([Image.from_pixels(np.full((8, 8, 3), c, np.uint8)) for c in COLORS])
    embedder._check_tells_colors_apart(red_and_blue)
    with pytest.raises(UsageError, match="confuses a red picture with a blue one"):
        embedder._check_tells_colors_apart(red_and_blue[::-1])


def test_a_model_of_another_kind_and_missing_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UsageError, match="no image-text model of a known kind but bert"):
        ImageTextEmbedder(settings(tmp_path / "bert"))
    part = tmp_path / "part"
    part.mkdir()
    for path in clip.iterdir():
        (part / path.name).write_bytes(path.read_bytes())
    weights = load_file(part / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="lacks 1 of its weights"):
        ImageTextEmbedder(settings(part))
