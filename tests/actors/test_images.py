"""Encoded pictures become upright RGB of bounded size, whatever their format and mode; the rest is refused by
name.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from actors import images
from actors.images import Image, ImageDecodeError, decode, looks_like_image, preview


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 36, seed: int = 0) -> PIL.Image.Image:
    """Large patches, which every codec keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.NEAREST)


def oriented(value: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_viewers_turn_it(kind: str, orientation: int) -> None:
    """All eight EXIF orientations, by Pillow's own transposition as the oracle."""
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(noise(), kind, exif=oriented(orientation), **lossless)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data).pixels, np.asarray(expected.convert("RGB")))


def test_a_photograph_taken_upright_is_upright_in_its_preview_too() -> None:
    """The thumbnail of a turned JPEG is that of the turned picture."""
    picture = noise(240, 360)
    turned = preview(encoded(picture, "JPEG", exif=oriented(6), quality=95)).thumbnail
    upright = preview(encoded(picture.transpose(PIL.Image.Transpose.ROTATE_270))).thumbnail
    # Quality 95 moves the mean of a cell by a level or two of 255.
    assert np.abs(turned.astype(int) - upright).mean() < 3


def test_jpegs_of_every_kind_have_the_pixels_that_pillow_gives_them() -> None:
    """Content ids and what is measured do not depend on which decoder is installed."""
    rng = np.random.default_rng(0)
    soft = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(soft).resize((203, 151), PIL.Image.Resampling.BICUBIC)
    options: list[dict[str, object]] = [{"subsampling": kind} for kind in ("4:4:4", "4:2:2", "4:2:0")]
    options += [{"progressive": True}, {"keep_rgb": True}, {"exif": oriented(6)}, {"exif": oriented(1)}]
    jpegs = [encoded(picture, "JPEG", quality=90, **each) for each in options]
    jpegs += [encoded(picture.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    jpegs += [encoded(picture, "MPO"), jpegs[0] + b"more"]  # bytes behind the picture
    # A byte too many inside: libjpeg warns of it and reads on.
    end = jpegs[0].rindex(b"\xff\xd9")
    jpegs.append(jpegs[0][:end] + b"\0" * 9 + jpegs[0][end:])
    ours = [decode(data).pixels for data in jpegs]
    for data, pixels in zip(jpegs, ours, strict=True):
        expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(pixels, np.asarray(expected))
    with pytest.raises(ImageDecodeError, match="truncated"):
        decode(jpegs[0][: end // 2])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_orientation_leaves_the_picture_as_it_is() -> None:
    """Metadata that makes no sense costs no picture."""
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).size == (24, 36)


@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [("JPEG", 3168, 4752), ("JPEG", 700, 9000), ("PNG", 300, 9000), ("PNG", 9000, 1)],
)
def test_a_large_photograph_or_panorama_is_reduced_on_loading(kind: str, height: int, width: int) -> None:
    """Its sides end up within the limit, and its shape stays as far as whole pixels can hold it."""
    data = encoded(PIL.Image.new("RGB", (width, height), "teal"), kind)
    loaded = decode(data, 2048)
    assert 1000 < max(loaded.size) <= 2048
    factor = max(height, width) / max(loaded.size)
    assert [round(side * factor) for side in loaded.size] == pytest.approx([height, width], abs=factor)
    assert loaded.pixels[0, 0].tolist() == pytest.approx([0, 128, 128], abs=3)


@pytest.mark.parametrize(("height", "width"), [(20000, 20000), (60000, 60000), (1, 2**29)])
def test_a_decompression_bomb_is_refused_by_its_header(height: int, width: int) -> None:
    """The limit is named, and no pixel is decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    with pytest.raises(ImageDecodeError, match=f"{images.MAX_PIXELS:,} pixels"):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_white_is_white_whatever_the_bits_of_a_value(kind: str, bits: int) -> None:
    """Values of 8 and 12 bits in a file of 16 use the whole range of an image."""
    white = (1 << bits) - 1
    ramp = np.linspace(0, white, 256).round().astype(np.uint16).reshape(16, 16)
    data = encoded(PIL.Image.fromarray(ramp), kind)
    assert decode(data).pixels[..., 0].ravel().tolist() == list(range(256))
    assert preview(data).bits == bits


def test_numbers_of_no_known_range_are_refused() -> None:
    """Nobody knows which float or 32-bit integer is white."""
    floats = PIL.Image.fromarray(np.zeros((4, 4), np.float32))
    wide = PIL.Image.fromarray(np.zeros((4, 4), np.int32))
    for picture, words in ((floats, "floating-point"), (wide, "32 bits")):
        with pytest.raises(ImageDecodeError, match=words):
            decode(encoded(picture, "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "RGB", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    """An opaque picture looks the same in each mode, up to what the mode can hold."""
    picture = PIL.Image.new("RGB", (8, 8), "white")
    picture.paste("black", (0, 0, 4, 8))
    converted = picture.convert("LA").convert("PA") if mode == "PA" else picture.convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG"
    pixels = Image.from_pil(converted).pixels if mode == "PA" else decode(encoded(converted, kind)).pixels
    assert np.abs(pixels.astype(int) - np.asarray(picture)).max() <= 2


def test_transparent_pixels_become_white() -> None:
    """With an alpha channel, and with a transparent color of a palette."""
    clear = PIL.Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = PIL.Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0])
    for data in (encoded(clear), encoded(palette, "PNG", transparency=0)):
        assert (decode(data).pixels == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_each_format_is_read_and_known_by_its_first_bytes(kind: str) -> None:
    """The format is read from the content, not from the file's name."""
    data = encoded(noise(48, 60), kind)
    assert decode(data).size == (48, 60)
    assert looks_like_image(data[:32])


def test_phones_pictures_are_read_where_the_library_is() -> None:
    """HEIF through pillow-heif, and named with the fix where that is missing."""
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(noise(64, 64)).save(buffer)
    assert decode(buffer.getvalue()).size == (64, 64)
    assert looks_like_image(buffer.getvalue()[:32])


def test_a_thumbnail_before_the_orientation_does_not_hide_it() -> None:
    """Of a JPEG whose first segment holds a color JPEG, as Photoshop's do."""
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    small, whole = io.BytesIO(), io.BytesIO()
    picture.save(small, "JPEG")
    exif = PIL.Image.Exif()
    exif[274] = 6
    picture.save(whole, "JPEG", exif=exif)
    thumbnail, data = small.getvalue(), whole.getvalue()
    segment = b"\xff\xed" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    assert decode(data[:2] + segment + data[2:]).size == decode(data).size == (40, 24)
