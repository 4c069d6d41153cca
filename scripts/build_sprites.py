"""Build the sprite atlas from the npm package `@lobehub/fluent-emoji-3d` (Microsoft Fluent emoji, MIT).

    npm pack @lobehub/fluent-emoji-3d && tar xzf lobehub-fluent-emoji-3d-*.tgz
    python -m scripts.build_sprites package

Writes `assets/sprites.webp` (one cell a concept, in table order, cropped and scaled to the cell) and
`assets/sprites.json` (cell size, columns, dominant colors). A few concepts without an emoji are drawn here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from actors.embedded.drawing.color import name_of
from actors.embedded.drawing.vocabulary import ASSETS, Concept, Vocabulary

CELL = 112
"""Side of a sprite in the atlas, pixels; objects are rarely drawn larger than 1.7 times that."""
COLUMNS = 24
_CANVAS = 512


def _file_of(glyph: str, folder: Path) -> Path:
    codes = [f"{ord(char):04x}" for char in glyph]
    bare = [code for code in codes if code != "fe0f"]
    for stem in ("-".join(codes), "-".join(bare), "-".join([*bare, "fe0f"])):
        path = folder / f"{stem}.webp"
        if path.exists():
            return path
    raise SystemExit(f"{folder} has no sprite for {glyph} ({'-'.join(codes)})")


def _bar(draw: PIL.ImageDraw.ImageDraw, box: tuple[int, int, int, int], color: str, radius: int = 14) -> None:
    """Draw a rounded bar with a light upper and a dark lower edge."""
    x0, y0, x1, y1 = box
    r, g, b = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    draw.rounded_rectangle(box, radius, (int(r * 0.72), int(g * 0.72), int(b * 0.72)))
    draw.rounded_rectangle((x0, y0, x1 - 8, y1 - 8), radius, (r, g, b))


def _arch(draw: PIL.ImageDraw.ImageDraw) -> None:
    for i in range(9):
        start = 180 + i * 20
        color = ((196, 178, 150), (176, 156, 128))[i % 2]
        draw.pieslice((36, 30, 476, 470), start, start + 20, color, (140, 120, 96), 4)
    for y in range(250, 490, 48):
        for x in (36, 376):
            _bar(draw, (x, y, x + 100, y + 46), "#c4b296" if y // 48 % 2 else "#b09c80", 6)
    draw.ellipse((136, 130, 376, 370), (0, 0, 0, 0))
    draw.rectangle((136, 250, 376, 500), (0, 0, 0, 0))


def _stairs(draw: PIL.ImageDraw.ImageDraw) -> None:
    for i in range(5):
        left, top = 20 + i * 94, 420 - i * 92
        draw.rectangle((left, top, 490, top + 92), (170 - i * 8, 164 - i * 8, 168 - i * 6))
        draw.rectangle((left, top, 490, top + 24), (226, 220, 214))
        draw.line((left, top + 24, 490, top + 24), (120, 116, 122), 5)


def _fence(draw: PIL.ImageDraw.ImageDraw) -> None:
    for y in (220, 370):
        _bar(draw, (10, y, 502, y + 44), "#d9c7a8", 8)
    for x in range(22, 480, 98):
        draw.polygon(((x, 130), (x + 38, 70), (x + 76, 130), (x + 76, 490), (x, 490)), (176, 150, 112))
        draw.polygon(((x, 130), (x + 38, 78), (x + 66, 130), (x + 66, 482), (x, 482)), (238, 222, 194))


def _bookshelf(draw: PIL.ImageDraw.ImageDraw) -> None:
    _bar(draw, (50, 10, 462, 502), "#8b5a33", 12)
    colors = ("#d8434f", "#3f7fd0", "#4fae63", "#efc04a", "#7d57b8", "#e98a3c")
    for shelf in range(3):
        top = 40 + shelf * 152
        draw.rectangle((78, top, 426, top + 126), (74, 44, 24))
        x, i = 86, shelf * 2
        while x < 392:
            width, drop = 28 + (i * 13) % 22, (i * 17) % 34
            _bar(draw, (x, top + 10 + drop, x + width, top + 126), colors[i % 6], 5)
            x, i = x + width + 4, i + 1


def _skirt(draw: PIL.ImageDraw.ImageDraw) -> None:
    _bar(draw, (150, 60, 362, 112), "#8f2f6b", 14)
    for i in range(7):
        x0, x1 = 150 + i * 30, 150 + (i + 1) * 30
        y0, y1 = 30 + i * 65, 30 + (i + 1) * 65
        color = ("#d6589f", "#b8417f")[i % 2]
        draw.polygon(((x0, 112), (x1, 112), (y1, 440), ((y0 + y1) // 2, 462), (y0, 440)), color)


_DRAWN: dict[str, Callable[[PIL.ImageDraw.ImageDraw], None]] = {
    "arch": _arch,
    "stairs": _stairs,
    "fence": _fence,
    "bookshelf": _bookshelf,
    "skirt": _skirt,
}


def sprite(concept: Concept, folder: Path) -> PIL.Image.Image:
    """Return the concept's RGBA sprite, cropped to what is visible and centered in a CELL-sided square."""
    if concept.glyph == "*":
        image = PIL.Image.new("RGBA", (_CANVAS, _CANVAS))
        _DRAWN[concept.name](PIL.ImageDraw.Draw(image))
    else:
        image = PIL.Image.open(_file_of(concept.glyph, folder)).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 if alpha > 12 else 0).getbbox()
    image = image.crop(box)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, PIL.Image.Resampling.LANCZOS)
    cell = PIL.Image.new("RGBA", (CELL, CELL))
    cell.paste(image, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    folder = parser.parse_args().package / "assets"
    concepts = Vocabulary((ASSETS / "concepts.txt").read_text("utf-8"), {}).concepts()
    rows = -(-len(concepts) // COLUMNS)
    atlas = PIL.Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    colors = {}
    for concept in concepts:
        image = sprite(concept, folder)
        atlas.paste(image, (concept.index % COLUMNS * CELL, concept.index // COLUMNS * CELL))
        pixels = np.asarray(image)
        colors[concept.name] = name_of(pixels[pixels[..., 3] > 128][:, :3])
    atlas.save(ASSETS / "sprites.webp", quality=82, alpha_quality=90, method=6)
    facts = {"cell": CELL, "columns": COLUMNS, "colors": colors}
    (ASSETS / "sprites.json").write_text(json.dumps(facts, indent=0) + "\n", "utf-8")
    print(f"{len(concepts)} sprites, {(ASSETS / 'sprites.webp').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
