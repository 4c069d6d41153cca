"""Images for a client, within what clients take: few, small, and light.

Clients drop or garble results with large or many images. At most eight are sent, of at most 512 pixels a side
and 700 kB together; more become contact sheets, on which each stands under its name and activation.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from actors.images import Image

MOST_PICTURES = 8
LONGEST_SIDE = 512
MOST_CHARACTERS = 680_000
"""Of all pictures of one result in base64: below 700 kB with the text beside them."""
_LEAST_COLUMNS = 3
_CAPTION = 14
"""Pixels above a tile for its caption."""
_TRIALS = ((85, 512), (70, 512), (60, 384), (50, 256), (30, 192))
"""JPEG quality and longest side, one after another until the pictures are light enough."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image with the short text that stands above it on a contact sheet."""

    image: Image
    caption: str


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A JPEG in base64, and how many images it shows."""

    data: str
    n_images: int
    media_type: str = "image/jpeg"


def encode(images: Sequence[Captioned]) -> list[EncodedPicture]:
    """Return the images as pictures, in order: one each, or on contact sheets where they are too many."""
    if len(images) <= MOST_PICTURES:
        pictures = [(each.image.to_pil(), 1) for each in images]
    else:
        columns = max(_LEAST_COLUMNS, math.ceil(math.sqrt(len(images) / MOST_PICTURES)))
        size = columns**2
        groups = [images[start : start + size] for start in range(0, len(images), size)]
        pictures = [(_sheet(group, columns), len(group)) for group in groups]
    encoded: list[EncodedPicture] = []
    for quality, side in _TRIALS:
        encoded = [EncodedPicture(_jpeg(picture, quality, side), count) for picture, count in pictures]
        if sum(len(each.data) for each in encoded) <= MOST_CHARACTERS:
            break
    return encoded


def _sheet(images: Sequence[Captioned], columns: int) -> PIL.Image.Image:
    side = LONGEST_SIDE // columns
    rows = math.ceil(len(images) / columns)
    sheet = PIL.Image.new("RGB", (columns * side, rows * side), "white")
    pen, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(11)
    for number, each in enumerate(images):
        left, top = number % columns * side, number // columns * side
        tile = each.image.to_pil()
        tile.thumbnail((side - 2, side - _CAPTION - 2), PIL.Image.Resampling.LANCZOS)
        pen.text((left + 2, top), each.caption, fill="black", font=font)
        sheet.paste(tile, (left + 1, top + _CAPTION))
    return sheet


def _jpeg(picture: PIL.Image.Image, quality: int, side: int) -> str:
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()
