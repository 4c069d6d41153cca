"""The same `system` and `tools` without a sandbox: for people, whose own programs run where they write them.

A link stands where a sandboxed program has its socket. Calls are checked, limited and written down by the
same desk as those of an agent's programs, so the record of either reads alike.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tools.sandbox.base import ToolHost
from tools.sandbox.calls import CallDesk, EndedError, Pace
from tools.sandbox.child.link import HostLink, ToolError
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

Wait = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the event loop of the tools, in another thread, and returns its result."""


class DirectLink(HostLink):
    """Answers requests from `host` in this process; `begin` opens the desk of the next program."""

    def __init__(self, host: ToolHost, settings: SandboxSettings, wait: Wait) -> None:
        self._host, self._settings, self._wait = host, settings, wait
        self.shelf = ImageShelf(settings.kept_bytes)
        self.begin()

    def begin(self, number: int = 0) -> None:
        """Forget the calls of the program before."""
        self.desk = CallDesk(self._settings, self.shelf, self._host, Pace())

    def ask(self, message: dict[str, Any], blob: memoryview | None = None) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            ToolError: If it cannot be answered; the message says why.
        """
        if message.get("method") == "pixels":
            # A person looks at far more images than a program needs the pixels of: these are not counted.
            return {"blob": bytearray(self.shelf.get(message["arguments"]["id"]).pixels.tobytes())}
        try:
            answer, _ = self._wait(self.desk.reply(message, bytearray(blob or b"")))
        except EndedError as ended:
            raise ToolError(ended.text) from None
        if "error" in answer:
            raise ToolError(answer["error"])
        return dict(answer)

    def close(self) -> None:
        self.shelf.close()
