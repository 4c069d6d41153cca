"""An image as a value with a content id, its provenance, and the codecs.

The id is a digest of the decoded pixels and their shape, so that two ways to the same pixels are one
image to every cache. Everything measured is raw uint8; JPEG is only for a model's or a person's eyes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import PIL.Image

from actors.errors import UsageError

MAX_SIDE = 8192
"""Longest side of an `Image` in pixels; larger pictures are reduced while they are decoded."""

LOADED_SIDE = 2048
"""Longest side of a data set's pictures in pixels: several times what networks see, and little memory."""

MAX_PIXELS = 2**28
"""Pixels of an encoded picture at most (16,384 x 16,384): larger headers are refused before decoding."""

DECODING = 2
"""Version of what `decode` makes of the same bytes: part of the fingerprint of a data set.

2: EXIF orientation, 12-bit values, and reduction of large pictures.
"""

# Pillow refuses more than twice its limit by itself, and only warns of less.
PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
_LIMIT = f"a picture may have at most {MAX_PIXELS:,} pixels: reduce it first"
_MANY_PIXELS = 2**25
_one_large = threading.Lock()
"""Held while a very large picture is decoded whole: loaders are many, and each would take up to 1 GiB."""

_ORIENTATION = 0x0112
_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""The transposition that brings a picture upright, by its EXIF orientation (Exif 2.32, tag 274)."""
_MAY_BE_TURNED = (b"Exif\0", b"tiff:Orientation")
"""What a file contains that has an orientation, in EXIF or XMP."""
_START_OF_SCAN = 0xDA
"""The marker at which the header of a JPEG ends (ITU-T T.81, table B.1)."""


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

    `painted` says how a masked image was made, where that is known: a store keeps the mask alone then. It
    does not travel between processes.
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
        """Convert to RGB; transparent parts become white, as on a page, and deep pixels get 8 bits.

        Raises:
            ImageDecodeError: If the pixels are numbers of no known range.
        """
        return cls.from_pixels(np.asarray(_rgb(image)))

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


def decode(
    data: bytes,
    longest: int = MAX_SIDE,
    *,
    formats: Sequence[str] | None = None,
    most_pixels: int = MAX_PIXELS,
) -> Image:
    """Return the image in encoded bytes, upright, in RGB; of several frames the first.

    Formats (all, or those named): PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM, AVIF, JPEG 2000, and HEIF where
    pillow-heif is installed. A picture with a side of more than `longest` pixels is reduced by a whole
    factor, a JPEG while it is decoded.

    Raises:
        ImageDecodeError: If the bytes are damaged, of another format, or hold more than `most_pixels`.
    """
    if most_pixels < MAX_PIXELS:
        with _opened(data, formats) as image:
            if image.width * image.height > most_pixels:
                raise ImageDecodeError(
                    f"it has {image.width} x {image.height} pixels; at most {most_pixels:,} are taken."
                )
    pixels = decode_pixels(data, longest, formats)
    pixels.flags.writeable = False  # they are nobody else's: no copy is needed
    return Image.from_pixels(pixels)


def decode_pixels(data: bytes, longest: int, formats: Sequence[str] | None = None) -> np.ndarray:
    """Return the pixels of what `decode` returns, uint8 (H, W, 3), without the time that their id takes.

    Raises:
        ImageDecodeError: As `decode` does.
    """
    if "JPEG" in (formats or _FORMATS) and (pixels := _plain_jpeg(data, longest)) is not None:
        return pixels
    with _opened(data, formats) as image:
        if (factor := -(-max(image.size) // longest)) > 1:
            image.draft(image.mode, (max(1, image.width // factor), max(1, image.height // factor)))
        picture, turn = _loaded(image)
        if (factor := -(-max(picture.size) // longest)) > 1:
            picture = picture.reduce(factor)
        return np.asarray(picture if turn is None else picture.transpose(turn))


def _plain_jpeg(data: bytes, longest: int) -> np.ndarray | None:
    """Return the pixels of a sound JPEG in color or gray that need not be turned or reduced, else None.

    They are those that Pillow gives, whose libjpeg-turbo is simplejpeg's, too; without Pillow's copies.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    header = _jpeg_header(data)
    if any(name in header for name in _MAY_BE_TURNED):
        return None
    if (simplejpeg := _simplejpeg()) is None:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if "K" in colors or max(height, width) > longest or height * width > _MANY_PIXELS:
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(data)
    except ValueError:  # damaged, if only by a byte too many
        return None
    return pixels


def _jpeg_header(data: bytes) -> bytes:
    """Return a JPEG's segments before its first scan; everything where they do not follow one another."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 4:
        if data[at + 1] == _START_OF_SCAN:
            return data[:at]
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data


@cache
def _simplejpeg() -> ModuleType | None:
    if find_spec("simplejpeg") is None:
        return None
    import simplejpeg

    return cast("ModuleType", simplejpeg)


@contextlib.contextmanager
def _opened(data: bytes, formats: Sequence[str] | None = None) -> Iterator[PIL.Image.Image]:
    """Open an encoded picture without decoding its pixels; what goes wrong inside is an ImageDecodeError."""
    known = (*_FORMATS, "HEIF") if heif_is_read() else _FORMATS
    try:
        with PIL.Image.open(io.BytesIO(data), formats=tuple(formats or known)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageDecodeError(f"it has {image.width} x {image.height} pixels; {_LIMIT}")
            yield image
    except ImageDecodeError:
        raise
    except PIL.UnidentifiedImageError:
        # Pillow's words name an address in memory, which differs each time.
        raise ImageDecodeError(_unidentified(data, formats or known)) from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise ImageDecodeError(_LIMIT) from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        raise ImageDecodeError(f"not a readable image: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class Preview:
    """Features that copies of a picture share and other pictures do not."""

    digest: bytes
    """BLAKE2b-128 of its encoded bytes, or of its pixels."""
    thumbnail: np.ndarray
    """uint8 (THUMBNAIL, THUMBNAIL, 3): the means of as many cells, for a picture of any shape."""
    bits: int = 8
    """Bits of its values where they are fewer than its file has room for."""


THUMBNAIL = 16
_GLANCE = 4 * THUMBNAIL


def preview(data: bytes) -> Preview:
    """Return the preview of an encoded picture; a JPEG is decoded at down to an eighth of its size for it.

    Raises:
        ImageDecodeError: As `decode` does.
    """
    with _opened(data) as image:
        # A part of the last row and column of a reduced picture may lie outside of the picture.
        drafted = image.draft(image.mode, (_GLANCE, _GLANCE))
        box = None if drafted is None else drafted[1]
        picture, turn = _loaded(image)
        small = thumbnail(picture, THUMBNAIL, box)
        upright = np.asarray(small if turn is None else small.transpose(turn))
        return Preview(_digest(data), upright, picture.info.get("bits", 8))


def preview_of(pixels: np.ndarray) -> Preview:
    """Return the preview of an image that is not encoded, uint8 (H, W, 3)."""
    small = thumbnail(PIL.Image.fromarray(pixels), THUMBNAIL)
    return Preview(_digest(f"{pixels.shape}".encode() + pixels.tobytes()), np.asarray(small))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def thumbnail(
    picture: PIL.Image.Image, side: int, box: tuple[float, float, float, float] | None = None
) -> PIL.Image.Image:
    """Return a square of `side` pixels of a picture of mode RGB, or of a part of it, of any shape."""
    return picture.resize((side, side), PIL.Image.Resampling.BILINEAR, box, reducing_gap=3.0)


@cache
def heif_is_read() -> bool:
    """Return whether HEIF (.heic) can be decoded here, and have Pillow do so if it can."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def is_heif(head: bytes) -> bool:
    """Return whether a file that begins with `head` (12 bytes) is HEIF; AVIF, of the same family, is not."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def looks_like_image(head: bytes) -> bool:
    """Return whether a file that begins with `head` (32 bytes) is of a format that `decode` reads."""
    netpbm = head[:1] == b"P" and head[1:2] in _NETPBM and head[2:3].isspace()
    return (
        head.startswith(_MAGIC)
        or head[8:12] == b"WEBP"
        or head[4:12] == b"ftypavif"
        or netpbm
        or is_heif(head)
    )


_MAGIC = (
    *(b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*"),
    *(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "),
)
_NETPBM = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})


def _unidentified(data: bytes, formats: Sequence[str]) -> str:
    if is_heif(data[:12]) and not heif_is_read():
        return 'a HEIF picture; it needs pillow-heif: pip install "maia[heif]"'
    return f"not a readable image: {len(data)} bytes in none of the formats {', '.join(formats)}"


def _loaded(image: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Transpose | None]:
    """Load an opened picture and return it in RGB, and what brings it upright."""
    deep_color = image.mode == "RGB" and ";16" in str([tile.args for tile in getattr(image, "tile", ())])
    with _one_large if image.width * image.height > _MANY_PIXELS else contextlib.nullcontext():
        image.load()
    turn = _turn(image)
    picture = _rgb(image)
    if deep_color and np.asarray(picture).max() < 16:
        # Pillow keeps the upper 8 of 16 bits.
        raise ImageDecodeError(
            "12-bit colors in a file of 16 bits: only 4 bits of them can be read. Convert it to 8"
        )
    return picture, turn


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """Return what brings a loaded picture upright, None if nothing is said that makes sense."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata that cannot be read says nothing; the pixels may be fine
        return None


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture of any mode in RGB; `info["bits"]` is 8 or 12 where that is what its 16-bit values
    hold.

    Raises:
        ImageDecodeError: If its pixels are numbers of no known range.
    """
    if image.mode == "F":
        raise ImageDecodeError("its pixels are floating-point numbers, of an unknown range")
    if image.mode == "I" and image.format != "PPM":  # PPM says the range: it is scaled to 16 bits
        raise ImageDecodeError("its pixels are numbers of 32 bits, of an unknown range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would cut everything above 255 off, and so leave white.
        values = np.asarray(image)
        # Few steps far apart: a dark picture must not be taken for one of fewer bits.
        bits = next(bits for bits in (8, 12, 16) if values.max() < 1 << bits)
        image = PIL.Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8)).convert("RGB")
        image.info = {"bits": bits}
        return image
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


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

    `recipe` is what lets the maker make it again or edit it exactly (for the scenes backend, the
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
