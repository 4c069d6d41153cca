"""An image as a value with a content id, its provenance, and the codecs.

The id is a digest of the decoded pixels and their shape, so that two ways to the same pixels are one
image to every cache. Everything measured is raw uint8; JPEG is only for a model's or a person's eyes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import PIL.Image

from actors.errors import UsageError

MAX_SIDE = 8192
"""Longest side in pixels that is accepted from outside: larger headers are refused before decoding."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


class ImageDecodeError(UsageError):
    """Bytes that should hold an image do not."""


def content_id(pixels: np.ndarray) -> str:
    """Return the id of uint8 (H, W, 3) pixels: 32 hex digits of BLAKE2b-128 over shape and bytes."""
    digest = hashlib.blake2b(f"{pixels.shape[0]}x{pixels.shape[1]}:".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """RGB pixels, uint8 (H, W, 3), read-only, with their content id. Equal when the ids are equal.

    `painted` tells how a masked image was made, where that is known: a store keeps the mask alone then. It does not
    travel between processes.
    """

    pixels: np.ndarray
    id: str
    painted: Painted | None = None

    @classmethod
    def from_pixels(cls, pixels: np.ndarray, painted: Painted | None = None) -> Image:
        """Copy `pixels` unless they are already contiguous and read-only.

        Raises:
            UsageError: If the array is not uint8 (H, W, 3) with both sides in 1..MAX_SIDE.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UsageError(f"an image must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
        if not (1 <= pixels.shape[0] <= MAX_SIDE and 1 <= pixels.shape[1] <= MAX_SIDE):
            raise UsageError(f"an image's sides must be in 1..{MAX_SIDE}, got {pixels.shape[:2]}")
        if pixels.flags.writeable or not pixels.flags.c_contiguous:
            pixels = np.array(pixels, order="C")
            pixels.flags.writeable = False
        return cls(pixels, content_id(pixels), painted)

    @classmethod
    def from_pil(cls, image: PIL.Image.Image) -> Image:
        """Convert to RGB; transparent parts become white, as on a page, and 16 bits a pixel become 8.

        Raises:
            ImageDecodeError: If the pixels are numbers of no known range.
        """
        if image.mode == "F":
            raise ImageDecodeError(
                "its pixels are floating-point numbers, whose black and white nobody knows"
            )
        if image.mode == "I":
            raise ImageDecodeError("its pixels are numbers of 32 bits, whose black and white nobody knows")
        if image.mode.startswith("I;16"):
            # Pillow's own conversion would cut everything above 255 off, and so leave white.
            image = PIL.Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            page = PIL.Image.new("RGBA", rgba.size, "white")
            image = PIL.Image.alpha_composite(page, rgba)
        return cls.from_pixels(np.asarray(image.convert("RGB")))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def to_pil(self) -> PIL.Image.Image:
        return PIL.Image.fromarray(self.pixels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Image({self.id[:8]}, {self.size[0]}x{self.size[1]})"


@dataclass(frozen=True, eq=False, slots=True)
class Painted:
    """A mask, uint8 (H, W), laid on a picture of the same size (`actors.masks.lay`)."""

    picture: Image
    mask: np.ndarray


def decode(data: bytes, *, formats: Sequence[str] = _FORMATS) -> Image:
    """Return the image in encoded bytes (one of `formats`, all that are understood by default); its first frame.

    Raises:
        ImageDecodeError: If the bytes are damaged, of another format, or larger than MAX_SIDE.
    """
    try:
        with PIL.Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
            if max(image.size) > MAX_SIDE:
                raise ImageDecodeError(f"an image's sides must be at most {MAX_SIDE}, got {image.size}")
            image.load()
            return Image.from_pil(image)
    except ImageDecodeError:
        raise
    except PIL.UnidentifiedImageError:
        # Pillow's words name an address in memory, which differs each time.
        raise ImageDecodeError(
            f"not a readable image: {len(data)} bytes in none of the formats {', '.join(formats)}"
        ) from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        raise ImageDecodeError(f"not a readable image: {type(error).__name__}: {error}") from error


def encode_jpeg(image: Image, quality: int = 90, max_side: int | None = None) -> bytes:
    """Return JPEG bytes, shrunk so that the longer side is at most `max_side` pixels."""
    picture = image.to_pil()
    if max_side is not None and max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def encode_png(image: Image) -> bytes:
    """Return lossless PNG bytes at a fast compression level."""
    buffer = io.BytesIO()
    image.to_pil().save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_url(data: bytes, mime: str) -> str:
    """Return `data` as a base64 data URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


Source = Literal["dataset", "generated", "edited", "masked", "program", "unknown"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an image came from; plain JSON values, so that it can be stored beside the image.

    `recipe` is whatever lets the maker make it again or edit it exactly (for the scenes backend, the
    scene itself); `notes` are the maker's own warnings, such as words that could not be drawn.
    """

    source: Source
    maker: str = ""
    prompt: str = ""
    seed: int | None = None
    edits: tuple[str, ...] = ()
    parent: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        values = json.loads(text)
        values["edits"], values["notes"] = tuple(values["edits"]), tuple(values["notes"])
        return cls(**values)
