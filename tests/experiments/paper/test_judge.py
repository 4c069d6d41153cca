"""People compare labels: blind, in both orders, each choice kept at once; only from this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from actors.errors import UsageError
from actors.images import Image, decode
from agents.records.journal import Blobs, slug
from agents.records.store import Store
from experiments.paper.judge import JudgeRequest, JudgeServer, Judging, judge, results

SEEN = Image.from_pixels(np.full((8, 8, 3), 90, np.uint8))
PICTURE = SEEN.id


def run_directory(path, count=24):
    store = Store.open(path)
    store.put("manifest.json", json.dumps({"command": "sweep", "model": "net"}).encode())
    plan = []
    for number in range(count):
        unit = f"net/layer:{number}"
        record = {"unit": unit, "labels": [f"thing {number}"], "exemplars": [{"image": PICTURE}]}
        store.put(f"units/{slug(unit)}/done.json", json.dumps(record).encode())
        plan.append({"unit": unit, "layer": "layer", "name": str(number)})
    store.put("plan.json", json.dumps(plan).encode())
    Blobs(store).put([SEEN])
    return path


@pytest.fixture
def run(tmp_path):
    return run_directory(tmp_path / "run")


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.json"
    path.write_text(
        json.dumps({f"layer:{number}": f"matter {number}" for number in range(23)} | {"layer:23": "thing 23"})
    )
    return path


def test_sides_are_drawn_and_another_judge_gets_another_order(run, people):
    ada, bob = (Judging(run, {"people": people}, name) for name in ("ada", "bob"))
    assert len(ada.questions) == 23, "equal labels are not compared"
    left = [question.methods[0] for question in ada.questions.values()]
    assert 4 < left.count("maia") < 19
    assert [q.unit for q in ada.questions.values()] != [q.unit for q in bob.questions.values()]
    assert list(Judging(run, {"people": people}, "ada").questions) == list(ada.questions)


def test_the_first_answer_counts_and_what_is_open_is_asked_again(run, people):
    judging = Judging(run, {"people": people}, "ada")
    first, second, *_ = judging.open()
    assert judging.answer(first.id, "left", 2.5)
    assert judging.answer(first.id, "right", 1.0)
    assert not judging.answer("unknown", "left", 1.0)
    assert not judging.answer(second.id, "both", 1.0)
    again = Judging(run, {"people": people}, "ada")
    assert first not in again.open()
    assert len(again.open()) == 22
    (record,) = results(run).judgements
    assert record.won == first.methods[0]
    assert record.seconds == 2.5


def test_ties_count_half_and_the_page_stands_beside_the_papers_figures(run, people):
    judging = Judging(run, {"people": people}, "ada")
    for number, question in enumerate(judging.open()):
        side = "left" if question.methods[0] == "maia" else "right"
        judging.answer(question.id, side if number < 15 else "tie", 1.0)
    assert judging.finished.is_set()
    won = results(run).summary["people"]
    assert (won.wins, won.ties, won.n) == (15, 8, 23)
    assert won.rate == pytest.approx(19 / 23)
    assert won.interval[0] < won.rate < won.interval[1]
    page = json.loads((run / "experiments" / "judgements.json").read_text())
    assert "0.73" in json.dumps(page)


def fetch(url, data=None, host=None):
    request = urllib.request.Request(url, data, {"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def test_the_page_names_no_method_and_a_click_is_an_answer(run, people):
    judging = Judging(run, {"people": people}, "ada")
    with JudgeServer(judging, run) as server:
        question = judging.open()[0]
        page = fetch(server.url).decode()
        assert question.labels[0] in page
        assert question.labels[1] in page
        assert not any(word in page for word in ("maia", "people", question.unit))
        assert decode(fetch(f"{server.url}image/{PICTURE}")) == SEEN
        form = urllib.parse.urlencode({"question": question.id, "choice": "tie"}).encode()
        assert "1 of 23 answered" in fetch(f"{server.url}choice", form).decode()
        assert len(judging.open()) == 22


@pytest.mark.parametrize(
    "below", ["../manifest.json", "image/ff", "image/../manifest.json", "choice", "unknown"]
)
def test_nothing_else_of_the_run_is_served(run, people, below):
    with (
        JudgeServer(Judging(run, {"people": people}, "ada"), run) as server,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        fetch(server.url + below)


def test_strangers_get_nothing(run, people):
    judging = Judging(run, {"people": people}, "ada")
    with JudgeServer(judging, run) as server:
        port = urllib.parse.urlsplit(server.url).port
        form = urllib.parse.urlencode({"question": judging.open()[0].id, "choice": "tie"}).encode()
        for url, host in ((f"http://127.0.0.1:{port}/guess/", None), (server.url, "evil.example:80")):
            with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
                fetch(url, host=host)
            with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
                fetch(f"{url}choice", form, host)
    assert len(judging.open()) == 23


@pytest.mark.parametrize(
    ("against", "name", "message"),
    [
        ({}, "ada", "nothing to compare"),
        ({"people": None}, "two words", "one word"),
        ({"people": None}, "../x", "one word"),
    ],
)
def test_what_cannot_be_judged_is_refused(run, people, against, name, message):
    with pytest.raises(UsageError, match=message):
        Judging(run, dict.fromkeys(against, people), name)


class FakeConsole:
    """A console that passes the page's address on."""

    def __init__(self):
        self.url = asyncio.get_running_loop().create_future()

    def say(self, text):
        self.url.set_result(text.split()[0])


def post(url, form):
    """Return the answer to a form without following where it leads."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    try:
        connection.request("POST", f"{address.path}choice", urllib.parse.urlencode(form))
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("fetches_last_page", [True, False])
async def test_the_server_waits_for_the_last_page_to_be_fetched_but_not_for_long(
    run, people, fetches_last_page
):
    *before, last = Judging(run, {"people": people}, "ada").open()
    for question in before:
        Judging(run, {"people": people}, "ada").answer(question.id, "tie", 1.0)
    console = FakeConsole()
    request = JudgeRequest(
        run, {"people": people}, "ada", open_browser=False, last_page_s=3.0 if fetches_last_page else 0.01
    )
    serving = asyncio.ensure_future(judge(console, request))
    url = await console.url
    assert await asyncio.to_thread(post, url, {"question": last.id, "choice": "left"}) == 303
    if fetches_last_page:
        done, _ = await asyncio.wait({serving}, timeout=0.8)
        assert not done
        assert "23 of 23 answered" in (await asyncio.to_thread(fetch, url)).decode()
    assert len((await serving).judgements) == 23
