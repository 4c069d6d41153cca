"""A run is shown on this machine only, read-only, and open pages hear of changes."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from actors.errors import UsageError
from experiments.web.report_server import ChangeCounter, RunServer
from tests.experiments.report.run_directories import FakeRun, picture


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
