"""`maia judge` as a judge uses it: the command in a process of its own, its page in a real Chromium."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.records.journal import slug
from tests.experiments.browser import await_text, view
from tests.experiments.report.run_directories import FakeRun, masked, picture

pytestmark = pytest.mark.browser

TAB, ENTER, SPACE = "\ue004", "\ue007", " "
HOSTILE = "<img src=x onerror=\"document.title='taken'\">' & \u202egnitalimis"
OURS = ("a red kite", HOSTILE, "wheels | wheel", "snow")
THEIRS = ("a bird", "paper", "a car's wheels", "<script>document.title='taken'</script>")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = FakeRun(tmp_path / "run")
    plan = []
    for number, label in enumerate(OURS):
        images = [masked(picture(10 * number + i)) for i in range(3)]
        run.store(*images)
        unit = run.unit_id(number)
        record = {"unit": unit, "labels": [label], "exemplars": [{"image": image.id} for image in images]}
        run.put(f"units/{slug(unit)}/done.json", record)
        plan.append({"unit": unit, "layer": "blocks.4.1", "name": str(number)})
    run.put("plan.json", plan)
    (tmp_path / "people.json").write_text(
        json.dumps({f"blocks.4.1:{number}": label for number, label in enumerate(THEIRS)})
    )
    return run.root


@contextmanager
def judging(run: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the command and yield its process with the page's address; whoever still runs at the end is
    killed.
    """
    against = f"people={run.parent / 'people.json'}"
    command = [
        sys.executable, "-m", "experiments.cli.main", "judge", str(run), "--against", against,
        "--name", "ada", "--no-open",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            output = ""
            while (found := re.search(r"http://127\.0\.0\.1:\d+/\S+/", output)) is None:
                line = process.stderr.readline()
                assert line, f"the command ended: {output}"
                output += line
            yield process, found[0]
        finally:
            process.kill()


def await_progress(browser: Any, text: str) -> None:
    """Return once the page that says so is there: an answer leads to another page."""
    await_text(browser, "label", text)


def labels(browser: Any) -> tuple[str, str]:
    """Return the two labels as they are read, left first."""
    left, right = browser.find_elements("css selector", ".label")
    # textContent: a label that held markup would be cut at its first tag.
    return left.get_property("textContent"), right.get_property("textContent")


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def note(browser: Any, chosen: dict[str, str], winner: int | None) -> None:
    """Write down whose label is about to win."""
    pair = labels(browser)
    assert set(pair) in [{ours, theirs} for ours, theirs in zip(OURS, THEIRS, strict=True)]
    unit = next(i for i, ours in enumerate(OURS) if ours in pair)
    chosen[str(unit)] = "" if winner is None else ("maia" if pair[winner] in OURS else "people")


def answer_two_questions(browser: Any, run: Path, chosen: dict[str, str]) -> tuple[str, str]:
    """Judge by click and by keyboard, and leave; return the labels of the question that is open then."""
    with judging(run) as (process, url):
        browser.get(url)
        await_progress(browser, "0 of 4 answered")
        images = browser.find_elements("css selector", ".images img")
        assert len(images) == 3
        assert all(
            image.get_property("naturalWidth") == 64 and image.get_attribute("alt") for image in images
        )
        assert not re.search(r"maia|people|blocks|efficientnet", browser.page_source, re.I)
        note(browser, chosen, 0)
        browser.find_element("css selector", "button[value=left]").click()
        await_progress(browser, "1 of 4 answered")
        note(browser, chosen, 1)
        press(browser, TAB, TAB, TAB, ENTER)
        await_progress(browser, "2 of 4 answered")
        third = labels(browser)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    return third


def answer_the_others(browser: Any, run: Path, chosen: dict[str, str], third: tuple[str, str]) -> None:
    """Come back to the open question, and finish, also on a phone."""
    with judging(run) as (process, url):
        browser.get(url)
        await_progress(browser, "2 of 4 answered")
        assert labels(browser) == third, "and what was open is asked again, in the same places"
        note(browser, chosen, None)
        press(browser, TAB, TAB, SPACE)
        await_progress(browser, "3 of 4 answered")
        view(browser, 390, 800)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, "on a phone nothing lies beside the page"
        note(browser, chosen, 0)
        browser.find_element("css selector", "button[value=left]").click()
        await_progress(browser, "4 of 4 answered")
        assert "Thank you" in browser.find_element("css selector", "body").text
        assert browser.title == "Which label fits better?", "no label became a script"
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_judge_resumes_and_finishes_without_learning_the_sources_of_labels(browser, run):
    chosen: dict[str, str] = {}
    third = answer_two_questions(browser, run, chosen)
    answer_the_others(browser, run, chosen, third)
    result = json.loads((run / "judgements.json").read_text())
    assert {
        judgement["unit"].rpartition(":")[2]: judgement["won"] for judgement in result["judgements"]
    } == chosen
    assert {judgement["judge"] for judgement in result["judgements"]} == {"ada"}
    assert result["summary"]["people"]["ties"] == 1
