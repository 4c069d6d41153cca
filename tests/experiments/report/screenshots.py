"""Pictures of a run's pages for the documentation, taken in Chromium.

python -m tests.experiments.report.screenshots RUN_DIR docs/images
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

from experiments.report import write_site
from tests.experiments.report.conftest import started, view

_LOADED = """const done = arguments[0], images = [...document.images];
for (const image of images) image.loading = 'eager';
Promise.all(images.map((image) => image.decode().catch(() => null))).then(() => done(images.length));"""


def take(
    browser: Any, page: Path, target: Path, *, width: int = 1200, height: int = 1000, dark: bool = False
) -> None:
    """Write the page's first `height` pixels as WebP once all of its images are there."""
    view(browser, width, height, dark=dark)
    browser.get(page.resolve().as_uri())
    browser.execute_async_script(_LOADED)
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 85})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(base64.b64decode(taken["data"]))


def main() -> None:
    run_dir, folder = Path(sys.argv[1]), Path(sys.argv[2])
    index = write_site(run_dir)
    unit = next(iter(sorted((index.parent / "units").glob("*.html"))))
    with started() as browser:
        take(browser, index, folder / "report-index.webp")
        take(browser, unit, folder / "report-unit.webp", height=1400)
        take(browser, unit, folder / "report-unit-dark.webp", height=1400, dark=True)
        take(browser, unit, folder / "report-phone.webp", width=390, height=844)


if __name__ == "__main__":
    main()
