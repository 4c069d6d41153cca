"""Masks show where a unit is active, and only there."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

from actors.errors import UsageError
from actors.images import Image, ImageDecodeError
from actors.masks import active_region, beneath, decode_mask, encode_mask, eroded, lay, paint

RED = (255, 0, 0)


def grey(height: int, width: int, value: int = 200) -> Image:
    return Image.from_pixels(np.full((height, width, 3), value, np.uint8))


def is_red(image: Image) -> np.ndarray:
    return (image.pixels == RED).all(axis=2)


def test_the_active_region_stays_bright_and_the_rest_is_darkened_to_a_quarter() -> None:
    image = grey(90, 60)
    map = np.zeros((3, 2), np.float16)
    map[0, 1] = 8
    painted = paint(image, map, 4.0)
    assert (painted.pixels[5, 55] == 200).all()
    assert (painted.pixels[80, 5] == 50).all()
    assert painted.size == image.size


def test_the_region_is_outlined_in_red_on_its_edge_only() -> None:
    map = np.zeros((5, 5), np.float16)
    map[2, 2] = 8
    painted = paint(grey(100, 100), map, 4.0)
    red, region = is_red(painted), active_region(map, 4.0, (100, 100))
    assert red.any()
    assert not (red & ~region).any()
    assert not red[50, 50]
    assert (painted.pixels[region & ~red] == 200).all()
    first = np.flatnonzero(region[50])[0]
    assert red[50, first]


def test_nothing_above_the_threshold_means_nothing_outlined_and_all_darkened() -> None:
    painted = paint(grey(30, 40), np.full((4, 3), 2.0, np.float16), 2.0)
    assert (painted.pixels == 50).all()


def test_a_vector_unit_is_active_everywhere_or_nowhere() -> None:
    active = paint(grey(30, 40), np.array([[3.0]], np.float16), 2.0)
    assert (active.pixels[15, 20] == 200).all()
    assert is_red(active)[0].all()
    assert (paint(grey(30, 40), np.array([[1.0]], np.float16), 2.0).pixels == 50).all()


def test_negative_activations_are_compared_as_they_are() -> None:
    map = np.array([[-5.0, -1.0]], np.float16)
    region = active_region(map, -3.0, (10, 20))
    assert not region[:, :5].any()
    assert region[:, 15:].all()


def test_pixels_outside_the_view_are_never_active() -> None:
    region = active_region(np.ones((2, 2), np.float16), 0.5, (100, 200), (0.1, 0.25, 0.9, 0.75))
    assert region[10:90, 50:150].all()
    assert region.sum() == 80 * 100


def test_a_view_beyond_the_image_is_cut_at_its_edges() -> None:
    map = np.zeros((3, 1), np.float16)
    map[0] = 1
    # The input was padded above and below: the top third of the map lies outside the image.
    region = active_region(map, 0.5, (100, 100), (-1.0, 0.0, 2.0, 1.0))
    assert not region[60:].any()
    assert active_region(np.ones((3, 1), np.float16), 0.5, (100, 100), (-1.0, 0.0, 2.0, 1.0)).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 7), (3, 3), (1000, 13)])
def test_images_of_any_size_can_be_painted(height: int, width: int) -> None:
    painted = paint(grey(height, width), np.ones((7, 5), np.float16), 0.5)
    assert is_red(painted)[0, 0]


def test_the_original_is_untouched() -> None:
    image = grey(20, 20)
    paint(image, np.ones((2, 2), np.float16), 0.5)
    assert (image.pixels == 200).all()


@pytest.mark.parametrize(
    "map", [np.ones(3, np.float16), np.ones((0, 3), np.float16), np.ones((1, 2, 3), np.float16)]
)
def test_a_map_that_is_not_two_dimensional_is_refused(map: np.ndarray) -> None:
    with pytest.raises(UsageError, match="activation map"):
        paint(grey(4, 4), map, 0.0)


def test_a_threshold_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UsageError, match="threshold"):
        paint(grey(4, 4), np.ones((2, 2), np.float16), float("nan"))


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 2.0])
def test_a_mask_makes_the_painted_pixels_again(threshold: float) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 70, 3), np.uint8)
    pixels[10:20], pixels[30:40] = RED, 0  # where painted and unpainted pixels are the same
    image = Image.from_pixels(pixels)
    painted = paint(image, rng.random((5, 7)), threshold)
    assert painted.painted is not None
    encoded = encode_mask(painted.painted.mask, image.id)
    assert beneath(encoded) == image.id
    assert lay(decode_mask(encoded), image) == painted


def test_laid_over_its_picture_an_encoded_mask_looks_as_painted() -> None:
    image = Image.from_pixels(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))
    painted = paint(image, np.eye(4), 0.5)
    assert painted.painted is not None
    with PIL.Image.open(io.BytesIO(encode_mask(painted.painted.mask, image.id))) as overlay:
        seen = PIL.Image.alpha_composite(image.to_pil().convert("RGBA"), overlay.convert("RGBA"))
    difference = np.asarray(seen.convert("RGB")).astype(int) - painted.pixels
    assert np.abs(difference).max() <= 1


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="size of its image"):
        lay(np.zeros((4, 4), np.uint8), grey(8, 8))


def test_a_stored_mask_of_other_shades_is_refused() -> None:
    with pytest.raises(ImageDecodeError, match="more than three shades"):
        decode_mask(encode_mask(np.full((4, 4), 3, np.uint8), "0123456789abcdef"))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (37, 61)])
def test_an_outline_is_what_scipys_minimum_filter_leaves_out(size: tuple[int, int], width: int) -> None:
    region = np.random.default_rng(width).random(size) < 0.97
    inner = ndimage.minimum_filter(region.view(np.uint8), 2 * width + 1, mode="constant", cval=0)
    assert np.array_equal(eroded(region, width), inner.view(bool))
