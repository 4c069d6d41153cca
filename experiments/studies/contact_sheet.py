"""Images for a terminal: inside it where it can show them, else as a file whose path is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from experiments.studies.notebook_html import CaptionedPicture

_SIDE, _GAP, _LINE = 168, 8, 15
"""Pixels of an image's side, between images, and of a line of words."""
_LINES = 3
"""Lines of words under an image: its value, and two of its prompt."""
_ACROSS = 6
_MOST = 24
"""Images of one sheet."""

InTerminal = Callable[[PIL.Image.Image], None]
"""Shows an image inside the terminal."""


def terminal_images() -> InTerminal | None:
    """Return what shows images inside this terminal, None where it cannot: it must speak kitty's protocol or
    sixel, as iTerm2 does, and `textual-image` must be installed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    try:
        # The import asks the terminal what it can do.
        from textual_image.renderable import Image, SixelImage, TGPImage
    except ImportError:
        return None
    if Image not in (SixelImage, TGPImage):
        return None

    def show(image: PIL.Image.Image) -> None:
        from rich.console import Console

        Console().print(Image(image))

    return show


class ContactSheets:
    """Shows the images of one session, those of one result together."""

    def __init__(self, folder: Path, in_terminal: InTerminal | None) -> None:
        """`folder` is where sheets are written that the terminal cannot show."""
        self._folder, self._in_terminal = folder, in_terminal

    def show(self, pictures: Sequence[CaptionedPicture]) -> str:
        """Show images; return the line that says where they are, "" where the terminal shows them."""
        if not pictures:
            return ""
        sheet = draw(pictures[:_MOST])
        if self._in_terminal is not None:
            self._in_terminal(sheet)
            return ""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 1 + sum(1 for _ in self._folder.glob("sheet-*.png"))
        path = self._folder / f"sheet-{number}.png"
        sheet.save(path)
        return f"images: {path}"


def draw(pictures: Sequence[CaptionedPicture]) -> PIL.Image.Image:
    """Return images in rows, each with its value and words below, an edited one beside the one before."""
    cells: list[CaptionedPicture] = []
    for shown in pictures:
        cells += [shown] if shown.before is None else [shown.before, shown]
    across = min(_ACROSS, len(cells))
    rows = -(-len(cells) // across)
    step = _SIDE + _GAP
    height = step + _LINES * _LINE
    sheet = PIL.Image.new("RGB", (across * step + _GAP, rows * height + _GAP), "white")
    pen, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(12)
    for place, shown in enumerate(cells):
        left, top = _GAP + place % across * step, _GAP + place // across * height
        picture = shown.image.convert("RGB")
        picture.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top))
        lines = [shown.value, *_broken(shown.words, font)]
        for number, line in enumerate(filter(None, lines)):
            pen.text((left, top + _SIDE + number * _LINE), line, "black", font)
    return sheet


def _broken(words: str, font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont) -> list[str]:
    """Return words in lines as wide as an image, as many as there is room for."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > _SIDE:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines[: _LINES - 1]
