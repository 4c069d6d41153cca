"""The time to write the report of a large run, to write it again, and to open it in Chromium.

python -m benchmarks.bench_report [UNITS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.report import site
from tests.experiments.browser import installed, started
from tests.experiments.report.run_directories import FakeRun, many_units

OPENINGS = 5
TARGET_S = 2.0

_OPENED = """const done = arguments[0];
const look = () => document.querySelector('tbody tr[data-place]')
  ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))) : setTimeout(look, 1);
look();"""
_SEARCHED = """const search = document.getElementById('search'), began = performance.now();
search.value = arguments[0]; search.dispatchEvent(new Event('input')); document.body.offsetHeight;
return performance.now() - began;"""


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        run = many_units(Path(folder) / "run", count)
        index = _timed(f"write the site of {count} units", run)
        _timed("write it again, nothing changed", run)
        run.write_unit(count + 1)
        _timed("write it again, one unit more", run)
        size = (run.root / "report" / "units.js").stat().st_size
        print(f"{'data of the table':45} {size / 1e6:8.2f} MB")
        _in_chromium(index)


def _timed(what: str, run: FakeRun) -> Path:
    began = time.perf_counter()
    index = site.write(run.root)
    print(f"{what:45} {time.perf_counter() - began:8.2f} s", flush=True)
    return index


def _in_chromium(index: Path) -> None:
    if not installed():
        print("not opened: no chromium and chromedriver here")
        return
    with started() as browser:
        times = [_opening(browser, index) for _ in range(OPENINGS)]
        searches = [browser.execute_script(_SEARCHED, words) / 1e3 for words in ("f", "fur", "fur sky", "")]
    met = "met" if max(times) < TARGET_S else "MISSED"
    print(f"{'open the index in Chromium, median':45} {statistics.median(times):8.2f} s")
    print(f"{'open the index in Chromium, slowest':45} {max(times):8.2f} s   target < {TARGET_S:g} s: {met}")
    print(f"{'search, slowest':45} {max(searches):8.3f} s")


def _opening(browser: Any, index: Path) -> float:
    """Return the seconds from the start of loading until two frames after the first rows were drawn."""
    browser.get("about:blank")
    browser.get(index.resolve().as_uri())
    return float(browser.execute_async_script(_OPENED)) / 1e3


if __name__ == "__main__":
    main()
