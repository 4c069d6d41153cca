"""The atlas of a made network or of a run: time to write it, to its first screen, and to answer a letter.

python -m benchmarks.atlas [UNITS|RUN]
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from actors.embedded.photographs.taxonomy import imagenet
from experiments.atlas.front_page import write_atlas
from experiments.atlas.search_index import open_index
from experiments.report.records import RunDirectory
from tests.experiments.browser import installed, started

LAYERS = 25
OPENINGS = 5
FIRST_SCREEN_S = 2.0
QUERIES = ("dog", "striped animals", "vehicle", "forested backgrounds", "red wheel")
LOOKS = ("red", "striped", "small", "wooden", "blurry", "metal", "furry", "round", "shiny", "old")
T = TypeVar("T")

_OPENED = """const done = arguments[0];
const look = () => document.querySelector('#hits li')
  ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))) : setTimeout(look, 1);
look();"""
_WHOLE = """const done = arguments[0];
const look = () => atlas.dataset.whole ? done() : setTimeout(look, 9); look();"""
_TYPED = """const [word, done] = arguments, began = performance.now();
search.value = word; search.dispatchEvent(new Event('input'));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - began), 0));"""


def main() -> None:
    asked = sys.argv[1] if len(sys.argv) > 1 else "50000"
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", int(asked)) if asked.isdecimal() else Path(asked)
        open_index(RunDirectory(run))
        index = timed("open the index of the search", lambda: open_index(RunDirectory(run)))
        for words in QUERIES:
            timed(f"search for {words!r}", lambda words=words: index.search(words, 10))
        atlas = timed(f"write the atlas of {len(index)} units", lambda: write_atlas(run))
        timed("write it again, nothing changed", lambda: write_atlas(run))
        print(f"{'distinct labels':45} {atlas.labels:8}")
        _in_chromium(Path(atlas.page))


def make_run(folder: Path, count: int) -> Path:
    """Write a run whose units have made labels of an embedding: a look and one of ImageNet's names."""
    rng, names = random.Random(0), [node.name for node in imagenet().spoken]
    folder.mkdir()
    (folder / "manifest.json").write_text('{"model": "made"}')
    each = -(-count // LAYERS)
    with (folder / "labels.jsonl").open("w") as file:
        for place in range(count):
            label = f"{rng.choice(LOOKS)} {rng.choice(names)}"
            unit = f"made/layer{place // each}:{place % each}"
            record = {"unit": unit, "label": label, "runner_up": rng.choice(names)}
            file.write(json.dumps(record | {"auroc": rng.random(), "q": rng.random()}) + "\n")
    return folder


def timed(what: str, work: Callable[[], T]) -> T:
    began, used = time.perf_counter(), time.process_time()
    result = work()
    wall, processor = time.perf_counter() - began, time.process_time() - used
    print(f"{what:45} {wall:8.3f} s   {processor:.3f} s of processor", flush=True)
    return result


def _in_chromium(page: Path) -> None:
    if not installed():
        print("not opened: no chromium and chromedriver here")
        return
    with started() as browser:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        opened = [_used(browser, lambda: _opening(browser, page)) for _ in range(OPENINGS)]
        browser.execute_async_script(_WHOLE)
        words = "striped animal"
        typed = [
            _used(browser, lambda end=end: browser.execute_async_script(_TYPED, words[:end]) / 1e3)
            for end in range(1, len(words) + 1)
        ]
    met = "met" if max(wall for wall, _ in opened) < FIRST_SCREEN_S else "MISSED"
    _show("first screen in Chromium", opened)
    print(f"{'target of the first screen':45} {FIRST_SCREEN_S:8g} s   {met}")
    _show("a typed letter until it is drawn", typed)


def _show(what: str, times: Sequence[tuple[float, float]]) -> None:
    """Print seconds that passed, and seconds of processor that the page's thread used."""
    for name, pick in (("median", statistics.median), ("slowest", max)):
        wall, used = (pick([each[place] for each in times]) for place in (0, 1))
        print(f"{f'{what}, {name}':45} {wall:8.3f} s   {used:.3f} s of the page's thread")


def _used(browser: Any, work: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds that `work` measured, and those of processor that the page's thread used in it."""

    def used() -> float:
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))

    before = used()
    wall, after = work(), used()
    # A page that was opened in another process begins at zero.
    return wall, after - before if after >= before else after


def _opening(browser: Any, page: Path) -> float:
    """Return the seconds from the start of loading until two frames after the first list was drawn."""
    browser.get("about:blank")
    browser.get(page.resolve().as_uri())
    return float(browser.execute_async_script(_OPENED)) / 1e3


if __name__ == "__main__":
    main()
