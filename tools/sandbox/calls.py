"""Answers what a program asks for, within its budgets, and writes down every answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, TypedDict, TypeVar

import anyio.to_thread
import msgpack

from actors.errors import MaiaError
from tools.sandbox.base import RecordedAnswer, Status, ToolHost
from tools.sandbox.child.wire import IMAGE
from tools.sandbox.frames import ProtocolError, encode_value, parse_pixels
from tools.sandbox.methods import checked
from tools.sandbox.settings import SandboxSettings
from tools.sandbox.shelf import ImageShelf

MAX_REFUSALS = 10
"""Requests that are refused before a program that goes on asking is ended."""
_BURST_S = 0.25
_SHARE = 0.05
_PLAIN = frozenset({"state"})
"""Calls that carry no pixels."""
_OBSERVED = frozenset({"describe", "summarize"})
T = TypeVar("T")


class Answer(TypedDict, total=False):
    """The answer to a request: a value, or the reason why there is none."""

    value: Any
    error: str


class EndedError(Exception):
    """The program is over because of something that broke its process or must break it."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class ReplayMismatchError(Exception):
    """A replayed program asked for something else than it did the first time."""


class UnrestError(Exception):
    """The process does not take up a program, because the one before it is not over: it only said so."""


class GoneError(Exception):
    """The process died before it took up a program."""


class Clock:
    """Seconds that are left of a budget which runs only inside `running`, and there not inside `paused`."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds
        self._since = 0.0
        self._deadline: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raise TimeoutError in the body once the budget is used up."""
        self._since = time.monotonic()
        try:
            async with asyncio.timeout(max(self.left_s, 0)) as self._deadline:
                yield
        finally:
            self._deadline = None
            self.left_s -= time.monotonic() - self._since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the body take no time of a budget that is running."""
        if self._deadline is None:
            yield
            return
        self.left_s -= time.monotonic() - self._since
        self._deadline.reschedule(None)
        try:
            yield
        finally:
            self._since = time.monotonic()
            if not self._deadline.expired():
                self._deadline.reschedule(asyncio.get_running_loop().time() + max(self.left_s, 0))


class Pace:
    """Spreads out what a sandbox's programs cost the event loop of their host, so that they delay themselves
    alone.

    A sandbox has a quarter of a second at once, which a twentieth of the time fills again: one program after
    another gets no more than one that goes on.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._left_s = _BURST_S

    def spend(self, seconds: float) -> None:
        """Count processor time that was measured elsewhere."""
        now = self._clock()
        self._left_s = min(_BURST_S, self._left_s + (now - self._at) * _SHARE) - seconds
        self._at = now

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count the processor time of the body, which must not wait."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.spend(time.thread_time() - began)

    def owed_s(self) -> float:
        """Return how long the program must wait for its next answer."""
        self.spend(0.0)
        return max(0.0, -self._left_s / _SHARE)


class Recorded:
    """The answers that a program got the first time, given again in the same order."""

    def __init__(self, answers: Sequence[RecordedAnswer]) -> None:
        self._answers = iter(answers)

    def next(self, digest: str) -> RecordedAnswer:
        """Return the next answer.

        Raises:
            ReplayMismatchError: If the program asks for something else this time.
        """
        entry = next(self._answers, None)
        if entry is None or entry["asked"] != digest:
            raise ReplayMismatchError("it made another call when it was run again")
        return entry


class CallDesk:
    """The requests of one program.

    `own` is the time of the program's own work and of the host's work for it, `waiting` that of the tools it
    calls.
    """

    def __init__(
        self, settings: SandboxSettings, shelf: ImageShelf, host: ToolHost | Recorded, pace: Pace
    ) -> None:
        self._settings, self._shelf, self._host, self.pace = settings, shelf, host, pace
        self.own = Clock(settings.program_timeout_s)
        self.waiting = Clock(settings.calls_timeout_s)
        self.calls = 0
        self.answers: list[RecordedAnswer] = []
        self._images = 0
        self._observations = 0
        self._refused = 0

    async def reply(self, message: dict[str, Any], blob: bytearray) -> tuple[Answer, memoryview | None]:
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
                return {"value": None}, await self._pixels(message["arguments"])
            return await self._call(message["method"], message["arguments"]), None
        except MaiaError as error:
            self._refused += 1
            if self._refused > MAX_REFUSALS:
                raise EndedError(
                    "limit", f"The program was ended: it kept making calls that fail. {error}"
                ) from None
            return {"error": str(error)}, None

    async def _put(self, height: Any, width: Any, blob: bytearray) -> str:
        self._count_image()

        def keep() -> str:
            image = parse_pixels(height, width, blob)
            self._shelf.add(image)
            return image.id

        return await self._working(keep, in_thread=True)  # hashing and spilling large ones takes milliseconds

    async def _pixels(self, arguments: Any) -> memoryview:
        if type(arguments) is not dict or set(arguments) != {"id"} or type(arguments["id"]) is not str:
            raise ProtocolError("a malformed request for pixels")
        self._count_image()
        image = await anyio.to_thread.run_sync(self._shelf.get, arguments["id"])
        return image.pixels.data.cast("B")

    def _count_image(self) -> None:
        self._images += 1
        if self._images > self._settings.max_images:
            raise MaiaError(
                f"a program may use the pixels of {self._settings.max_images} images.", "Use fewer images."
            )

    async def _call(self, method: Any, arguments: Any) -> Answer:
        """Return the value that a tool answers, or the error."""
        if self.calls >= self._settings.max_calls:
            raise MaiaError(
                f"a program may make {self._settings.max_calls} calls.", "Do less in one program."
            )
        self.calls += 1
        with self.pace.working():
            digest = hashlib.blake2b(msgpack.packb([method, arguments]), digest_size=16).hexdigest()
        if isinstance(self._host, Recorded):
            return self._answer_again(self._host.next(digest))
        try:
            values = await self._checked(method, arguments)
        except MaiaError as error:
            self.answers.append({"asked": digest, "error": str(error)})
            raise
        try:
            answer: Answer = {"value": await self._ask(self._host, method, values)}
        except MaiaError as error:  # a tool that fails is an answer too, not a request that is refused
            answer = {"error": str(error)}
        self.answers.append({"asked": digest, **answer})
        return answer

    async def _checked(self, method: Any, arguments: Any) -> dict[str, Any]:
        """Return the arguments of a call with their images, which may have to be read from a file."""
        values = await self._working(lambda: checked(method, arguments, self._shelf), method not in _PLAIN)
        if method in _OBSERVED:
            self._observations += len(values["images"]) if method == "describe" else 1
            if self._observations > self._settings.max_observations:
                raise MaiaError(
                    f"a program may have {self._settings.max_observations} descriptions and summaries.",
                    "Look at fewer images in one program.",
                )
        return values

    async def _working(self, work: Callable[[], T], in_thread: bool) -> T:
        """Do the host's work for a call, in a thread if it touches pixels."""

        def paced() -> T:
            with self.pace.working():
                return work()

        return await anyio.to_thread.run_sync(paced) if in_thread else paced()

    async def _ask(self, host: ToolHost, method: str, values: dict[str, Any]) -> Any:
        try:
            with self.own.paused():
                async with self.waiting.running():
                    answer = await host.call(method, values)
        except TimeoutError:
            if self.waiting.left_s > 0:
                raise MaiaError(
                    f"{method} did not answer in time.", "Ask for less at once, or try again."
                ) from None
            limit = self._settings.calls_timeout_s
            text = (
                f"The program was ended: its tool calls took more than {limit:g} s together."
                " Ask for less at once."
            )
            raise EndedError("timeout", text) from None
        return await self._working(
            lambda: encode_value(answer, self._shelf), method not in _PLAIN or _long(answer)
        )

    def _answer_again(self, entry: RecordedAnswer) -> Answer:
        self.answers.append(entry)
        if "error" in entry:
            return {"error": entry["error"]}
        _know(entry["value"], self._shelf)
        return {"value": entry["value"]}


def _long(answer: Any) -> bool:
    return isinstance(answer, dict) and any(
        isinstance(value, list) and len(value) > 50 for value in answer.values()
    )


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
