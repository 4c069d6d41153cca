"""A real Chromium for the tests marked `browser`; they skip, saying so, where there is none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def installed() -> bool:
    """Say whether there are a browser and its driver; neither is ever downloaded."""
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


@contextmanager
def started() -> Iterator[Any]:
    """Run one browser with an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        browser = webdriver.Chrome(
            options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
        )
        try:
            browser.set_script_timeout(60)
            yield browser
        finally:
            browser.quit()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not installed():
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    with started() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """The browser in a desktop's size and light; a test fails if a page logged an error or a refusal."""
    view(chromium, 1280, 900)
    chromium.get_log("browser")
    yield chromium
    messages = [entry["message"] for entry in chromium.get_log("browser")]
    chromium.get("about:blank")
    assert not messages, messages


def view(browser: Any, width: int, height: int, *, dark: bool = False) -> None:
    """Give the browser a window of that size, a phone's below 500 pixels, and a colour scheme."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def await_text(browser: Any, selector: str, text: str) -> None:
    """Return once a page that has loaded whole shows that text there, on whichever page the browser is by
    then.

    A page that is just being left may answer in any way, so that an error of the driver's is asked again too.
    """
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    script = """if (document.readyState !== 'complete') return null;
    const found = document.querySelector(arguments[0]); return found && found.innerText.trim();"""

    def shown(browser: Any) -> bool:
        return bool(browser.execute_script(script, selector) == text)

    wait = WebDriverWait(browser, 30, 0.05, ignored_exceptions=(WebDriverException,))
    wait.until(shown, f"{selector} never said {text!r}")
