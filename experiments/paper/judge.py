"""`maia judge`: people compare two methods' labels, without knowing which is whose (MAIA 4.2, Table 1).

A page on this machine shows a unit's exemplars and two labels. Which stands left is drawn for every judge and
unit; nothing on the page names a method, a network or a unit. Every choice is on disk before the next is
shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from actors.errors import UsageError
from actors.images import encode_png
from agents.evidence.statistics import wilson_interval
from agents.records.journal import Blobs
from agents.records.record_types import Judgement, read_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.paper.evaluate import OURS, gather, records_of
from experiments.report import pages
from experiments.report.schema import Cell, DataTable, Estimate, Page, TableColumn
from experiments.setup.console import Console
from experiments.web.local_server import LoopbackHandler, LoopbackServer, shown_in_browser

_ICON = Path(__file__).parents[1] / "report" / "assets" / "icon.svg"
_log = logging.getLogger(__name__)
CHOICES = ("left", "right", "tie")
_LONGEST_FORM = 10_000
_FAREWELL_S = 3.0
"""Seconds at most that a judge's browser has to fetch the last page."""
PAPER: Mapping[str, tuple[float, str]] = {
    "MAIA against MILAN": (0.73, "85 neurons, 10 judges each"),
    "MAIA against human": (0.53, "a quarter of the neurons"),
    "human against MILAN": (0.83, "a quarter of the neurons"),
}
"""Win rates of Table 1. Its intervals are narrower than ten judges a comparison allow."""


@dataclass(frozen=True)
class Question:
    """One comparison. `methods` are in the order of `labels`; `id` says nothing about them."""

    id: str
    unit: str
    methods: tuple[str, str]
    labels: tuple[str, str]
    images: tuple[str, ...]


class Judging:
    """The questions of one judge over one run, and what was answered."""

    def __init__(self, run: Path, against: Mapping[str, Path], judge: str, *, seed: int = 0) -> None:
        """Prepare the questions.

        Raises:
            UsageError: If the judge's name is unusable, or there is nothing to compare.
        """
        if not re.fullmatch(r"[\w-]{1,40}", judge):
            raise UsageError(f"a judge's name is one word of letters, digits, - and _, got {judge!r}")
        if not against:
            raise UsageError("there is nothing to compare with.", "Add --against NAME=DIR or NAME=FILE.json.")
        self.store, self.judge = Store(run), judge
        records = {record["unit"]: record for _, record in records_of(run)}
        questions = []
        for unit in gather(run, against):
            for other in against:
                if unit.labels[OURS] == unit.labels[other]:
                    continue
                draw = hashlib.blake2b(f"{seed}/{judge}/{unit.unit}/{other}".encode(), digest_size=8).digest()
                methods = (OURS, other) if draw[0] % 2 else (other, OURS)
                images = tuple(each["image"] for each in records[unit.unit].get("exemplars") or ())
                labels = (unit.labels[methods[0]], unit.labels[methods[1]])
                questions.append(Question(draw.hex(), unit.unit, methods, labels, images))
        if not questions:
            raise UsageError("no unit has two different labels to compare.")
        # In an order of each judge's own: what is asked late is asked of tired eyes.
        self.questions = {each.id: each for each in sorted(questions, key=lambda q: q.id)}
        self.finished = threading.Event()
        self._note()

    def open(self) -> list[Question]:
        """Return the questions without an answer, in the judge's order."""
        return [each for each in self.questions.values() if not self.store.has(self._key(each.id))]

    def answer(self, question_id: str, choice: str, seconds: float) -> bool:
        """Write a choice down; False if the question or the choice is unknown. The first answer counts."""
        question = self.questions.get(question_id)
        if question is None or choice not in CHOICES:
            return False
        left, right = question.methods
        won = {"left": left, "right": right, "tie": ""}[choice]
        record = {
            "judge": self.judge, "unit": question.unit, "methods": [left, right], "labels": list(question.labels),
            "choice": choice, "won": won, "seconds": round(seconds, 1),
        }  # fmt: skip
        self.store.put(self._key(question_id), json.dumps(record, ensure_ascii=False).encode())
        self._note()
        return True

    def _note(self) -> None:
        if not self.open():
            self.finished.set()

    def _key(self, question_id: str) -> str:
        return f"judgements/{self.judge}/{question_id}.json"


def results(run: Path) -> dict[str, Any]:
    """Return every judgement of a run, and the win rate of each pair of methods; also written to
    `judgements.json`.
    """
    store = Store(run)
    found = _judgements(store)
    pairs: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        other = next(method for method in each["methods"] if method != OURS)
        pairs.setdefault(other, []).append(each)
    summary = {name: _rate(chosen) for name, chosen in pairs.items()}
    result = {"experiment": "judge", "judgements": found, "summary": summary}
    store.replace("judgements.json", json.dumps(result, indent=1, ensure_ascii=False).encode())
    if found:
        page(summary).save(run, "judgements")
    return result


def _judgements(store: Store) -> list[dict[str, Any]]:
    """Return the choices on record; one that is damaged is logged and counts nothing."""
    found = []
    for key in store.keys("judgements"):
        try:
            record = read_record(store, key, Judgement) or {}
        except RecordError as error:
            _log.warning("%s", error.message)
            continue
        methods = record["methods"]
        if methods.count(OURS) == 1 and _is_choice(record):
            found.append(record)
        else:
            _log.warning("%s holds no choice between this system and another method", store.root / key)
    return found


def _is_choice(record: Mapping[str, Any]) -> bool:
    left, right = record["methods"]
    return {"left": left, "right": right, "tie": ""}.get(record["choice"]) == record["won"]


def _rate(chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the win rate of ours with Wilson's interval; a tie counts half. `left` is how often the left was
    chosen.
    """
    wins, ties = sum(each["won"] == OURS for each in chosen), sum(not each["won"] for each in chosen)
    decided = [each for each in chosen if each["won"]]
    return {
        "n": len(chosen),
        "judges": len({each["judge"] for each in chosen}),
        "wins": wins,
        "ties": ties,
        "rate": (wins + ties / 2) / len(chosen),
        "interval": list(wilson_interval(wins + ties / 2, len(chosen))),
        "left": sum(each["choice"] == "left" for each in decided) / len(decided) if decided else None,
    }


def page(summary: Mapping[str, Mapping[str, Any]]) -> Page:
    """Return the page of the judgements, beside Table 1."""
    rows: list[tuple[Cell, ...]] = [
        (f"{OURS} against {name}", each["n"], each["judges"],
         Estimate(value=each["rate"], low=min(each["interval"][0], each["rate"]), high=max(each["interval"][1], each["rate"])),
         None, each["left"])
        for name, each in summary.items()
    ]  # fmt: skip
    rows += [(f"the paper: {name}", None, None, None, rate, None) for name, (rate, _) in PAPER.items()]
    columns = (
        TableColumn(name="comparison"), TableColumn(name="judgements", digits=0), TableColumn(name="judges", digits=0),
        TableColumn(name="win rate of the first", source="ours"), TableColumn(name="win rate of the first", source="paper"),
        TableColumn(name="left chosen"),
    )  # fmt: skip
    return Page(
        title="Judged by people",
        summary="; ".join(f"{OURS} wins {each['rate']:.2f} against {name}" for name, each in summary.items()),
        blocks=(
            DataTable(title="Table 1", columns=columns, rows=tuple(rows), note="A tie counts half. Intervals are Wilson's over "
                  "judgements and treat them as independent. \"Left chosen\" should be near one half."),
        ),
    )  # fmt: skip


class JudgeServer:
    """Serves one judge's questions on the loopback address until it is closed; a context manager.

    The address ends in a random word, so that no other user of the machine, and no web page, can answer.
    """

    def __init__(
        self, judging: Judging, run: Path, *, port: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.farewell = threading.Event()
        """Set once the page that says that all is answered was sent."""
        handler = _handler(judging, Blobs(Store(run.resolve())), clock, self.farewell)
        self._server = LoopbackServer(handler, port)
        self.token = self._server.token
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="maia-judge", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> JudgeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def _handler(
    judging: Judging, blobs: Blobs, clock: Callable[[], float], farewell: threading.Event
) -> type[LoopbackHandler]:
    shown: dict[str, float] = {}

    class Handler(LoopbackHandler):
        server_version = "maia-judge"

        def do_GET(self) -> None:
            below = self.below()
            if below is None:
                return None
            if below == "":
                waiting = judging.open()
                if waiting:
                    shown.setdefault(waiting[0].id, clock())
                self._page(waiting)
                return None if waiting else farewell.set()
            if below == "icon.svg":
                return self.answer(HTTPStatus.OK, _ICON.read_bytes(), "image/svg+xml")
            match = re.fullmatch(r"image/([0-9a-f]+)", below)
            if match is None or not self._belongs(match[1]):
                return self.refuse(HTTPStatus.NOT_FOUND, "not here")
            try:
                picture = encode_png(blobs.get(match[1]))
            except RecordError:
                return self.refuse(HTTPStatus.NOT_FOUND, "not here")
            self.answer(HTTPStatus.OK, picture, "image/png")

        def do_POST(self) -> None:
            below = self.below()
            if below is None:
                return None
            if below != "choice":
                return self.refuse(HTTPStatus.NOT_FOUND, "not here")
            if (body := self.form(_LONGEST_FORM)) is None:
                return None
            form = parse_qs(body.decode("utf-8", "replace"))
            asked, choice = form.get("question", [""])[0], form.get("choice", [""])[0]
            if not judging.answer(asked, choice, clock() - shown.get(asked, clock())):
                return self.refuse(HTTPStatus.BAD_REQUEST, "no such question or choice")
            self.head(HTTPStatus.SEE_OTHER, 0, "text/plain", Location=f"/{self.server.token}/")

        @staticmethod
        def _belongs(image: str) -> bool:
            return any(image in question.images for question in judging.questions.values())

        def _page(self, waiting: Sequence[Question]) -> None:
            content = pages.render(
                "judge.html",
                token=self.server.token,
                question=waiting[0] if waiting else None,
                done=len(judging.questions) - len(waiting),
                total=len(judging.questions),
            ).encode("utf-8", "replace")
            kind = "text/html; charset=utf-8"
            self.head(HTTPStatus.OK, len(content), kind, Content_Security_Policy=_POLICY)
            self.wfile.write(content)

    return Handler


async def judge(
    console: Console,
    run: Path,
    against: Mapping[str, Path],
    name: str,
    *,
    port: int = 0,
    seed: int = 0,
    open_browser: bool = True,
) -> dict[str, Any]:
    """Serve a judge's page until all is answered or interrupted, and return the results.

    Raises:
        UsageError: If there is nothing to compare, or the port is taken.
    """
    judging = await asyncio.to_thread(Judging, run, against, name, seed=seed)
    try:
        server = JudgeServer(judging, run, port=port)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}).", "Choose another with --port."
        ) from error
    with server:
        asked = len(judging.open())
        console.say(f"{server.url} ({asked} comparisons, Ctrl-C ends and keeps what was answered)")
        try:
            with shown_in_browser(server.url) if open_browser else nullcontext():
                while not await asyncio.to_thread(judging.finished.wait, 0.5):
                    pass
                if asked:
                    # The last answer is on disk, but its reply sends the browser to one more page.
                    await asyncio.to_thread(server.farewell.wait, _FAREWELL_S)
        except asyncio.CancelledError:
            await asyncio.to_thread(results, run)
            raise
    return await asyncio.to_thread(results, run)


def table(result: Mapping[str, Any]) -> str:
    """Return the win rates in lines for a terminal."""
    lines = [""]
    for name, each in result["summary"].items():
        low, high = each["interval"]
        lines.append(
            f"{OURS} against {name}: {each['rate']:.2f} ({low:.2f} to {high:.2f}) of {each['n']} judgements by "
            f"{each['judges']} judges, {each['ties']} ties"
        )
    return "\n".join(lines)
