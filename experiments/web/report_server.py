"""Shows a run on this machine and nowhere else, and notifies open pages when something changed.

Only the run's `report/` and `blobs/` are read. Without trials it is read-only: only GET and HEAD. With them a
unit's page may ask for trials and send notes, and a page of another origin may not. It listens on the
loopback address and answers only to loopback names, so that no web page elsewhere can read a run through the
reader's browser. The address holds a random token: other users of the machine can't guess it.
"""

from __future__ import annotations

import html
import json
import os
import re
import threading
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

from actors.errors import MaiaError, UsageError
from agents.records import run_files
from agents.records.journal import Journal
from agents.records.run_files import RecordError
from experiments.atlas.front_page import write_report
from experiments.records.leave_note import note_for
from experiments.records.lookup import find_unit
from experiments.report import experiment_page, pages
from experiments.report.records import RunDirectory
from experiments.report.unit.trials import account
from experiments.web.local_server import LoopbackHandler, LoopbackServer
from experiments.web.trials import (
    MOST_BODY,
    MOST_NOTE,
    AskedNote,
    TrialDesk,
    TrialEvent,
    read_note,
    read_trial,
)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".png": "image/png",
}
_SERVED = re.compile(
    r"report/((index|overview|figures)\.html|units\.js|atlas/[a-z0-9-]+\.js|(units|layers|experiments)/[^/.][^/]*\.html)|blobs/[0-9a-f]{2}/[0-9a-f]{8,64}\.(webp|png)"
)
"""What the report's writer made, and stored images: nothing else of a run is served."""
_LIVE = '<script src="/{token}/report/assets/live.js" data-seen="{seen}"></script>\n'
"""`seen` is the count of changes when the page was read: the page may begin to listen only after the next
one. It runs before scripts that wait for the page, so that it meets the page as it was written.
"""
_PLAYGROUND = '<script src="/{token}/report/assets/playground.js" data-unit="{slug}"></script>\n'
_UNIT_PAGE = re.compile(r"report/units/([^/.][^/]*)\.html")
_ASKED = re.compile(r"(trials|notes)/([^/.][^/]*)")
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri "
    "'none'; form-action 'none'; frame-ancestors 'none'"
)
_CHUNK = 1 << 16
_HEARTBEAT_S = 15.0


class ChangeCounter:
    """A count of changes that any number of threads can wait on."""

    def __init__(self) -> None:
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        return self._count

    @property
    def closed(self) -> bool:
        return self._closed

    def increment(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> int:
        """Return the count once it is not `seen`, or after `timeout_s`, or when it was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._count != seen or self._closed, timeout_s)
            return self._count


class RunServer:
    """Serves one run until it is closed; a context manager.

    `poll_s`: seconds between two checks of the run's records. `port` 0 takes any that is free.
    """

    def __init__(
        self, run_dir: Path, *, port: int = 0, poll_s: float = 1.0, trials: TrialDesk | None = None
    ) -> None:
        """Write the site, listen, and start watching; without `trials` it is read-only.

        Raises:
            UsageError: If there is no such run.
            OSError: If the port is taken.
        """
        self._run_dir = run_dir.resolve()
        write_report(self._run_dir)
        self.changes = ChangeCounter()
        self._poll_s = poll_s
        self._server = _RunHttpServer(self._run_dir, self.changes, port, trials)
        self.token = self._server.token
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="maia-view", daemon=True),
            threading.Thread(target=self._watch, name="maia-view-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/report/index.html"

    @property
    def entry(self) -> str:
        """The address to begin at: of a run of one unit, its page."""
        pages = [*(self._run_dir / "report" / "units").glob("*.html")]
        if len(pages) != 1:
            return self.url
        return self.url.removesuffix("index.html") + f"units/{quote(pages[0].name)}"

    def close(self) -> None:
        self._stopped.set()
        self.changes.close()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> RunServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        seen = _state(self._run_dir)
        while not self._stopped.wait(self._poll_s):
            state = _state(self._run_dir)
            if state == seen:
                continue
            try:
                write_report(self._run_dir)
            except (OSError, UsageError, RecordError):
                continue  # a full disk, or a folder moved away: the next check tries again
            seen = state
            self.changes.increment()


def _state(run_dir: Path) -> dict[str, str | int]:
    """Return when each unit's records last changed; a folder that is gone has no units."""
    if not run_dir.is_dir():
        return {}
    run = RunDirectory(run_dir)
    units: dict[str, str | int] = {slug: run.state(slug) for slug in run.slugs()}
    experiments = {f"experiments/{name}": date for name, date in experiment_page.newest(run)}
    return units | experiments | {"": run.plan_state()}


class _RunHttpServer(LoopbackServer):
    """The HTTP server of one run."""

    def __init__(self, run_dir: Path, changes: ChangeCounter, port: int, trials: TrialDesk | None) -> None:
        self.run_dir, self.changes, self.trials = run_dir, changes, trials
        super().__init__(_RunHandler, port)


class _RunHandler(LoopbackHandler):
    """Answers with the report's pages, assets and images, and with a stream of changes."""

    server: _RunHttpServer
    server_version = "maia-view"
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        below = self.below()
        if below is None:
            return None
        if below == "events":
            return self._events()
        key = _served(below)
        seen = self.server.changes.count  # before the page is read: it hears of what changes from here on
        try:
            handle = None if key is None else run_files.open_file(self.server.run_dir, key)
        except (OSError, RecordError):
            handle = None
        if key is None or handle is None:
            return self.answer(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
        with os.fdopen(handle, "rb") as file:
            # Behind the page's end, where browsers still take it: the page is not read for it.
            script = _LIVE.format(token=self.server.token, seen=seen) if key.endswith(".html") else ""
            if self.server.trials is not None and (unit := self._unit(_UNIT_PAGE.fullmatch(key))):
                script += _PLAYGROUND.format(token=self.server.token, slug=html.escape(unit, quote=True))
            self._send(file, os.fstat(handle).st_size, Path(key).suffix, script.encode())

    def do_POST(self) -> None:
        """Carry out a trial, or leave a note."""
        if self.server.trials is None:
            return self.send_error(HTTPStatus.NOT_IMPLEMENTED)
        below = self.below()
        if below is None:
            return None
        # A form of another site can send neither this origin nor this type.
        own = f"http://{self.headers.get('Host')}"
        if self.headers.get("Origin") != own or self.headers.get("Content-Type") != "application/json":
            return self.refuse(HTTPStatus.FORBIDDEN, "only from the page of a unit")
        asked = _ASKED.fullmatch(below)
        unit = self._unit(asked, 2)
        if asked is None or not unit:
            return self.refuse(HTTPStatus.NOT_FOUND, "not here")
        if (body := self.form(MOST_BODY if asked[1] == "trials" else MOST_NOTE)) is None:
            return None
        self.close_connection = True
        try:
            trial = read_trial(body) if asked[1] == "trials" else None
            done = [] if trial else [self._leave_note(unit, read_note(body))]
        except MaiaError as error:
            trial, done = None, [TrialEvent(error=f"{error.message} {error.fix}".strip())]
        except OSError as error:
            trial, done = None, [TrialEvent(error=f"the run cannot be read: {error.strerror}.")]
        if trial is None:
            return self._steps(done)
        with closing(self.server.trials.begin(unit, trial)) as steps:
            return self._steps(steps)

    def _unit(self, named: re.Match[str] | None, group: int = 1) -> str:
        """Return the unit that an address names by its folder, "" if there is none."""
        if named is None:
            return ""
        slug = re.sub(r"\.repeat-[0-9]+$", "", named[group])
        return slug if run_files.folder_state(self.server.run_dir, f"units/{slug}")[1] else ""

    def _steps(self, steps: Iterable[TrialEvent]) -> None:
        """Send each step as a line of JSON as soon as it is known."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        for step in steps:
            self.wfile.write(f"{json.dumps(asdict(step))}\n".encode())
            self.wfile.flush()

    def _leave_note(self, slug: str, asked: AskedNote) -> TrialEvent:
        unit = find_unit(self.server.run_dir / "units" / slug)
        text = asked.text
        if asked.trial is not None:
            trials = Journal(unit.store, unit.item.unit).trials()
            found = next((trial for trial in trials if trial.number == asked.trial), None)
            if found is None:
                raise UsageError(f"{unit.item.unit} has no trial {asked.trial}.", "Load the page again.")
            text = account(found)
        return TrialEvent(number=note_for(unit, text, "person").number)

    def _send(self, file: IO[bytes], size: int, suffix: str, live: bytes) -> None:
        # A stored image's address is its content; everything else may change at any moment.
        kept = "max-age=86400, immutable" if suffix in (".webp", ".png") else "no-store"
        self.head(
            HTTPStatus.OK,
            size + len(live),
            _TYPES[suffix],
            Cache_Control=kept,
            Content_Security_Policy=_POLICY,
        )
        if self.command == "HEAD":
            return
        while size and (chunk := file.read(min(size, _CHUNK))):
            self.wfile.write(chunk)
            size -= len(chunk)
        if size:  # cut off meanwhile: the reader must not wait for the rest
            self.close_connection = True
        else:
            self.wfile.write(live)

    def _events(self) -> None:
        """Tell the page of each change since it was read, until it goes away."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        seen = self._seen()
        self.wfile.write(b"retry: 1000\n\n")
        while not self.server.changes.closed:
            now = self.server.changes.wait(seen, _HEARTBEAT_S)
            event = f"id: {now}\ndata: changed\n\n" if now != seen else ": still here\n\n"
            self.wfile.write(event.encode())
            self.wfile.flush()
            seen = now

    def _seen(self) -> int:
        """Return the count of changes that the page names; where a connection was lost, the last that it
        was told.
        """
        named = self.headers.get("Last-Event-ID") or urlsplit(self.path).query.removeprefix("seen=")
        return int(named) if re.fullmatch(r"[0-9]{1,9}", named) else self.server.changes.count


def _served(below: str) -> str | None:
    """Return the key of the file that an address names if it is a page, an asset or an image of the run."""
    if below in ("", "report", "report/"):
        return "report/index.html"
    folder, _, name = below.rpartition("/")
    if folder == "report/assets" and name in _assets():
        return below
    return below if _SERVED.fullmatch(below) and "\0" not in below else None


@cache
def _assets() -> frozenset[str]:
    return frozenset(path.name for path in pages.ASSETS.iterdir())
