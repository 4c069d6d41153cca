"""From values to files: the template environment, how numbers are written, and assets.

Every template escapes what it is given. Only markup made here and by the highlighter is passed as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from actors.images import ImageDecodeError
from agents.records import run_files
from agents.records.journal import MOST_PIXELS, stored_image
from agents.records.store import Store, finite
from experiments.records import numbers
from experiments.report.verdicts import SENTENCES
from experiments.setup.console import counted, money

_HERE = Path(__file__).parent
ASSETS = _HERE / "assets"
_CODE = re.compile(r"`([^`\n]+)`")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""All but tabs and the ends of lines: a terminal that shows a page's file would obey them."""


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        anchor=anchor,
        figure=figure,
        money=money,
        amount=_known(numbers.thousands),
        counted=_counted,
        seconds=_known(numbers.duration),
        percent=_known(numbers.percent),
        e_value=_known(numbers.e_value),
        highlight=highlight,
        code=code,
    )
    made.globals["meanings"] = SENTENCES
    return made


def anchor(name: str) -> str:
    """Return a name as the id of an element: "e-value" is `e-value`, "Drawn as asked" `drawn-as-asked`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def figure(value: float | None, digits: int = 2) -> str:
    """Return a measured value with `digits` decimals, a dash if there is none."""
    if value is None:
        return "–"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 0.5 * 10**-digits):
        return numbers.power(value)
    return f"{value:.{digits}f}".replace("-", "−")


def _known(form: Callable[[float], str]) -> Callable[[float | None], str]:
    """Return a form of numbers that writes a dash where there is none."""
    return lambda value: "–" if value is None else form(value)


def code(words: str) -> Markup:
    """Return text as HTML, with what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(words))))


def _counted(number: float | None, noun: str) -> str:
    """Return a number of things in words, with a dash where it is unknown."""
    return f"– {noun}s" if number is None else counted(int(number), noun)


def highlight(program: str) -> Markup:
    """Return Python as HTML spans; the highlighter escapes the text."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(program, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)))


def as_script(name: str, value: Any) -> str:
    """Return a script that sets a constant: a page opened from a file may not fetch JSON.

    ASCII only, and without `<`, `>` and `&`, so that the text is inert wherever it ends up.
    """
    return f"const {name} = {script_value(value)};\n"


def script_value(value: Any) -> str:
    """Return a value as a script has it, inert as `as_script` says; null for numbers that are not finite."""
    try:
        coded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        coded = json.dumps(finite(value), separators=(",", ":"))
    for character in "<>&":
        coded = coded.replace(character, f"\\u{ord(character):04x}")
    return coded


def render(template: str, /, **values: Any) -> str:
    """Return a page. Control characters of a model or a run, which no page may hold, are replaced."""
    page = environment().get_template(template).render(**values)
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", page)


def write(store: Store, key: str, content: str) -> None:
    """Replace a file of the report in one step: a reader sees the old page or the new one.

    Raises:
        RecordError: If the folder of the key is a link.
        OSError: If it cannot be written.
    """
    run_files.replace_file(store.root, key, content.encode("utf-8", "replace"))


class SmallerPictures:
    """Stored pictures in a quarter of their bytes, until so many pixels were encoded that a page takes no
    longer: files of kilobytes may hold millions.
    """

    def __init__(self, quality: int, method: int, most_pixels: int = 1 << 28) -> None:
        self._options, self._left = {"quality": quality, "method": method}, most_pixels

    def of(self, data: bytes) -> bytes:
        """Return a picture, or the data as they are: of one that is damaged, or would take too long."""
        smaller = io.BytesIO()
        try:
            image = stored_image(data, min(self._left, MOST_PIXELS))
        except ImageDecodeError:
            return data
        self._left -= image.size[0] * image.size[1]
        image.to_pil().save(smaller, "WEBP", **self._options)
        return smaller.getvalue()


@cache
def edition() -> str:
    """Return the digest of the report's own code: pages of another edition are written again."""
    digest = hashlib.sha256()
    for path in sorted(_HERE.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js", ".svg"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_assets(store: Store, folder: str = "report/") -> list[str]:
    """Write styles and scripts into `assets` of a folder unless the very same are there; return their keys.

    Whoever made the run may have put others in their place.
    """
    keys = []
    for source in sorted(ASSETS.iterdir()):
        keys.append(f"{folder}assets/{source.name}")
        content = source.read_bytes()
        if store.status(keys[-1]) is None or store.get(keys[-1]) != content:
            run_files.replace_file(store.root, keys[-1], content)
    return keys
