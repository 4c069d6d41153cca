"""Take the documentation's pictures of the report anew, from runs of the embedded profile.

    python -m scripts.docs_pictures DEMO SWEEP AUDIT

DEMO is the run of `make demo`, SWEEP one of a layer, AUDIT one of classes; their reports must be written
(`maia report RUN`). Needs Chromium and its driver, and writes `docs/images/report-*.webp`.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.experiments import browser

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
WIDTH = 1200
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Shot:
    """A page of a report, and how much of it is shown, in pixels; `hidden` selects what is left out."""

    name: str
    page: Path
    height: int
    hidden: str = ""


def shots(demo: Path, sweep: Path, audit: Path) -> list[Shot]:
    unit = _only(demo / "report" / "units")
    overview = sweep / "report" / "overview.html"
    index = overview if overview.exists() else sweep / "report" / "index.html"
    return [
        Shot("result", unit, 1071, hidden=".figures, .density, .role"),
        Shot("unit", unit, 1400),
        Shot("index", index, 1000),
        Shot("layer", _only(sweep / "report" / "layers"), 1000),
        Shot("audit", _only(audit / "report" / "experiments"), 1300),
    ]


def _only(folder: Path) -> Path:
    pages = sorted(folder.glob("*.html"))
    if not pages:
        raise SystemExit(f"{folder} has no page: write the report first, `maia report RUN`.")
    return pages[0]


def take(chromium: Any, shot: Shot) -> None:
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTH, "height": shot.height, "deviceScaleFactor": 1, "mobile": False},
    )
    chromium.get(shot.page.resolve().as_uri())
    if shot.hidden:
        chromium.execute_script(
            "for (const part of document.querySelectorAll(arguments[0])) part.remove()", shot.hidden
        )
    picture = Image.open(io.BytesIO(chromium.get_screenshot_as_png())).convert("RGB")
    picture.save(IMAGES / f"report-{shot.name}.webp", quality=_QUALITY, method=6)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.docs_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("demo", "sweep", "audit"):
        parser.add_argument(name, type=Path)
    runs = parser.parse_args()
    with browser.started() as chromium:
        for shot in shots(runs.demo, runs.sweep, runs.audit):
            take(chromium, shot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
