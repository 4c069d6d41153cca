"""How clients reach the server: over standard input and output, or HTTP on this machine with a token.

The token is in a file that only its owner reads, or in a variable of the environment: never in an address or
on a command line, which others can see.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server import MCPServer
from starlette.middleware import Middleware

from actors.errors import UsageError
from experiments.mcp_server.doorway import Doorway, RequireToken

TOKEN_VARIABLE = "MAIA_MCP_TOKEN"
_LOOPBACK = "127.0.0.1"
_FEWEST_CHARACTERS = 16
_CLOSING_S = 5.0
"""Seconds that calls have to end when the server is told to."""


def token_of(folder: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Return the token of clients and where it is; one is made in `folder` unless the environment has it.

    Raises:
        UsageError: If it is too short, or others can read the file.
    """
    if (token := environment.get(TOKEN_VARIABLE)) is not None:
        if len(token) < _FEWEST_CHARACTERS or not token.isascii() or not token.isprintable():
            raise UsageError(
                f"{TOKEN_VARIABLE} must have at least {_FEWEST_CHARACTERS} printable ASCII characters.",
                "Unset it, and a token is made; or set a longer one.",
            )
        return token, f"the variable {TOKEN_VARIABLE}"
    path = folder / "mcp-token"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}).", f"Set {TOKEN_VARIABLE} instead."
        ) from error
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077 or about.st_uid != os.getuid():
        raise UsageError(f"{path} can be read or written by others.", "Remove it, and a new one is made.")
    token = path.read_text().strip()
    if len(token) < _FEWEST_CHARACTERS:
        raise UsageError(f"{path} holds no token.", "Remove it, and a new one is made.")
    return token, str(path)


def listen(port: int) -> socket.socket:
    """Return a socket on the loopback address; port 0 takes a free one.

    Raises:
        UsageError: If the port cannot be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((_LOOPBACK, port))
    except OSError as error:
        listening.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UsageError(
            f"port {port} cannot be used ({error.strerror}).", "Choose another with --port."
        ) from error
    return listening


async def serve_http(
    server: MCPServer[Any], listening: socket.socket, token: str, ready: Callable[[str], None]
) -> None:
    """Serve until cancelled; `ready` gets the address. Names of other hosts are refused (421, 403)."""
    app, doorway = server.streamable_http_app(host=_LOOPBACK), Doorway()
    app.user_middleware.insert(0, Middleware(RequireToken, token=token, doorway=doorway))
    config = uvicorn.Config(
        app,
        http=doorway.protocol(),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # whoever connects may not say that it is another
        timeout_graceful_shutdown=3,
    )
    ready(f"http://{_LOOPBACK}:{listening.getsockname()[1]}/mcp")
    serving = uvicorn.Server(config)
    try:
        await serving.serve(sockets=[listening])
    finally:
        # One that is cancelled would leave its sockets with the event loop.
        with anyio.CancelScope(shield=True):
            if serving.started and not serving.should_exit:
                await serving.shutdown(sockets=[listening])
        listening.close()


async def serve_stdio(server: MCPServer[Any]) -> None:
    """Serve until standard input ends, or until cancelled.

    What else writes to standard output goes to standard error.
    """
    with _ending_input() as end_input:
        serving = asyncio.ensure_future(server.run_stdio_async())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            end_input()
            await asyncio.wait([serving], timeout=_CLOSING_S)
            raise


@contextmanager
def _ending_input() -> Iterator[Callable[[], None]]:
    """Let the body end standard input, which the server reads in a thread that nothing else wakes."""
    source = os.dup(0)
    server_end, own_end = socket.socketpair()
    os.dup2(server_end.fileno(), 0)
    server_end.close()

    def end() -> None:
        with suppress(OSError):
            own_end.shutdown(socket.SHUT_WR)

    def copy() -> None:
        with suppress(OSError):
            while data := os.read(source, 1 << 16):
                own_end.sendall(data)
        end()

    # A daemon: where the client never writes again, it waits for ever.
    threading.Thread(target=copy, name="maia-mcp-input", daemon=True).start()
    try:
        yield end
    finally:
        end()
        os.dup2(source, 0)
