"""Shows a run on this machine and nowhere else, and tells open pages when something changed.

Read-only: only GET and HEAD, only the run's `report/` and `blobs/`. It listens on the loopback address and
answers only to loopback names, so that no web page elsewhere can read a run through the reader's browser.
The address ends in a random word: other users of the machine can't guess it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from actors.errors import UsageError
from experiments.report import experiment_page, write_site
from experiments.report.records import RunDirectory

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".png": "image/png",
}
_STORED = ("image/webp", "image/png")
_LIVE = '<script defer src="/{token}/report/assets/live.js"></script></body>'
_HEARTBEAT_S = 15.0


class News:
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

    def tell(self) -> None:
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

    `poll_s`: seconds between two looks at the run's records. `port` 0 takes any that is free.
    """

    def __init__(self, run_dir: Path, *, port: int = 0, poll_s: float = 1.0) -> None:
        """Write the site, listen, and start watching.

        Raises:
            UsageError: If there is no such run.
            OSError: If the port is taken.
        """
        self._run_dir = run_dir.resolve()
        write_site(self._run_dir)
        self.token = secrets.token_urlsafe(16)
        self.news = News()
        self._poll_s = poll_s
        self._server = _Server(("127.0.0.1", port), _handler(self._run_dir, self.token, self.news))
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="maia-view", daemon=True),
            threading.Thread(target=self._watch, name="maia-view-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/report/index.html"

    def close(self) -> None:
        self._stop.set()
        self.news.close()
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
        while not self._stop.wait(self._poll_s):
            state = _state(self._run_dir)
            if state == seen:
                continue
            try:
                write_site(self._run_dir)
            except (OSError, UsageError):
                continue  # a full disk, or a folder moved away: the next look tries again
            seen = state
            self.news.tell()


def _state(run_dir: Path) -> dict[str, str | int]:
    """Return when each unit's records last changed; a folder that is gone has no units."""
    if not run_dir.is_dir():
        return {}
    run = RunDirectory(run_dir)
    units: dict[str, str | int] = {slug: run.state(slug) for slug in run.slugs()}
    experiments = {f"experiments/{name}": date for name, date in experiment_page.newest(run)}
    return units | experiments | {"": run.plan_state()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who closes the page is no fault."""


def _handler(run_dir: Path, token: str, news: News) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "maia-view", ""
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in ("127.0.0.1", "localhost"):
                return self._answer(HTTPStatus.FORBIDDEN, b"only from this machine\n", "text/plain")
            address = unquote(urlsplit(self.path).path)
            if not secrets.compare_digest(address.split("/")[1].encode(), token.encode()):
                return self._answer(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            below = address[len(token) + 2 :]
            if below == "events":
                return self._events()
            path = _inside(run_dir, below)
            if path is None:
                return self._answer(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            try:
                content = path.read_bytes()
            except OSError:
                return self._answer(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            if path.suffix == ".html":
                content = content.replace(b"</body>", _LIVE.format(token=token).encode())
            self._answer(HTTPStatus.OK, content, _TYPES[path.suffix])

        def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            # A stored image's address is its content; everything else may change at any moment.
            self.send_header("Cache-Control", "max-age=86400, immutable" if kind in _STORED else "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _events(self) -> None:
            """Tell the page of each change until it goes away."""
            self.close_connection = True
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            seen = news.count
            self.wfile.write(b"retry: 1000\n\n")
            while not news.closed:
                now = news.wait(seen, _HEARTBEAT_S)
                self.wfile.write(b"data: changed\n\n" if now != seen else b": still here\n\n")
                self.wfile.flush()
                seen = now

    return Handler


def _inside(run_dir: Path, below: str) -> Path | None:
    """Return the file that an address names if it is a page, an asset or an image of the run."""
    if below in ("", "report", "report/"):
        below = "report/index.html"
    if "\0" in below or below.split("/")[0] not in ("report", "blobs"):
        return None
    try:
        path = (run_dir / below).resolve()
        inside = path.is_relative_to(run_dir / below.split("/")[0]) and path.is_file()
    except OSError:
        return None
    return path if inside and path.suffix in _TYPES and not path.name.startswith(".") else None
