"""A page as one file that can be sent: styles, scripts and images are inside, links to other pages are not.

The policy stays as strict: only the very scripts and styles that the report has are let through, by digest.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import PIL.Image

from actors.errors import UsageError
from actors.images import ImageDecodeError
from agents.records.journal import slug, stored_image
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.records.lookup import find_unit
from experiments.report import pages, write_unit_page
from experiments.report.records import RunDirectory, mapping, sequence

_STYLE = re.compile(r'<link rel="stylesheet" href="[^"]*assets/([a-z]+\.css)">')
_SCRIPT = re.compile(r'<script( defer)? src="[^"]*assets/([a-z]+\.js)"></script>')
_ICON = re.compile(r'<link rel="icon"[^>]*>\n?')
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*(">)')
_FRAME = re.compile(r'<a class="frame" href="[^"]*">')
_STORED = re.compile(r'\b(src|data-plain)="(?:\.\./)*(blobs/[0-9a-f]{2}/[0-9a-f]{8,64}\.(webp|png))"')
_ELSEWHERE = re.compile(r' href="(?![#"]|data:)[^"]*"')
_QUALITY = 80
"""Of the pictures in a file, 0 to 100: the run keeps them without loss."""
_PREVIEW = (1200, 630)
"""Width and height of a preview, as those who show links ask for."""


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A page as one file, and the picture that stands for it where its address is shown."""

    page: Path
    preview: Path | None
    """None where the unit has no exemplar."""


def write_shared(named: Path, out: Path | None = None, address: str = "") -> SingleFile:
    """Write the page of the unit that `named` names, as DIR/UNIT, to a file, and its preview beside it.

    The file is named after the unit unless `out` names it.

    A preview is fetched by whoever shows a link, so it cannot be inside the page: the page names it only with
    the `address` at which `out` will be published.

    Raises:
        UsageError: If there is no such unit, or a file cannot be written.
    """
    unit = find_unit(named)
    run, folder = RunDirectory(unit.store.root), slug(unit.item.unit)
    page = write_unit_page(run.root, folder).read_text(encoding="utf-8")
    out = out or Path(f"{folder}.html")
    try:
        return _write(run, folder, page, out, address)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written: {error.strerror}.", "Name another file by --out."
        ) from error


def _write(run: RunDirectory, folder: str, page: str, out: Path, address: str) -> SingleFile:
    out.parent.mkdir(parents=True, exist_ok=True)
    preview = _preview(run, folder, out.with_suffix(".jpg"))
    named = ""
    if address and preview is not None:
        at = f"{address.rpartition('/')[0]}/{preview.name}"
        named = f'<meta property="og:image" content="{escape(at)}">\n'
    out.write_text(inline(run.store, page, named), encoding="utf-8")
    return SingleFile(out, preview)


def inline(store: Store, page: str, meta: str = "") -> str:
    """Return a page of the report with all that it refers to inside; what the run has no file of stays away.

    All text of a page is escaped, so that nothing but the report's own markup matches.
    """
    scripts: list[str] = []
    styles: list[str] = []
    images: dict[str, str] = {}
    smaller = pages.SmallerPictures(_QUALITY, method=2)

    def style(match: re.Match[str]) -> str:
        styles.append(_asset(match[1]))
        return f"<style>{styles[-1]}</style>"

    def script(match: re.Match[str]) -> str:
        scripts.append(_asset(match[2]))
        kind = ' type="module"' if match[1] else ""  # which waits for the page, as `defer` does for files
        return f"<script{kind}>{scripts[-1]}</script>"

    def stored(match: re.Match[str]) -> str:
        if match[2] not in images:
            data = store.get(match[2]) or b""
            images[match[2]] = _address(smaller.of(data) if match[3] == "webp" else data, match[3])
        return f'{match[1]}="{images[match[2]]}"'

    page = _ICON.sub("", page)
    page = _FRAME.sub('<a class="frame" href="#">', page)
    page = _STORED.sub(stored, page)
    head, body, rest = page.partition("<body")
    head = _SCRIPT.sub(script, _STYLE.sub(style, head))
    policy = (
        f"default-src 'none'; img-src data:; style-src {' '.join(_digests(styles))}; "
        f"script-src {' '.join(_digests(scripts))}; base-uri 'none'; form-action 'none'"
    )
    head = _POLICY.sub(lambda match: f"{match[1]}{policy}{match[2]}{meta}", head)
    return head + body + _ELSEWHERE.sub("", rest)


def _address(data: bytes, kind: str) -> str:
    """Return an address that holds a picture or a mask."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _asset(name: str) -> str:
    return (pages.ASSETS / name).read_text(encoding="utf-8")


def _digests(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _preview(run: RunDirectory, folder: str, path: Path) -> Path | None:
    """Write the unit's strongest images side by side; return the path, None if there is none."""
    width, height = _PREVIEW
    exemplars = sequence(mapping(run.unit(folder).done).get("exemplars"))
    found = [run.image(mapping(exemplar).get("image")) for exemplar in exemplars]
    shown = [layers for layers in found if layers][:8]
    if not shown:
        return None
    side = min(width // min(4, len(shown)), height // (1 if len(shown) <= 4 else 2))
    sheet = PIL.Image.new("RGB", _PREVIEW, "white")
    for place, (beneath, *_) in enumerate(shown):
        try:
            tile = stored_image(run.store.get(beneath) or b"").to_pil().resize((side, side))
        except (ImageDecodeError, RecordError):
            continue
        sheet.paste(tile, (place % 4 * side, place // 4 * side))
    sheet.save(path, "JPEG", quality=88)
    return path
