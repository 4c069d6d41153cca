"""The server over its real transports: loopback HTTP with a token, and a process's standard streams."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from actors.errors import UsageError
from experiments.mcp_server.doorway import Doorway
from experiments.mcp_server.transport import listen, serve_http, token_of
from experiments.web.local_server import MAX_UNAUTHENTICATED
from tests.command_line import maia
from tests.experiments.mcp_server.conftest import CLIENT, words

TOKEN = "a-token-of-this-test"
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "bare", "version": "1"},
    },
}


@pytest.fixture
async def url(connect) -> AsyncIterator[str]:
    """Serve over HTTP while the test runs."""
    async with connect() as place, anyio.create_task_group() as group:
        addresses: list[str] = []
        listening = anyio.Event()

        def ready(address: str) -> None:
            addresses.append(address)
            listening.set()

        group.start_soon(serve_http, place.server, listen(0), TOKEN, ready)
        await listening.wait()
        yield addresses[0]
        group.cancel_scope.cancel()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_client_with_the_token_studies_over_http(url):
    async with (
        httpx2.AsyncClient(headers=bearer(TOKEN)) as http,
        Client(streamable_http_client(url, http_client=http), client_info=CLIENT) as client,
    ):
        opened = await client.call_tool("open_study", {"layer": "layer", "unit": "1"})
        shown = await client.call_tool("exemplars", {"study": "s1"})
    assert opened.structured_content["state"] == "ready"
    assert [part.type for part in shown.content[-2:]] == ["image", "image"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (bearer("another-token"), 401),
        (bearer(TOKEN + "x"), 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        (bearer(TOKEN) | {"Host": "evil.example"}, 421),
        (bearer(TOKEN) | {"Origin": "http://evil.example"}, 403),
        (bearer(TOKEN), 200),
    ],
)
async def test_only_this_machines_clients_with_the_token_are_answered(url, headers, status):
    accept = {"Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient() as http:
        answer = await http.post(url, json=HELLO, headers=accept | headers)
        elsewhere = await http.get(url.replace("/mcp", "/"), headers=headers)
    assert answer.status_code == status
    assert elsewhere.status_code == (401 if status == 401 else 404)


async def test_connections_without_the_token_are_few_and_keep_no_client_out(url):
    """The oldest makes room; one that was refused ends, however much it goes on sending."""
    host, port = url.split("/")[2].split(":")
    idle = [await anyio.connect_tcp(host, int(port)) for _ in range(2 * MAX_UNAUTHENTICATED)]
    accept = {"Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=bearer(TOKEN) | accept) as http:
        assert (await http.post(url, json=HELLO)).status_code == 200
    with anyio.fail_after(10):
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await idle[0].receive()
        await idle[-1].send(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await idle[-1].receive()).startswith(b"HTTP/1.1 401")
        with pytest.raises(anyio.BrokenResourceError):
            await flood(idle[-1])
    for connection in idle:
        await connection.aclose()


async def test_a_connection_without_the_token_is_closed_after_a_while():
    """One that has sent it stays."""
    doorway, client, stranger = Doorway(most=2, seconds=0.01), Connection(1), Connection(2)
    doorway.enter(client)
    doorway.enter(stranger)
    doorway.admit(("127.0.0.1", 1))
    with anyio.fail_after(5):
        await stranger.closed.wait()
    assert not client.closed.is_set()


class Connection:
    """A transport that notes that it was closed."""

    def __init__(self, port):
        self._port, self.closed = port, anyio.Event()

    def get_extra_info(self, name):
        return {"peername": ("127.0.0.1", self._port)}[name]

    def abort(self):
        self.closed.set()


async def flood(connection):
    while True:
        await connection.send(bytes(1 << 16))


def test_a_token_is_made_once_for_its_owner_alone(tmp_path):
    token, where = token_of(tmp_path / "cache", {})
    assert len(token) >= 40
    assert Path(where).stat().st_mode & 0o777 == 0o600
    assert token_of(tmp_path / "cache", {}) == (token, where)
    assert token_of(tmp_path, {"MAIA_MCP_TOKEN": "x" * 20}) == ("x" * 20, "the variable MAIA_MCP_TOKEN")


def test_a_token_that_others_could_know_is_refused(tmp_path):
    _, where = token_of(tmp_path, {})
    Path(where).chmod(0o644)
    with pytest.raises(UsageError, match="read or written by others"):
        token_of(tmp_path, {})
    with pytest.raises(UsageError, match="at least 16"):
        token_of(tmp_path, {"MAIA_MCP_TOKEN": "short"})


def test_a_port_that_is_taken_is_named():
    with listen(0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(UsageError, match=f"port {port} cannot be used"):
            listen(port)


@pytest.mark.slow
async def test_a_client_starts_the_command_and_its_output_holds_the_protocol_alone(tmp_path, config_file):
    command = shlex.join([sys.executable, "-m", "maia_main", "mcp", "--config", str(config_file())])
    log = tmp_path / "output"
    piped = f"{command} --out {tmp_path / 'run'} | tee {log}"
    server = StdioServerParameters(command="sh", args=["-c", piped], env=dict(os.environ))
    async with Client(server, client_info=CLIENT) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        status = await client.call_tool("status", {})
        refused = await client.call_tool("open_study", {"layer": "x", "unit": "latent:/etc/passwd:1"})
    assert {"open_study", "exemplars", "generate", "run_program", "answer", "wait"} <= tools
    assert status.structured_content["network"] == "tf_efficientnet_lite0"
    assert "clients name no files" in words(refused)
    assert not (tmp_path / "run").exists(), "nothing was studied"
    answers = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(answers) >= 4
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)


WAITING = """
import asyncio, signal, sys
from mcp.server import MCPServer
from experiments.mcp_server.transport import serve_stdio

async def main():
    serving = asyncio.ensure_future(serve_stdio(MCPServer("waiting")))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    asyncio.get_running_loop().call_later(0.1, print, "ready")
    await asyncio.wait([serving])
    sys.exit(0 if serving.cancelled() else 3)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_server_that_is_told_to_end_does_not_wait_for_its_client():
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr.readline() == "ready\n", "what handlers print goes to standard error"
        child.terminate()
        assert child.wait(60) == 0


def test_the_command_refuses_json_where_the_protocol_speaks(config_file, capsys):
    assert maia("mcp", "--json", "--config", config_file()) == 2
    assert "standard output belongs to the protocol" in capsys.readouterr().err
