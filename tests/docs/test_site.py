"""The documentation builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_there(site):
    sources = {path.stem for path in (ROOT / "docs").glob("*.md")}
    pages = {path.stem for path in site.glob("*.html")}
    assert sources | {"study-a-unit", "commands"} <= pages


def test_the_gallery_is_shown_with_the_reports_own_styles_and_leads_back(site):
    assert 'href="../index.html"' in (site / "gallery" / "index.html").read_text(encoding="utf-8")
    style = (site / "gallery" / "assets" / "report.css").read_bytes()
    assert style == (ROOT / "experiments" / "report" / "assets" / "report.css").read_bytes()


def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*rel=["']?(?:stylesheet|preload)[^>]*"""
        r"""href=["']?https?://|@import\s+url\(["']?https?:"""
    )
    found = [path.name for path in site.rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))]
    found += [path.name for path in site.rglob("*.css") if loads.search(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.browser
def test_search_works_from_a_file(site, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.expected_conditions import visibility_of_element_located
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get((site / "index.html").as_uri())
    browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
    wait = WebDriverWait(browser, 60)
    box = wait.until(visibility_of_element_located((By.CSS_SELECTOR, ".md-search__input")))
    box.send_keys("Landlock")
    found = wait.until(visibility_of_element_located((By.CSS_SELECTOR, ".md-search-result__item")))
    assert "sandbox" in found.text.lower()


def test_links_to_the_notebook_lead_to_its_page(site):
    assert 'href="study-a-unit.html"' in (site / "tutorial.html").read_text(encoding="utf-8")


def test_the_reference_comes_from_the_program(site):
    api = (site / "api.html").read_text(encoding="utf-8")
    assert "Show images to the unit and measure how strongly each one drives it" in api
    commands = (site / "commands.html").read_text(encoding="utf-8")
    assert "maia-cluster-up" in commands
    assert "Examples:" in commands


def test_the_notebook_is_a_page_with_its_pictures(site):
    page = (site / "study-a-unit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") > 20
    assert "was tested on images that you have not seen" in page
