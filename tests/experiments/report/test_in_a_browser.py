"""The pages as a reader uses them, from files, in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from experiments.report import site, write_unit_page
from tests.experiments.browser import await_text, view
from tests.experiments.report.run_directories import FakeRun, many_units
from tests.experiments.report.screenshots import take, take_all
from tests.experiments.report.test_experiments import example
from tests.experiments.report.test_unit_page import HOSTILE

pytestmark = pytest.mark.browser

DOWN, ENTER, ESCAPE = "\ue015", "\ue007", "\ue00c"


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many") / "run"
    many_units(root, 150)
    return site.write(root)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "run")


def open_page(browser: Any, path: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get(path.resolve().as_uri() + fragment)


def element(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def keys(browser: Any, text: str) -> None:
    element(browser, "body").send_keys(text)


def column(browser: Any, name: str) -> list[str]:
    """Return the texts of a column of the rows that are in the page."""
    script = (
        "return [...document.querySelectorAll('tbody tr[data-place] td.' + arguments[0])].map(td => "
        "td.textContent)"
    )
    return browser.execute_script(script, name)


def choose(browser: Any, selector: str, value: str) -> None:
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new "
        "Event('change'));"
    )
    browser.execute_script(script, selector, value)


def found(browser: Any) -> str:
    return element(browser, "#found").text.replace(",", "")


def test_search_keeps_the_rows_with_all_words_and_survives_a_reload(browser, many):
    open_page(browser, many)
    assert found(browser) == "150 of 150"
    keys(browser, "/")
    browser.switch_to.active_element.send_keys("fur sky")
    labels = column(browser, "label")
    assert labels
    assert all("fur" in label and "sky" in label for label in labels)
    assert found(browser) == f"{len(labels)} of 150"
    browser.refresh()
    assert column(browser, "label") == labels


def test_a_search_without_a_hit_says_so(browser, many):
    open_page(browser, many, "#q=nothing+of+that+name")
    assert found(browser) == "0 of 150"
    assert column(browser, "label") == []


def test_columns_sort_both_ways(browser, many):
    open_page(browser, many)
    element(browser, "th.auroc button").click()
    falling = [float(value) for value in column(browser, "auroc")]
    assert falling == sorted(falling, reverse=True)
    assert element(browser, "th.auroc").get_attribute("aria-sort") == "descending"
    element(browser, "th.auroc button").click()
    rising = [float(value) for value in column(browser, "auroc")]
    assert rising == sorted(rising)
    assert rising[0] < falling[-1]
    element(browser, "th.label button").click()
    labels = column(browser, "label")
    assert labels == sorted(labels)


def test_filters_join(browser, many):
    open_page(browser, many)
    choose(browser, "#verdict", "confirmed")
    choose(browser, "#layer", "blocks.3.0")
    element(browser, "#least").send_keys("0.9")
    assert set(column(browser, "verdict")) == {"confirmed"}
    assert all(unit.startswith("blocks.3.0:") for unit in column(browser, "short"))
    assert all(float(value) >= 0.9 for value in column(browser, "auroc"))


def test_the_keyboard_walks_and_opens(browser, many):
    open_page(browser, many)
    wanted = column(browser, "label")[2]
    keys(browser, "jjjjkk")
    keys(browser, "j")
    assert element(browser, "tr.chosen td.label").text == wanted
    keys(browser, ENTER)
    await_text(browser, "h1", wanted)


def test_a_row_opens_its_unit(browser, many):
    open_page(browser, many)
    wanted = column(browser, "label")[1]
    element(browser, "tr[data-place='1'] td.label a").click()
    await_text(browser, "h1", wanted)
    assert "/units/" in browser.current_url


def test_ten_thousand_rows_keep_the_page_small_and_scroll_to_the_end(browser, many, tmp_path):
    report = tmp_path / "report"
    (report / "assets").mkdir(parents=True)
    for source in [many, *(many.parent / "assets").iterdir()]:
        (report / source.relative_to(many.parent)).write_bytes(source.read_bytes())
    source = (many.parent / "units.js").read_text().removeprefix("const MAIA_UNITS = ").rstrip(";\n")
    content = json.loads(source)
    content["rows"] = (content["rows"] * 67)[:10_000]
    (report.parent / "blobs").symlink_to(many.parents[1] / "blobs")
    (report / "units.js").write_text(f"const MAIA_UNITS = {json.dumps(content)};")
    open_page(browser, report / "index.html")
    assert found(browser) == "10000 of 10000"
    assert len(column(browser, "label")) < 80
    script = """const done = arguments[0]; scrollTo(0, document.documentElement.scrollHeight);
    requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done)));"""
    browser.execute_async_script(script)
    places = browser.execute_script(
        "return [...document.querySelectorAll('tr[data-place]')].map(r => +r.dataset.place)"
    )
    assert places[-1] == 9_999
    assert len(places) < 80


def test_a_transcript_full_of_markup_and_script_stays_text(browser, run):
    rounds = [
        run.round(
            1, words=HOSTILE, hypotheses=(HOSTILE,), program=f"# {HOSTILE}\n", shown=HOSTILE, error=HOSTILE
        )
    ]
    done = run.done(1) | {
        "label": HOSTILE,
        "labels": [HOSTILE],
        "description": HOSTILE,
        "facts": {HOSTILE: HOSTILE},
    }
    name = run.write_unit(1, rounds=rounds, done=done)
    index = site.write(run.root)
    for page in (index, run.root / "report/units" / f"{name}.html"):
        open_page(browser, page)
        assert browser.execute_script("return window.hurt") is None
        assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert "<img src=x onerror=window.hurt=1>" in element(browser, "h1").text


def test_the_policy_stops_scripts_that_are_not_the_reports_own(browser, run):
    """Even if markup slipped through, it would not run."""
    path = write_unit_page(run.root, run.write_unit(1))
    path.write_text(
        path.read_text().replace(
            "</main>", "<script>window.hurt=1</script><img src=x onerror='window.hurt=1'></main>"
        )
    )
    open_page(browser, path)
    assert browser.execute_script("return window.hurt") is None
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("Content Security Policy" in message for message in refused)


def test_the_table_shows_exemplars_that_load(browser, many):
    open_page(browser, many)
    script = """const done = arguments[0], images = [...document.querySelectorAll('td.thumbs img')];
    const widths = () => images.map((image) => image.naturalWidth);
    Promise.all(images.map((image) => image.decode())).then(() => done(widths()));"""
    widths = browser.execute_async_script(script)
    assert len(widths) == len(column(browser, "label")) > 0
    assert set(widths) == {64}


def test_masks_come_off_and_on(browser, run):
    open_page(browser, write_unit_page(run.root, run.write_unit(1)))
    picture, mask = browser.find_elements("css selector", "#exemplars-title ~ .pictures img")[:2]
    assert mask.rect == picture.rect, "it lies exactly over its picture"
    assert mask.is_displayed()
    element(browser, "#masks").click()
    assert picture.is_displayed()
    assert not mask.is_displayed()
    keys(browser, "m")
    assert mask.is_displayed()


def test_masks_that_are_painted_on_come_off_and_on(browser, run):
    slug = run.write_unit(1)
    run.paint_on()
    open_page(browser, write_unit_page(run.root, slug))
    first = element(browser, "#exemplars-title ~ .pictures img")
    masked = first.get_attribute("src")
    element(browser, "#masks").click()
    plain = first.get_attribute("src")
    assert plain != masked
    assert (
        browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", first)
        == 64
    )
    keys(browser, "m")
    assert first.get_attribute("src") == masked


def test_j_and_k_move_between_rounds(browser, run):
    open_page(browser, write_unit_page(run.root, run.write_unit(1)))
    focus = "return document.activeElement.id"
    keys(browser, "j")
    assert browser.execute_script(focus) == "round-1"
    browser.switch_to.active_element.send_keys("j")
    browser.switch_to.active_element.send_keys("j")
    assert browser.execute_script(focus) == "round-3"
    browser.switch_to.active_element.send_keys("k")
    assert browser.execute_script(focus) == "round-2"


def test_a_dot_shows_its_image_when_it_is_reached(browser, run):
    open_page(browser, write_unit_page(run.root, run.write_unit(1)))
    assert not element(browser, "#peek").is_displayed()
    browser.execute_script("document.querySelector('#test-title ~ * svg.plot a').focus()")
    assert element(browser, "#peek").is_displayed()
    assert "wheels" in element(browser, "#peek figcaption").text


def test_the_theme_follows_the_system_until_it_is_chosen(browser, run):
    page = write_unit_page(run.root, run.write_unit(1))
    paper = "return getComputedStyle(document.body).backgroundColor"
    open_page(browser, page)
    light = browser.execute_script(paper)
    view(browser, 1280, 900, dark=True)
    dark = browser.execute_script(paper)
    assert dark != light
    element(browser, "#theme").click()
    assert browser.execute_script(paper) == light
    browser.refresh()
    assert browser.execute_script(paper) == light
    browser.execute_script("localStorage.clear()")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_page_is_wider_than_its_window(browser, run, width):
    """Not even with one word as long as a paragraph."""
    long = "w" * 600
    rounds = [run.round(1, words=long, hypotheses=(long,), program=f"x = '{long}'\n", shown=long, error=long)]
    evidence = run.evidence(long, 3)
    done = run.done(1, evidence=evidence) | {"label": long, "labels": [long], "description": long}
    name = run.write_unit(1, rounds=rounds, done=done)
    run.write_unit(2)
    index = site.write(run.root)
    view(browser, width, 800)
    layer = next((run.root / "report/layers").iterdir())
    for page in (index, run.root / "report/units" / f"{name}.html", layer):
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_pictures_for_the_documentation_can_be_taken(browser, run, tmp_path, dark):
    page = write_unit_page(run.root, run.write_unit(1))
    take(browser, page, tmp_path / "unit.webp", width=600, height=500, dark=dark)
    with PIL.Image.open(tmp_path / "unit.webp") as taken:
        assert taken.size == (600, 500)
        (background,) = {taken.getpixel((2, y)) for y in (100, 499)}
    assert (sum(background) < 3 * 128) == dark


@pytest.mark.slow
def test_the_documentations_pictures_can_be_taken_of_any_run(browser, run, tmp_path):
    """Index, unit, layer map and experiment; each shows something, and each is what it was taken of."""
    for index in range(4):
        run.write_unit(index, ["wheels", "wheels of cars", "sky", "dogs"][index])
    run.put("experiments/audit.json", example().model_dump(mode="json"))
    taken = take_all(browser, run.root, tmp_path / "pictures")
    assert {"report-index.webp", "report-unit.webp", "report-layer.webp", "report-audit.webp"} <= set(taken)
    for name in taken:
        with PIL.Image.open(tmp_path / "pictures" / name) as picture:
            assert min(picture.size) >= 390
            assert len(picture.convert("RGB").quantize(16).getcolors() or []) > 4, f"{name} is blank"
