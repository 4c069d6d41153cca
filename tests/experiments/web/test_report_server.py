"""A run is shown on this machine only, read-only, and open pages hear of changes."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from actors.errors import UsageError
from agents.records.journal import Journal
from agents.records.store import Store
from experiments.web.report_server import ChangeCounter, RunServer
from experiments.web.trials import AskedTrial, CropTrial, PromptTrial, TrialEvent
from tests.experiments.browser import await_text
from tests.experiments.report.run_directories import FakeRun, picture


class FakeTrials:
    """Writes down a trial of the unit's first exemplar, whatever is asked, and remembers what that was."""

    def __init__(self, run: FakeRun) -> None:
        self.run, self.asked = run, list[AskedTrial]()

    def begin(self, slug: str, trial: AskedTrial) -> Generator[TrialEvent]:
        self.asked.append(trial)
        yield TrialEvent(doing="starting the models")
        image = picture(1001)  # which the first round of every study shows
        number = len([*(self.run.root / f"units/{slug}/trials").glob("*.json")]) + 1
        record = {"number": number, "kind": "prompt", "words": "<b>night</b>", "image": image.id}
        record |= {"activation": 2.5, "below": 0.75, "compared": 400}
        self.run.put(f"units/{slug}/trials/{number:04d}.json", record)
        yield TrialEvent(number=number)


@pytest.fixture
def trials(run: FakeRun) -> FakeTrials:
    return FakeTrials(run)


@pytest.fixture
def playground(run: FakeRun, trials: FakeTrials) -> Iterator[RunServer]:
    with RunServer(run.root, poll_s=0.05, trials=trials) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    made = FakeRun(tmp_path / "run")
    made.write_unit(1)
    return made


@pytest.fixture
def server(run: FakeRun) -> Iterator[RunServer]:
    with RunServer(run.root, poll_s=0.05) as made:
        yield made


def ask(
    server: RunServer, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=60)
    try:
        connection.request(method, path.replace("TOKEN", server.token), headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_pages_assets_and_images_are_served(server):
    response, content = ask(server, "/TOKEN/")
    assert response.status == 200
    assert b"live.js" in content
    assert response.headers["Cache-Control"] == "no-store"
    response, content = ask(server, "/TOKEN/report/assets/report.css")
    assert (response.status, response.headers.get_content_type()) == (200, "text/css")
    image = picture(100).id
    response, content = ask(server, f"/TOKEN/blobs/{image[:2]}/{image}.webp")
    assert (response.status, content[:4]) == (200, b"RIFF")


def test_head_answers_without_a_body(server):
    response, content = ask(server, "/TOKEN/", "HEAD")
    assert (response.status, content) == (200, b"")
    assert int(response.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/report/index.html",
        "/TOKENx/report/index.html",
        "/TOKEN/manifest.json",
        "/TOKEN/units",
        "/TOKEN/report/summaries.json",
        "/TOKEN/report/../manifest.json",
        "/TOKEN/report/%2e%2e/manifest.json",
        "/TOKEN/report/..%2f..%2fsecret.html",
        "/TOKEN/blobs/../report/index.html",
        "/TOKEN//etc/passwd",
        "/TOKEN/report/link.html",
        "/TOKEN/report/%00.html",
        "/TOKEN/report/" + "a" * 5000 + ".html",
        "/TOKEN/report/assets",
    ],
)
def test_nothing_else_is_served(server, run, path):
    (run.root.parent / "secret.html").write_text("secret")
    (run.root / "report/link.html").symlink_to(run.root.parent / "secret.html")
    response, content = ask(server, path)
    assert response.status == 404
    assert b"secret" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_is_read_only(server, method):
    response, _ = ask(server, "/TOKEN/", method)
    assert response.status == 501


PROMPT = '{"kind": "prompt", "prompt": "a dog"}'


def post(
    server: RunServer, path: str, body: str = PROMPT, **headers: str
) -> tuple[int, list[dict[str, Any]] | bytes]:
    """Ask as a unit's page does, with other `headers` where they are given, `_` for `-`."""
    port = urlsplit(server.url).port
    named = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", path.replace("TOKEN", server.token), body, {k: v for k, v in named.items() if v}
    )
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, [*map(json.loads, content.splitlines())] if response.status == 200 else content


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/TOKEN/trials/SLUG", {"Origin": "http://evil.example"}, 403),
        ("/TOKEN/trials/SLUG", {"Origin": ""}, 403),
        ("/TOKEN/trials/SLUG", {"Content_Type": "text/plain"}, 403),
        ("/TOKEN/trials/SLUG", {"Host": "evil.example"}, 403),
        ("/TOKENx/trials/SLUG", {}, 404),
        ("/TOKEN/trials/nothing", {}, 404),
        ("/TOKEN/trials/..", {}, 404),
        ("/TOKEN/report/index.html", {}, 404),
        ("/TOKEN/trials/SLUG", {"Content_Length": "99999999"}, 400),
    ],
)
def test_trials_are_taken_from_the_units_own_page_alone(playground, trials, run, path, headers, status):
    slug = run.write_unit(1)
    assert post(playground, path.replace("SLUG", slug), **headers)[0] == status
    assert trials.asked == []


def test_steps_of_a_trial_are_sent_and_notes_reach_the_study(playground, run):
    slug = run.write_unit(2, rounds=[run.round(1)], finished=False)
    finished = f"/TOKEN/trials/{run.write_unit(1)}"
    run.put("plan.json", [{"unit": run.unit_id(n), "layer": "blocks.4.1", "name": str(n)} for n in (1, 2)])
    steps = post(playground, finished)[1]
    assert [step["doing"] or step["number"] for step in steps] == ["starting the models", 1]
    assert "this is no trial" in post(playground, finished, "{}")[1][0]["error"]
    refused = post(playground, finished.replace("trials", "notes"), '{"text": "a"}')[1][0]
    assert "has its result" in refused["error"]
    post(playground, f"/TOKEN/trials/{slug}")
    assert post(playground, f"/TOKEN/notes/{slug}", '{"trial": 1}')[1][0]["number"] == 1
    assert post(playground, f"/TOKEN/notes/{slug}", '{"text": "try cats"}')[1][0]["number"] == 2
    first, second = Journal(Store(run.root), run.unit_id(2)).notes()
    assert first.text.startswith('An image made of the prompt "<b>night</b>" gives activation 2.50; 75.0%')
    assert second.text == "try cats"
    run.put("manifest.json", {"model": run.model, "command": "session"})
    assert "no agent reads notes" in post(playground, f"/TOKEN/notes/{slug}", '{"text": "a"}')[1][0]["error"]
    (run.root / "manifest.json").unlink()
    (run.root / "manifest.json").symlink_to(run.root / "plan.json")
    assert "error" in post(playground, f"/TOKEN/notes/{slug}", '{"text": "a"}')[1][0]


def test_another_name_for_this_machine_is_refused(server):
    """A page elsewhere that points its own name at 127.0.0.1 learns nothing."""
    response, _ = ask(server, "/TOKEN/", Host="evil.example:80")
    assert response.status == 403


def test_only_the_loopback_address_listens(server):
    port = urlsplit(server.url).port
    with socket.socket() as probe:
        probe.settimeout(5)
        with pytest.raises(OSError, match=r"refused|unreachable"):
            probe.connect(("127.0.0.2", port))


def test_an_open_page_hears_of_a_new_unit_once_its_page_is_there(server, run):
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=60)
    connection.request("GET", f"/{server.token}/events")
    response = connection.getresponse()
    assert response.readline() == b"retry: 1000\n"
    slug = run.write_unit(2)
    lines = iter(response.readline, b"")
    assert next(line for line in lines if line.startswith(b"data:")) == b"data: changed\n"
    assert ask(server, f"/TOKEN/report/units/{slug}.html")[0].status == 200
    connection.close()


@pytest.mark.parametrize("after", ["read", "lost"])
def test_a_page_that_missed_a_change_is_notified_at_once(server, after):
    """Between its being read and its first connection, or while the connection was lost."""
    _, content = ask(server, "/TOKEN/")
    seen = re.search(rb'data-seen="(\d+)"', content)[1].decode()
    server.changes.increment()
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=60)
    query, headers = (f"?seen={seen}", {}) if after == "read" else ("?seen=999", {"Last-Event-ID": seen})
    connection.request("GET", f"/{server.token}/events{query}", headers=headers)
    response = connection.getresponse()
    lines = [response.readline() for _ in range(4)]
    assert lines == [b"retry: 1000\n", b"\n", f"id: {int(seen) + 1}\n".encode(), b"data: changed\n"]
    connection.close()


def test_closing_ends_open_event_streams(run):
    with RunServer(run.root) as server:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=60)
        connection.request("GET", f"/{server.token}/events")
        response = connection.getresponse()
        response.readline()
    assert b"changed" not in response.read()
    connection.close()


def test_waiting_for_news_ends_at_a_change_or_in_time():
    changes = ChangeCounter()
    assert changes.wait(0, 0.0) == 0
    changes.increment()
    assert changes.wait(0, 60.0) == 1
    changes.close()
    assert changes.wait(1, 60.0) == 1


def test_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        RunServer(tmp_path / "nothing")


@pytest.mark.browser
def test_open_pages_follow_the_run_and_keep_what_the_reader_did(browser, server, run):
    """Nothing is loaded again: open folds, focus and scroll survive, and what did not change is untouched."""
    from selenium.webdriver.support.wait import WebDriverWait

    def shows(script: str) -> Any:
        return WebDriverWait(browser, 60, 0.1).until(lambda page: page.execute_script(f"return {script}"))

    browser.get(server.url)
    browser.execute_script("window.kept = 1; document.getElementById('search').focus()")
    run.put("plan.json", [{"unit": run.unit_id(2)}])
    rounds = [run.round(number) for number in (1, 2)]
    slug = run.write_unit(2, rounds=rounds, finished=False)
    shows("document.querySelectorAll('.units-table tbody tr').length === 2")
    assert "wheels of cars" in shows("document.getElementById('working-title').parentNode.innerText")
    assert shows("window.kept === 1 && document.activeElement.id") == "search"
    browser.get(server.url.replace("index.html", f"units/{slug}.html"))
    browser.execute_script(
        """window.kept = 1;
        const first = document.querySelector('#round-1 details.fold');
        first.open = true;
        first.querySelector('summary').focus();
        scrollTo(0, first.getBoundingClientRect().top + scrollY - 200);
        window.touched = 0;
        new MutationObserver((changes) => { window.touched += changes.length; }).observe(
          document.getElementById('round-1'), { subtree: true, childList: true, attributes: true });"""
    )
    top = browser.execute_script("return scrollY")
    rounds += [run.round(3, hypotheses=("<b>night</b> scenes", "wheels of cars"))]
    run.write_unit(2, rounds=rounds, finished=False)
    shows("document.querySelectorAll('article.round').length === 3")
    assert "<b>night</b> scenes" in shows("document.querySelector('.now').innerText")
    assert browser.execute_script("return window.touched") == 0
    assert shows("window.kept === 1 && document.querySelector('#round-1 details.fold').open")
    assert shows("document.activeElement.closest('article').id") == "round-1"
    assert browser.execute_script("return scrollY") == pytest.approx(top, abs=2)
    assert shows("document.querySelector('#round-3 button.copy').hidden === false")


@pytest.mark.browser
def test_a_page_tries_a_prompt_and_a_crop_and_tells_the_agent(browser, trials, run):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    def element(selector: str) -> Any:
        found = lambda page: next(iter(page.find_elements("css selector", selector)), None)  # noqa: E731
        return WebDriverWait(browser, 60, 0.1).until(found, selector)

    shown = picture(1001)
    run.put("plan.json", [{"unit": run.unit_id(2), "layer": "blocks.4.1", "name": "2"}])
    slug = run.write_unit(2, rounds=[run.round(1)], finished=False)
    with RunServer(run.root, poll_s=0.05, trials=trials) as server:
        browser.get(server.url.replace("index.html", f"units/{slug}.html"))
        element("#playground form input").send_keys("a dog at night\n")
        assert "<b>night</b>" in element("#trial-1").text
        await_text(browser, "#playground output", "Trial 1 is on record.")
        element("#trial-1 a.frame").click()
        view = element("dialog[open] .view")
        drag = ActionChains(browser).move_to_element_with_offset(view, -90, -90).click_and_hold()
        drag.move_by_offset(90, 120).release().perform()
        element("dialog button.crop:not(:disabled)").click()
        assert element("#trial-2 button.send-trial").is_displayed()
        element("#trial-2 button.send-trial").click()
        assert "Note by person, from outside the study" in element("blockquote.person").text
    prompt, crop = trials.asked
    assert isinstance(prompt, PromptTrial)
    assert isinstance(crop, CropTrial)
    assert crop.image == shown.id
    assert 0 < crop.box[2] - crop.box[0] < 1
