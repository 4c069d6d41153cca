"""A unit's page in a real Chromium: large images, rounds that unfold, figures explained, one file to send."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.report import write_unit_page
from experiments.report.single_file import write_shared
from tests.experiments.browser import view
from tests.experiments.report import markup
from tests.experiments.report.run_directories import FakeRun
from tests.experiments.report.test_in_a_browser import ESCAPE, element, keys, open_page
from tests.experiments.report.test_unit_page import HOSTILE

pytestmark = pytest.mark.browser

LEFT, RIGHT = "\ue012", "\ue014"


@pytest.fixture(scope="module")
def unit(tmp_path_factory) -> Path:
    run = FakeRun(tmp_path_factory.mktemp("unit") / "run")
    return write_unit_page(run.root, run.write_unit(1))


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "run")


def shown(browser: Any) -> str:
    return element(browser, "dialog .view img").get_attribute("src")


def test_an_image_opens_in_large_and_arrows_lead_to_those_beside_it(browser, unit):
    open_page(browser, unit)
    frames = browser.find_elements("css selector", ".exemplars a.frame")
    addresses = [frame.get_attribute("href") for frame in frames]
    frames[0].click()
    assert shown(browser) == addresses[0]
    assert browser.current_url.endswith(".html"), "it stays on the page"
    browser.switch_to.active_element.send_keys(RIGHT)
    assert shown(browser) == addresses[1]
    browser.switch_to.active_element.send_keys(LEFT + LEFT)
    assert shown(browser) not in addresses[:2], "before the first comes the last"
    browser.switch_to.active_element.send_keys(ESCAPE)
    assert not element(browser, "dialog").is_displayed()


def test_a_large_image_has_a_slider_for_its_mask_its_activation_and_its_prompt(browser, unit):
    open_page(browser, unit)
    element(browser, ".exemplars a.frame").click()
    opacity = "return +getComputedStyle(document.querySelectorAll('dialog .view img')[1]).opacity"
    assert browser.execute_script(opacity) == 0.6
    script = "const s = arguments[0]; s.value = 0; s.dispatchEvent(new Event('input'))"
    browser.execute_script(script, element(browser, "dialog input[type=range]"))
    assert browser.execute_script(opacity) == 0
    assert element(browser, "dialog .value").text == element(browser, ".exemplars .value").text
    element(browser, "dialog .close").click()
    element(browser, "section[aria-labelledby=test-title] a.frame").click()
    assert "wheels" in element(browser, "dialog .prompt").text
    assert not element(browser, "dialog .mask-slider").is_displayed(), "a fresh image has no mask"


def test_the_navigator_unfolds_the_round_that_it_leads_to(browser, unit):
    open_page(browser, unit)
    folds = "return [...document.querySelectorAll('details.fold')].map((fold) => fold.open)"
    assert browser.execute_script(folds) == [False] * 3
    element(browser, ".steps a[href='#round-1']").click()
    assert browser.execute_script(folds) == [True, False, False]
    assert element(browser, "#round-1 .pictures").is_displayed(), "its images are open"
    assert not element(browser, "#round-1 pre.code").is_displayed(), "its program is folded"
    element(browser, "#unfold").click()
    assert browser.execute_script(folds) == [True] * 3


def test_a_figure_is_explained_where_it_stands_and_leads_to_the_page_of_figures(browser, unit):
    open_page(browser, unit)
    term = element(browser, ".numbers .term")
    tip = term.find_element("xpath", "following-sibling::*[@role='tooltip']")
    assert not tip.is_displayed()
    browser.execute_script("arguments[0].focus()", term)
    assert tip.is_displayed()
    link = tip.find_element("css selector", "a")
    browser.execute_script("arguments[0].focus()", link)
    assert tip.is_displayed(), "the link can be reached"
    link.click()
    assert browser.current_url.endswith("figures.html#auroc")
    assert element(browser, "dt:target").text == "AUROC"


def test_the_first_screen_of_a_desktop_has_label_density_and_large_exemplars(browser, unit):
    view(browser, 1400, 900)
    open_page(browser, unit)
    for selector in ("h1", ".chip", ".density svg", ".exemplars .frame"):
        box = element(browser, selector).rect
        assert box["y"] + box["height"] < 900, selector
    assert element(browser, ".exemplars .frame").rect["width"] >= 200


@pytest.mark.slow
def test_a_study_of_many_rounds_is_short_until_they_are_unfolded(browser, run):
    rounds = [run.round(number) for number in range(1, 21)]
    view(browser, 1400, 900)
    open_page(browser, write_unit_page(run.root, run.write_unit(1, rounds=rounds)))
    assert browser.execute_script("return document.documentElement.scrollHeight") <= 6000


def test_no_mask_turns_a_picture_black(browser, unit):
    """A mask leaves a quarter of the light; as it is laid over, more than half is left."""
    open_page(browser, unit)
    mask = element(browser, ".exemplars img.mask")
    opacity = browser.execute_script("return +getComputedStyle(arguments[0]).opacity", mask)
    assert 1 - opacity * 191 / 255 > 0.5


@pytest.mark.slow
def test_no_link_of_a_single_study_is_dead(unit):
    for path in (unit, unit.parents[1] / "index.html", unit.parents[1] / "figures.html"):
        for address in markup.addresses(markup.check(path)):
            name = address.partition("#")[0]
            assert not name or (path.parent / name).is_file(), address


def test_a_page_in_one_file_works_alone_under_a_strict_policy(browser, run, tmp_path):
    done = run.done(1) | {"label": HOSTILE, "labels": [HOSTILE], "description": HOSTILE}
    run.write_unit(1, done=done)
    sent = write_shared(run.root, tmp_path / "sent" / "unit.html", "https://example.org/a/unit.html")
    text = sent.page.read_text()
    assert "unsafe" not in text
    assert not re.findall(r'\b(?:src|href)="(?!data:|#)[^"]*"', text), "it refers to nothing else"
    assert 'property="og:image" content="https://example.org/a/unit.jpg"' in text
    assert sent.preview is not None
    assert sent.preview.is_file()
    open_page(browser, sent.page)
    assert browser.execute_script("return window.hurt") is None
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    element(browser, ".exemplars a.frame").click()
    script = "return document.querySelector('dialog .view img').decode().then(() => true)"
    assert browser.execute_script(script)
    keys(browser, ESCAPE)


def test_a_page_in_one_file_names_no_preview_without_an_address(run, tmp_path):
    run.write_unit(1)
    assert "og:image" not in write_shared(run.root, tmp_path / "unit.html").page.read_text()
