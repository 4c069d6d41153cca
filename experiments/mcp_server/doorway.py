"""Who may keep a connection to the server: clients that have sent the token.

Other users of the machine can connect. Until a connection has sent the token, it is one of few that are kept,
for a few seconds, and the oldest makes room for the next.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from experiments.web.local_server import MAX_UNAUTHENTICATED, UNAUTHENTICATED_S

_Address = tuple[str, int]


class Doorway:
    """The connections that have not sent the token, by the address that they come from, oldest first."""

    def __init__(self, most: int = MAX_UNAUTHENTICATED, seconds: float = UNAUTHENTICATED_S) -> None:
        self._most, self._seconds = most, seconds
        self._waiting: dict[_Address, asyncio.Transport] = {}

    def enter(self, transport: asyncio.Transport) -> None:
        """Keep a connection for a few seconds; the oldest of too many is closed."""
        address: _Address = transport.get_extra_info("peername")
        self._waiting[address] = transport
        asyncio.get_running_loop().call_later(self._seconds, self._close, address, transport)
        if len(self._waiting) > self._most:
            oldest = next(iter(self._waiting))
            self._close(oldest, self._waiting[oldest])

    def admit(self, address: _Address) -> None:
        """Keep a connection that has sent the token as long as its client likes."""
        self._waiting.pop(address, None)

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection that has ended."""
        address: _Address = transport.get_extra_info("peername")
        if self._waiting.get(address) is transport:
            del self._waiting[address]

    def _close(self, address: _Address, transport: asyncio.Transport) -> None:
        # Another connection may come from the same address by now.
        if self._waiting.get(address) is transport:
            del self._waiting[address]
            transport.abort()

    def protocol(self) -> type[H11Protocol]:
        """Return the protocol of a server whose connections enter here."""
        doorway = self

        class DoorwayProtocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                doorway.enter(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                doorway.leave(self.transport)
                super().connection_lost(exc)

        return DoorwayProtocol


class RequireToken:
    """Answers 401 to requests without the token, before anything else reads them, and hangs up."""

    def __init__(self, app: ASGIApp, token: str, doorway: Doorway) -> None:
        self._app, self._expected, self._doorway = app, f"Bearer {token}".encode(), doorway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                headers = {"WWW-Authenticate": "Bearer", "Connection": "close"}
                refusal = PlainTextResponse("a token is needed\n", status_code=401, headers=headers)
                await refusal(scope, receive, send)
                return
            self._doorway.admit(tuple(scope["client"]))
        await self._app(scope, receive, send)
