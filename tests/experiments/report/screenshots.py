"""Pictures of a run's pages for the documentation, taken in Chromium.

python -m tests.experiments.report.screenshots RUN_DIR... docs/images
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

from experiments.report import site
from tests.experiments.browser import started, view

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
    for run_dir in map(Path, sys.argv[1:-1]):
        with started() as browser:
            for name in take_all(browser, run_dir, Path(sys.argv[-1])):
                print(name)


def take_all(browser: Any, run_dir: Path, folder: Path) -> list[str]:
    """Take the pages that a run has: its index, the best unit, the largest layer, its first experiment."""
    report = site.write(run_dir).parent
    rows = json.loads((report / "summaries.json").read_bytes())["units"].values()
    units = sorted((summary for _, _, summary in rows), key=lambda unit: -(unit["auroc"] or 0.0))
    taken: list[str] = []

    def shot(page: Path, name: str, **options: Any) -> None:
        take(browser, page, folder / name, **options)
        taken.append(name)

    if units:
        unit = report / "units" / f"{units[0]['slug']}.html"
        shot(report / "index.html", "report-index.webp")
        shot(unit, "report-unit.webp", height=1400)
        shot(unit, "report-unit-dark.webp", height=1400, dark=True)
        shot(unit, "report-phone.webp", width=390, height=844)
    for page in sorted((report / "layers").glob("*.html"), key=lambda path: -path.stat().st_size)[:1]:
        shot(page, "report-layer.webp")
    for page in sorted((report / "experiments").glob("*.html"))[:1]:
        shot(page, f"report-{page.stem}.webp")
    return taken


if __name__ == "__main__":
    main()
