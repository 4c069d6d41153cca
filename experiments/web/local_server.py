"""Serves pages on the loopback address to clients that know a random token, and opens them without revealing
the token.

Other users of the machine can connect. Until a connection has sent the token it is unauthenticated: few are
kept, for a few seconds, and the oldest makes room for the next.
"""

from __future__ import annotations

import html
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_UNAUTHENTICATED = 16
"""Connections without the token that are kept at a time."""
UNAUTHENTICATED_S = 5.0
"""Seconds after which a connection without the token is closed."""
IDLE_S = 120.0
"""Seconds that a connection with the token may be silent; an open page gets changes more often."""


class LoopbackServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1. `token` is the random token that every address begins with."""

    daemon_threads = True

    def __init__(self, handler: type[LoopbackHandler], port: int) -> None:
        self.token = secrets.token_urlsafe(16)
        self._unauthenticated: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._unauthenticated[request] = time.monotonic()
            surplus = list(self._unauthenticated)[:-MAX_UNAUTHENTICATED]
        for oldest in surplus:
            self._reject(oldest)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close connections that have not sent the token in time; called several times a second."""
        before = time.monotonic() - UNAUTHENTICATED_S
        with self._lock:
            late = [request for request, since in self._unauthenticated.items() if since < before]
        for request in late:
            self._reject(request)

    def admit(self, request: socket.socket) -> None:
        """Keep a connection that has sent the token."""
        with self._lock:
            self._unauthenticated.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._unauthenticated.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who closes the page is no fault."""

    def _reject(self, request: socket.socket) -> None:
        with self._lock:
            self._unauthenticated.pop(request, None)
        with suppress(OSError):  # its thread then ends by itself
            request.shutdown(socket.SHUT_RDWR)


class LoopbackHandler(BaseHTTPRequestHandler):
    """Answers those who name the server's token; a subclass says with what."""

    server: LoopbackServer
    sys_version = ""
    timeout = UNAUTHENTICATED_S

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def below(self) -> str | None:
        """Return the address below the token. Answer a client that does not know it, or came by another name,
        and return None.
        """
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in ("127.0.0.1", "localhost"):
            self.refuse(HTTPStatus.FORBIDDEN, "only from this machine")
            return None
        address = unquote(urlsplit(self.path).path).lstrip("/")
        token, _, below = address.partition("/")
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self.refuse(HTTPStatus.NOT_FOUND, "not here")
            return None
        self.server.admit(self.connection)
        self.connection.settimeout(IDLE_S)
        return below

    def refuse(self, status: HTTPStatus, words: str) -> None:
        """Answer in a line, and end the connection."""
        self.close_connection = True
        self.answer(status, f"{words}\n".encode(), "text/plain; charset=utf-8")

    def answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.head(status, len(content), kind)
        if self.command != "HEAD":
            self.wfile.write(content)

    def head(self, status: HTTPStatus, length: int, kind: str, **more: str) -> None:
        """Send the headers of an answer; those of `more` have `_` for `-`."""
        headers = {
            "Content-Type": kind, "Content-Length": str(length), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
            "Connection": "close" if self.close_connection else "keep-alive",
        } | {name.replace("_", "-"): value for name, value in more.items()}  # fmt: skip
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def form(self, longest: int) -> bytes | None:
        """Return the body of a request; answer and return None if its length is missing, no number, or above
        `longest`.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) <= 9 and 0 < int(length) <= longest):
            self.refuse(HTTPStatus.BAD_REQUEST, f"Content-Length must be a number from 1 to {longest}")
            return None
        return self.rfile.read(int(length))


@contextmanager
def shown_in_browser(url: str, start: Callable[[str], object] | None = None) -> Iterator[None]:
    """Open an address in the person's browser for as long as the context lasts.

    By way of a file that only its owner reads: what a browser is started with, every user of the machine can
    see. `start` starts a browser with an address; None takes the person's.
    """
    import webbrowser

    start = start or webbrowser.open
    folder = Path(tempfile.mkdtemp(prefix="maia-open-"))  # 0700
    page = folder / "open.html"
    try:
        page.touch(0o600)
        target = html.escape(url, quote=True)
        page.write_text(
            f'<!doctype html><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Open</a>\n'
        )
        start(page.as_uri())
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
