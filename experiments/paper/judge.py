"""`maia judge`: people compare two methods' labels, without knowing which is whose (MAIA 4.2, Table 1).

A page on this machine shows a unit's exemplars and two labels. Which stands left is drawn for every judge and
unit; nothing on the page names a method, a network or a unit. Every choice is on disk before the next is
shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from actors.errors import UsageError
from actors.images import encode_png
from agents.evidence.statistics import wilson_interval
from agents.records.journal import Blobs
from agents.records.record_types import Judgement, encode_record, load_record
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.paper.evaluation.run_labels import OURS, gather, records_of
from experiments.report import pages
from experiments.report.schema import Cell, DataTable, Estimate, Page, columns
from experiments.setup.console import Console
from experiments.web.local_server import LoopbackHandler, LoopbackServer, shown_in_browser

_ICON = Path(__file__).parents[1] / "report" / "assets" / "icon.svg"
_log = logging.getLogger(__name__)
CHOICES = ("left", "right", "tie")
_MAX_FORM_BYTES = 10_000
PAPER: Mapping[str, tuple[float, str]] = {
    "MAIA against MILAN": (0.73, "85 neurons, 10 judges each"),
    "MAIA against human": (0.53, "a quarter of the neurons"),
    "human against MILAN": (0.83, "a quarter of the neurons"),
}
"""Win rates of Table 1. Its intervals are narrower than ten judges a comparison allow."""


@dataclass(frozen=True)
class LabelComparison:
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
        records = {record.unit: record for _, record in records_of(run)}
        questions = []
        for unit in gather(run, against):
            for other in against:
                if unit.labels[OURS] == unit.labels[other]:
                    continue
                draw = hashlib.blake2b(f"{seed}/{judge}/{unit.unit}/{other}".encode(), digest_size=8).digest()
                methods = (OURS, other) if draw[0] % 2 else (other, OURS)
                images = tuple(exemplar.image for exemplar in records[unit.unit].exemplars)
                labels = (unit.labels[methods[0]], unit.labels[methods[1]])
                questions.append(LabelComparison(draw.hex(), unit.unit, methods, labels, images))
        if not questions:
            raise UsageError("no unit has two different labels to compare.")
        # In an order of each judge's own: what is asked late is asked of tired eyes.
        self.questions = {question.id: question for question in sorted(questions, key=lambda q: q.id)}
        self.finished = threading.Event()
        self._finish_if_answered()

    def open(self) -> list[LabelComparison]:
        """Return the questions without an answer, in the judge's order."""
        return [
            question for question in self.questions.values() if not self.store.has(self._key(question.id))
        ]

    def answer(self, question_id: str, choice: str, seconds: float) -> bool:
        """Record a choice. Return False if the question or the choice is unknown. The first answer counts."""
        question = self.questions.get(question_id)
        if question is None or choice not in CHOICES:
            return False
        left, right = question.methods
        won = {"left": left, "right": right, "tie": ""}[choice]
        judgement = Judgement(
            judge=self.judge,
            unit=question.unit,
            methods=[left, right],
            labels=list(question.labels),
            choice=choice,
            won=won,
            seconds=round(seconds, 1),
        )
        self.store.put(self._key(question_id), encode_record(judgement))
        self._finish_if_answered()
        return True

    def _finish_if_answered(self) -> None:
        if not self.open():
            self.finished.set()

    def _key(self, question_id: str) -> str:
        return f"judgements/{self.judge}/{question_id}.json"


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often ours won against another method, a tie counting half, with Wilson's 95% interval."""

    n: int
    judges: int
    wins: int
    ties: int
    rate: float
    interval: tuple[float, float]
    left: float | None
    """Share of the decided comparisons in which the left label was chosen; None without any."""

    @classmethod
    def of(cls, judgements: Sequence[Judgement]) -> WinRate:
        n, won = len(judgements), [judgement.won for judgement in judgements]
        wins, ties = won.count(OURS), won.count("")
        decided = [judgement.choice for judgement in judgements if judgement.won]
        return cls(
            n,
            len({judgement.judge for judgement in judgements}),
            wins,
            ties,
            (wins + ties / 2) / n,
            wilson_interval(wins + ties / 2, n),
            decided.count("left") / len(decided) if decided else None,
        )


@dataclass(frozen=True)
class JudgeResult:
    """What `judgements.json` holds: every choice on record, and the win rate against each other method."""

    judgements: list[Judgement]
    summary: dict[str, WinRate]
    experiment: str = field(default="judge", kw_only=True)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"judgements": [judgement.to_json() for judgement in self.judgements]}


def results(run: Path) -> JudgeResult:
    """Return every judgement of a run, and write `judgements.json` and a page."""
    store = Store(run)
    judgements = _judgements(store)
    by_method: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        other = next(method for method in judgement.methods if method != OURS)
        by_method.setdefault(other, []).append(judgement)
    summary = {method: WinRate.of(chosen) for method, chosen in by_method.items()}
    result = JudgeResult(judgements, summary)
    store.replace_json("judgements.json", result.to_json())
    if judgements:
        page(summary).save(run, "judgements")
    return result


def _judgements(store: Store) -> list[Judgement]:
    """Return the choices on record; one that is damaged is logged and does not count."""
    judgements = []
    for key in store.keys("judgements"):
        try:
            judgement = load_record(store, key, Judgement)
        except RecordError as error:
            _log.warning("%s", error.message)
            continue
        if judgement is None:
            continue
        if judgement.methods.count(OURS) == 1 and _is_choice(judgement):
            judgements.append(judgement)
        else:
            _log.warning("%s holds no choice between this system and another method", store.root / key)
    return judgements


def _is_choice(judgement: Judgement) -> bool:
    left, right = judgement.methods
    return {"left": left, "right": right, "tie": ""}.get(judgement.choice) == judgement.won


def page(summary: Mapping[str, WinRate]) -> Page:
    """Return the page of the judgements, with Table 1."""
    rows: list[tuple[Cell, ...]] = [
        (f"{OURS} against {method}", won.n, won.judges, Estimate.of(won.rate, won.interval), None, won.left)
        for method, won in summary.items()
    ]
    rows += [(f"the paper: {name}", None, None, None, rate, None) for name, (rate, _) in PAPER.items()]
    note = (
        "A tie counts half. Intervals are Wilson's over judgements and treat them as independent. "
        '"Left chosen" should be near one half.'
    )
    return Page(
        title="Judged by people",
        summary="; ".join(f"{OURS} wins {won.rate:.2f} against {method}" for method, won in summary.items()),
        blocks=(
            DataTable(
                title="Table 1",
                columns=(
                    *columns("comparison"),
                    *columns("judgements", "judges", digits=0),
                    *columns("win rate of the first", source="ours"),
                    *columns("win rate of the first", source="paper"),
                    *columns("left chosen"),
                ),
                rows=tuple(rows),
                note=note,
            ),
        ),
    )


class JudgeServer:
    """Serves one judge's questions on the loopback address until it is closed; a context manager.

    The address ends in a random word, so that no other user of the machine, and no web page, can answer.
    """

    def __init__(
        self, judging: Judging, run: Path, *, port: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.last_page_sent = threading.Event()
        """Set once the page that says that all is answered was sent."""
        handler = _handler(judging, Blobs(Store(run.resolve())), clock, self.last_page_sent)
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


_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def _handler(
    judging: Judging, blobs: Blobs, clock: Callable[[], float], last_page_sent: threading.Event
) -> type[LoopbackHandler]:
    shown: dict[str, float] = {}

    class JudgeHandler(LoopbackHandler):
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
                return None if waiting else last_page_sent.set()
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
            if (body := self.form(_MAX_FORM_BYTES)) is None:
                return None
            form = parse_qs(body.decode("utf-8", "replace"))
            asked, choice = form.get("question", [""])[0], form.get("choice", [""])[0]
            if not judging.answer(asked, choice, clock() - shown.get(asked, clock())):
                return self.refuse(HTTPStatus.BAD_REQUEST, "no such question or choice")
            self.head(HTTPStatus.SEE_OTHER, 0, "text/plain", Location=f"/{self.server.token}/")

        @staticmethod
        def _belongs(image: str) -> bool:
            return any(image in question.images for question in judging.questions.values())

        def _page(self, waiting: Sequence[LabelComparison]) -> None:
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

    return JudgeHandler


@dataclass(frozen=True)
class JudgeRequest:
    """What a command line asks for."""

    run: Path
    against: Mapping[str, Path]
    name: str
    """The judge's name."""
    seed: int = 0
    port: int = 0
    open_browser: bool = True
    last_page_s: float = 3.0
    """Seconds at most that the judge's browser has to fetch the last page."""


async def judge(console: Console, request: JudgeRequest) -> JudgeResult:
    """Serve a judge's page until all is answered or interrupted, and return the results.

    Raises:
        UsageError: If there is nothing to compare, or the port is taken.
    """
    run, port = request.run, request.port
    judging = await asyncio.to_thread(Judging, run, request.against, request.name, seed=request.seed)
    try:
        server = JudgeServer(judging, run, port=port)
    except OSError as error:
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}).", "Choose another with --port."
        ) from error
    with server:
        n_open = len(judging.open())
        console.say(f"{server.url} ({n_open} comparisons, Ctrl-C ends and keeps what was answered)")
        try:
            with shown_in_browser(server.url) if request.open_browser else nullcontext():
                while not await asyncio.to_thread(judging.finished.wait, 0.5):
                    pass
                if n_open:
                    # The last answer is on disk, but its reply sends the browser to one more page.
                    await asyncio.to_thread(server.last_page_sent.wait, request.last_page_s)
        except asyncio.CancelledError:
            await asyncio.to_thread(results, run)
            raise
    return await asyncio.to_thread(results, run)


def table(result: JudgeResult) -> str:
    """Return the win rates in lines for a terminal."""
    lines = [""]
    for method, won in result.summary.items():
        low, high = won.interval
        lines.append(
            f"{OURS} against {method}: {won.rate:.2f} ({low:.2f} to {high:.2f}) of {won.n} judgements by "
            f"{won.judges} judges, {won.ties} ties"
        )
    return "\n".join(lines)
