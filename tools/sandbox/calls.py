"""Answers what a program asks for, within its budgets, and writes down every answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgpack

from actors.errors import MaiaError
from tools.sandbox.base import Status, ToolHost
from tools.sandbox.child.wire import IMAGE
from tools.sandbox.frames import ProtocolError, encode_value, parse_pixels
from tools.sandbox.methods import checked
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

_PATIENCE_CALLS = 100
"""Refused requests after which a program that goes on asking is ended."""
_OFF_LOOP_BYTES = 1 << 20


class EndedError(Exception):
    """The program is over because of something that broke its process or must break it."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class DivergedError(Exception):
    """A replayed program asked for something else than it did the first time."""


class UnrestError(Exception):
    """The process does not take up a program, because the one before it is not over: it only said so."""


class GoneError(Exception):
    """The process died before it took up a program."""


class Clock:
    """Seconds that are left of a budget which runs only inside `running`."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raise TimeoutError in the body once the budget is used up."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(self.left_s, 0)):
                yield
        finally:
            self.left_s -= time.monotonic() - began


class Recorded:
    """The answers that a program got the first time, given again in the same order."""

    def __init__(self, answers: Sequence[dict[str, Any]]) -> None:
        self._answers = iter(answers)

    def next(self, digest: str) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            DivergedError: If the program asks for something else this time.
        """
        entry = next(self._answers, None)
        if entry is None or entry["asked"] != digest:
            raise DivergedError("it made another call when it was run again")
        return entry


class CallDesk:
    """The requests of one program.

    `own` is the time of the program's own work, `waiting` that of the tools it calls.
    """

    def __init__(self, settings: SandboxSettings, shelf: ImageShelf, host: ToolHost | Recorded) -> None:
        self._settings, self._shelf, self._host = settings, shelf, host
        self.own = Clock(settings.program_timeout_s)
        self.waiting = Clock(settings.calls_timeout_s)
        self.calls = 0
        self.answers: list[dict[str, Any]] = []
        self._images = 0
        self._refused = 0

    async def reply(
        self, message: dict[str, Any], blob: bytearray
    ) -> tuple[dict[str, Any], memoryview | None]:
        """Return the answer to one request, and the pixels that go with it.

        Raises:
            ProtocolError: If it is no request.
            EndedError: If the program must be ended.
        """
        try:
            if message["op"] == "put" and set(message) == {"op", "height", "width"}:
                return {"value": await self._put(message["height"], message["width"], blob)}, None
            if message["op"] != "call" or set(message) != {"op", "method", "arguments"} or blob:
                raise ProtocolError("an unknown request")
            if message["method"] == "pixels":
                return {"value": None}, self._pixels(message["arguments"])
            return {"value": await self._call(message["method"], message["arguments"])}, None
        except MaiaError as error:
            self._refused += 1
            if self._refused > _PATIENCE_CALLS:
                raise EndedError(
                    "limit", f"The program was ended: it kept making calls that fail. {error}"
                ) from None
            return {"error": str(error)}, None

    async def _put(self, height: Any, width: Any, blob: bytearray) -> str:
        self._count_image()
        if len(blob) < _OFF_LOOP_BYTES:
            image = parse_pixels(height, width, blob)
        else:  # hashing it takes milliseconds
            image = await asyncio.to_thread(parse_pixels, height, width, blob)
        self._shelf.add(image)
        return image.id

    def _pixels(self, arguments: Any) -> memoryview:
        if type(arguments) is not dict or set(arguments) != {"id"} or type(arguments["id"]) is not str:
            raise ProtocolError("a malformed request for pixels")
        self._count_image()
        return self._shelf.get(arguments["id"]).pixels.data.cast("B")

    def _count_image(self) -> None:
        self._images += 1
        if self._images > self._settings.max_images:
            raise MaiaError(
                f"a program may use the pixels of {self._settings.max_images} images.", "Use fewer images."
            )

    async def _call(self, method: Any, arguments: Any) -> Any:
        if self.calls >= self._settings.max_calls:
            raise MaiaError(
                f"a program may make {self._settings.max_calls} calls.", "Do less in one program."
            )
        self.calls += 1
        digest = hashlib.blake2b(msgpack.packb([method, arguments]), digest_size=16).hexdigest()
        if isinstance(self._host, Recorded):
            return self._answer_again(self._host.next(digest))
        try:
            encoded = await self._ask(self._host, method, arguments)
        except MaiaError as error:
            self.answers.append({"asked": digest, "error": str(error)})
            raise
        self.answers.append({"asked": digest, "value": encoded})
        return encoded

    async def _ask(self, host: ToolHost, method: Any, arguments: Any) -> Any:
        values = checked(method, arguments, self._shelf)
        try:
            async with self.waiting.running():
                answer = await host.call(method, values)
        except TimeoutError:
            if self.waiting.left_s > 0:
                raise MaiaError(
                    f"{method} did not answer in time.", "Ask for less at once, or try again."
                ) from None
            limit = self._settings.calls_timeout_s
            text = f"The program was ended: its tool calls took more than {limit:g} s together. Ask for less at once."
            raise EndedError("timeout", text) from None
        return encode_value(answer, self._shelf)

    def _answer_again(self, entry: dict[str, Any]) -> Any:
        self.answers.append(entry)
        if "error" in entry:
            raise MaiaError(entry["error"])
        _know(entry["value"], self._shelf)
        return entry["value"]


def _know(value: Any, shelf: ImageShelf) -> None:
    """Hand out again the images of a recorded answer."""
    if isinstance(value, list):
        for item in value:
            _know(item, shelf)
    elif isinstance(value, dict):
        if IMAGE in value:
            shelf.know(*value[IMAGE])
        else:
            for item in value.values():
                _know(item, shelf)
