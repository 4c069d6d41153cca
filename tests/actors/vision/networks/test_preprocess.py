"""Batches hold what the network's own preprocessing would have made of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from actors import vision_libraries
from actors.errors import UsageError
from actors.vision.networks.preprocess import WHOLE, Preprocess

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth image with detail, read-only as images are."""
    rng = np.random.default_rng(seed)
    small = PIL.Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), PIL.Image.Resampling.BICUBIC))
    pixels.flags.writeable = False
    return pixels


def reference(image: np.ndarray, preprocess: Preprocess, interpolation: str) -> torch.Tensor:
    vision_libraries.import_torchvision()
    import torchvision.transforms as transforms
    from torchvision.transforms import InterpolationMode

    assert preprocess.size is not None
    resize: Any = preprocess.resize or preprocess.size
    steps = [
        transforms.Resize(
            resize if preprocess.fit == "squash" else resize[0], InterpolationMode(interpolation)
        ),
        transforms.CenterCrop(preprocess.size),
        transforms.ToTensor(),
        transforms.Normalize(preprocess.mean, preprocess.std),
    ]
    result: torch.Tensor = transforms.Compose(steps)(PIL.Image.fromarray(image))
    return result


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (20, 23), (32, 32), (90, 31)])
def test_a_batch_equals_the_usual_transforms_within_a_gray_level(
    interpolation: str, shape: tuple[int, int]
) -> None:
    preprocess = Preprocess((28, 28), (32, 32), "cover", interpolation, MEAN, STD)
    image = photo(*shape)
    ours = preprocess.batch([image])[0]
    theirs = reference(image, preprocess, interpolation)
    gray_levels = ((ours - theirs) * 255 * torch.tensor(STD).view(3, 1, 1)).abs()
    assert ours.shape == (3, 28, 28)
    assert gray_levels.max() <= 2.01
    assert gray_levels.mean() < 0.3


def test_squash_ignores_the_aspect_ratio() -> None:
    preprocess = Preprocess((20, 30), None, "squash", "bilinear", MEAN, STD)
    image = photo(60, 40)
    assert preprocess.view(60, 40) == WHOLE
    difference = preprocess.batch([image])[0] - reference(image, preprocess, "bilinear")
    assert (difference.abs() * 255 * 0.4).max() <= 2.01


def test_contain_pads_with_what_the_network_takes_for_nothing() -> None:
    preprocess = Preprocess((40, 40), None, "contain", "bilinear", MEAN, STD)
    batch = preprocess.batch([photo(20, 40)])[0]
    assert batch[:, :9].abs().max() < 0.02
    assert batch[:, 20].abs().max() > 0.1
    top, left, bottom, right = preprocess.view(20, 40)
    assert (top, bottom) == (-0.5, 1.5)
    assert (left, right) == (0, 1)


def test_images_of_many_sizes_keep_their_order_in_a_batch() -> None:
    preprocess = Preprocess((16, 16), (18, 18), "cover", "bicubic", MEAN, STD)
    images = [photo(*shape, seed=seed) for seed, shape in enumerate([(30, 20), (18, 18), (30, 20), (64, 65)])]
    batch = preprocess.batch(images)
    for row, image in enumerate(images):
        assert torch.equal(batch[row], preprocess.batch([image])[0])
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_the_view_is_the_part_that_the_centre_crop_keeps() -> None:
    preprocess = Preprocess((224, 224), (256, 256))
    assert preprocess.view(224, 224) == (0.0625, 0.0625, 0.9375, 0.9375)
    top, left, bottom, right = preprocess.view(300, 600)
    assert (top, bottom) == (0.0625, 0.9375)
    assert left == pytest.approx(1 - right)
    assert right - left == pytest.approx(224 / 512)


def test_without_a_size_images_keep_their_own() -> None:
    preprocess = Preprocess(None, mean=MEAN, std=STD)
    assert preprocess.batch([photo(11, 13)]).shape == (1, 3, 11, 13)
    assert preprocess.view(11, 13) == WHOLE


def test_an_extreme_aspect_ratio_is_cut_to_the_input_size() -> None:
    preprocess = Preprocess((8, 8), (9, 9), "cover", "bilinear")
    assert preprocess.batch([photo(1, 300)]).shape == (1, 3, 8, 8)
    assert Preprocess((8, 8), None, "contain", "bilinear").batch([photo(1, 300)]).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(3, 700), (700, 3), (90, 2000)])
def test_the_far_ends_of_a_strip_are_not_resized_and_change_nothing(
    interpolation: str, shape: tuple[int, int]
) -> None:
    preprocess = Preprocess((24, 24), (26, 26), "cover", interpolation, (0, 0, 0), (1, 1, 1))
    image = photo(*shape)
    resized = preprocess._resized(image[None])
    assert max(resized.shape) < max(preprocess.scaled(*shape)) / 2
    scaled = preprocess.scaled(*shape)
    method = PIL.Image.Resampling[interpolation.upper()]
    whole = PIL.Image.fromarray(image).resize((scaled[1], scaled[0]), method)
    expected = preprocess._cropped(torch.from_numpy(np.array(whole)[None]), 24, 24)[0]
    found = preprocess.batch([image])[0].permute(1, 2, 0) * 255
    assert (found - expected).abs().mean() < 1.5


@pytest.mark.parametrize("bad", [{"interpolation": "magic"}, {"std": (1, 0, 1)}, {"mean": (0.5,)}])
def test_impossible_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Preprocess(**bad)
