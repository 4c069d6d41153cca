"""Other users of the machine learn no address from a browser's start, and can keep nobody else out."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from experiments.web.local_server import (
    MAX_UNAUTHENTICATED,
    LoopbackHandler,
    LoopbackServer,
    shown_in_browser,
)
from experiments.web.report_server import RunServer
from tests.experiments.report.run_directories import FakeRun


class Page(LoopbackHandler):
    """One page, and a form of at most eight bytes."""

    def do_GET(self) -> None:
        if self.below() is not None:
            self.answer(HTTPStatus.OK, b"page", "text/plain")

    def do_POST(self) -> None:
        if self.below() is not None and (form := self.form(8)) is not None:
            self.answer(HTTPStatus.OK, form, "text/plain")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(Page, 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join(20)


def ask(server: LoopbackServer, method: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    connection.putrequest(method, f"/{server.token}/")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    answered = response.status, response.read()
    connection.close()
    return answered


def test_a_browser_is_started_with_a_file_that_only_its_owner_reads(server: LoopbackServer) -> None:
    """What a process is started with, every user of the machine can list."""
    url = f"http://127.0.0.1:{server.server_address[1]}/{server.token}/a&b"
    started: list[str] = []
    with shown_in_browser(url, started.append):
        (argument,) = started
        page = Path(unquote(urlsplit(argument).path))
        assert server.token not in argument
        assert url.replace("&", "&amp;") in page.read_text()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (page, page.parent)]
        assert modes == [0o600, 0o700]
    assert not page.parent.exists()


@pytest.mark.slow
def test_connections_without_the_token_are_few_and_block_no_client(server: LoopbackServer) -> None:
    """However many are opened, a reader is answered, and the oldest unauthenticated connections are gone."""
    before = threading.active_count()
    with ExitStack() as stack:
        address = ("127.0.0.1", server.server_address[1])
        connections = [
            stack.enter_context(socket.create_connection(address, 30)) for _ in range(3 * MAX_UNAUTHENTICATED)
        ]
        assert ask(server, "GET") == (200, b"page")
        for oldest in connections[: -MAX_UNAUTHENTICATED - 1]:
            assert oldest.recv(1) == b""
        assert threading.active_count() - before <= MAX_UNAUTHENTICATED + 2


@pytest.mark.parametrize("message", ["abc", "-1", "0", "9", "1e1", "٣", "9" * 400, ""])
def test_a_length_that_is_none_is_refused_in_a_line(
    server: LoopbackServer, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and no waiting for what does not come."""
    status, _ = ask(server, "POST", Content_Length=message.encode().decode("latin-1"))
    assert status == 400
    assert capfd.readouterr().err == ""


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    """Several readers of an image of 64 MiB take some chunks of memory."""
    run = FakeRun(tmp_path / "run")
    run.write_unit(3)
    image = run.root / "blobs" / "ab" / f"{'ab' * 16}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(64 << 20)
    with RunServer(run.root) as server:
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=60)
        tracemalloc.start()
        connection.request("GET", f"/{server.token}/blobs/ab/{image.name}")
        response, size = connection.getresponse(), 0
        while chunk := response.read(1 << 16):
            size += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        connection.close()
    assert size == 64 << 20
    assert peak < 8 << 20
