"""Pictures stay within what clients take, however many and large the images are."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image
import pytest

from actors.images import Image
from experiments.mcp_server.pictures import Captioned, encode


def noise(side: int, seed: int) -> Captioned:
    """Return an image that JPEG cannot make small."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return Captioned(Image.from_pixels(pixels), f"i{seed}  1.00")


@pytest.mark.parametrize(("count", "side"), [(1, 2000), (8, 700), (9, 224), (15, 224), (40, 700), (100, 64)])
def test_pictures_are_few_small_and_light_and_show_every_image(count, side):
    pictures = encode([noise(side, seed) for seed in range(count)])
    assert len(pictures) <= 8
    assert sum(picture.n_images for picture in pictures) == count
    assert sum(len(picture.data) for picture in pictures) < 700_000
    for picture in pictures:
        decoded = PIL.Image.open(io.BytesIO(base64.b64decode(picture.data)))
        assert decoded.format == "JPEG"
        assert max(decoded.size) <= 512


def test_up_to_eight_images_are_sent_one_by_one_in_their_own_size():
    pictures = encode([noise(100, seed) for seed in range(8)])
    sizes = [PIL.Image.open(io.BytesIO(base64.b64decode(picture.data))).size for picture in pictures]
    assert sizes == [(100, 100)] * 8


def test_nothing_shown_is_no_picture():
    assert encode([]) == []
