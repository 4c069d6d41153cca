"""The atlas as a reader uses it, from files, in a real Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.atlas.front_page import LARGE, write_atlas, write_report
from tests.experiments.atlas.runs import LabeledRun
from tests.experiments.browser import await_text, view
from tests.experiments.report.test_in_a_browser import choose, element, keys, open_page
from tests.experiments.report.test_unit_page import HOSTILE

pytestmark = pytest.mark.browser

ENTER = "\ue007"
THINGS = ("poodle", "tabby", "forest", "fire truck", "snowplow", "striped cloth", "banana", "wheel")


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Path:
    run = LabeledRun(tmp_path_factory.mktemp("atlas") / "run")
    for index in range(40):
        run.embed(f"a:{index}", THINGS[index % 8] if index < 32 else "", runner_up="shiny metal")
    run.study("b:3", "poodle", description="Fires for curly fur.")
    run.study("b:4", "wheel", "weak")
    run.role("a:2", ["alp"], ["beach"])
    return Path(write_atlas(run.root).page)


def listed(browser: Any) -> list[str]:
    script = (
        "return [...document.querySelectorAll('.hit')].map(h => h.querySelectorAll('span')[1].textContent)"
    )
    return browser.execute_script(script)


def look(browser: Any, page: Path, fragment: str = "") -> None:
    """Open the atlas and wait for what follows the first screen."""
    open_page(browser, page, fragment)
    await_text(browser, "#atlas[data-whole] #layers .layer-map span", "a")


def type_words(browser: Any, words: str) -> None:
    script = "search.value = arguments[0]; search.dispatchEvent(new Event('input'));"
    browser.execute_script(script, words)


def colored(browser: Any, selector: str = "#map") -> int:
    """Return how many pixels of the map are not empty."""
    script = """const c = document.querySelector(arguments[0]);
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height);
    let n = 0; for (let i = 3; i < d.data.length; i += 4) n += d.data[i] > 0; return n;"""
    return browser.execute_script(script, selector)


def test_the_first_screen_has_a_map_a_list_and_small_maps(browser, atlas):
    look(browser, atlas)
    assert element(browser, "#found").text == "42 of 42"
    assert colored(browser) > 100
    assert len(listed(browser)) == 42
    assert not element(browser, "#first").is_displayed()
    assert [span.text for span in browser.find_elements("css selector", ".layer-map span")] == ["a", "b"]


def test_typing_finds_words_beginnings_kinds_roles_other_labels_and_units(browser, atlas):
    look(browser, atlas)
    keys(browser, "/")
    browser.switch_to.active_element.send_keys("pood")
    assert set(listed(browser)) == {"b:3", "a:0", "a:8", "a:16", "a:24"}
    for words, expected in (("dog", "b:3"), ("alp", "a:2"), ("a:39", "a:39"), ("fire truck", "a:3")):
        type_words(browser, words)
        assert listed(browser)[0] == expected, words
    type_words(browser, "shiny metal")
    assert len(listed(browser)) == 40
    type_words(browser, "nothing of that name")
    assert listed(browser) == []


def test_filters_join_and_survive_a_reload(browser, atlas):
    look(browser, atlas, "#tier=agent")
    assert set(listed(browser)) == {"b:3", "b:4"}
    choose(
        browser,
        "#verdict",
        browser.execute_script("return [...verdict.options].find(o => /weak/.test(o.text)).value"),
    )
    assert listed(browser) == ["b:4"]
    script = """const done = arguments[0];
    const look = () => /weak/.test(location.hash) ? done() : setTimeout(look, 20); look();"""
    browser.execute_async_script(script)
    browser.refresh()
    assert listed(browser) == ["b:4"]
    look(browser, atlas, "#only=role")
    assert listed(browser) == ["a:2"]
    choose(browser, "#only", "none")
    assert set(listed(browser)) == {f"a:{index}" for index in range(32, 40)}


def test_a_unit_shows_what_is_known_of_it_and_leads_to_its_page(browser, atlas):
    look(browser, atlas, "#q=wheel")
    keys(browser, "j")
    await_text(browser, "#unit h2", "wheel")
    look(browser, atlas, "#unit=b:3")
    await_text(browser, "#unit a.open", "Open the unit's page")
    text = element(browser, "#unit").text
    assert "Fires for curly fur." in text
    assert "a:0" in text
    assert "Nearest labels\ntabby" in text, "both are animals"
    keys(browser, ENTER)
    await_text(browser, "h1", "poodle")


def test_the_map_can_be_entered_zoomed_and_pointed_at(browser, atlas):
    look(browser, atlas)
    before = browser.execute_script("return map.toDataURL()")
    element(browser, "#map").send_keys("++")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.execute_script("return map.toDataURL()") != before
    element(browser, "#whole").click()
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    script = """const box = map.getBoundingClientRect();
    const d = map.getContext('2d').getImageData(0, 0, map.width, map.height);
    for (let at = 0; at < 4 * d.width * d.height; at += 4) if (d.data[at + 3] === 255) {
      const clientX = box.left + at / 4 % d.width, clientY = box.top + Math.floor(at / 4 / d.width) + 2;
      const event = {clientX, clientY, bubbles: true};
      map.dispatchEvent(new PointerEvent('pointermove', event));
      if (!tip.hidden) return tip.textContent;
    } return '';"""
    assert " · " in browser.execute_script(script)


def test_hostile_labels_stay_text(browser, tmp_path):
    run = LabeledRun(tmp_path / "run")
    for index, label in enumerate((HOSTILE, "__proto__", "\u202egnp.exe", "x" * 100_000, "</script><b>")):
        run.embed(
            f"{HOSTILE}:{index}" if index else "a:0",
            label,
            runner_up=HOSTILE,
            alike=3,
            redundancy=1.0,
            reason=HOSTILE,
        )
        run.role("a:0", [HOSTILE], [HOSTILE])
    look_page = Path(write_atlas(run.root).page)
    open_page(browser, look_page)
    await_text(browser, "#atlas[data-whole] #found", "5 of 5")
    for _ in range(5):
        keys(browser, "j")
    type_words(browser, "__proto__")
    assert len(listed(browser)) == 1
    assert browser.execute_script("return window.hurt") is None
    assert browser.execute_script("return document.querySelectorAll('main b, img[src=x]').length") == 0


def test_a_phone_and_the_dark_show_all_without_sideways_scrolling(browser, atlas):
    view(browser, 390, 844, dark=True)
    look(browser, atlas)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert colored(browser) > 100
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"


def test_without_scripts_there_is_a_table_of_the_first_units(browser, atlas):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(atlas.resolve().as_uri())
        assert element(browser, "#first tbody tr td").text == "a:0"
        assert len(browser.find_elements("css selector", "#first tbody tr")) == 42
        assert not element(browser, "#atlas").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_is_the_front_page_of_a_large_run_and_leads_to_the_overview(browser, tmp_path):
    run = LabeledRun(tmp_path / "run")
    for index in range(LARGE + 1):
        run.embed(f"a:{index}", THINGS[index % 8])
    run.study("b:0", "poodle")
    front = write_report(run.root)
    open_page(browser, front)
    await_text(browser, "#found", f"{LARGE + 2} of {LARGE + 2}")
    element(browser, "header nav a[href='overview.html']").click()
    await_text(browser, "h1", "run")
    await_text(browser, "#found", "1 of 1")
    written = (front.parent / "atlas" / "units.js").stat().st_mtime_ns
    write_report(run.root)
    assert (front.parent / "atlas" / "units.js").stat().st_mtime_ns == written
