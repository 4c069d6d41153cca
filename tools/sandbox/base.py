"""The interface of a sandbox, the same for both executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from actors.errors import MaiaError, UsageError
from actors.images import Image
from tools.sandbox.settings import Dialect

Status = Literal["ok", "error", "timeout", "memory", "died", "protocol", "forbidden", "limit"]
Tier = Literal["kernel+ns", "kernel", "monty", "weak", "none"]
"""The walls that hold; `none` is a person's own program, which runs where it is written."""


class SandboxUnavailableError(UsageError):
    """No executor on this machine gives the protection that was asked for."""


class SandboxError(MaiaError):
    """The sandbox's own machinery failed: the fork server cannot be started or reached."""


@dataclass(frozen=True)
class ProgramOutcome:
    """The end of one program: status, output and value."""

    status: Status
    """`ok`; `error`: it raised; `timeout`; `memory`; `forbidden`: it tried what no program may;
    `limit`: too many calls, bytes or images; `died`: its process ended; `protocol`: it spoke out of turn.
    After any but `ok`, `error`, `memory` and `forbidden`, its process is replaced."""
    output: str
    """Its stdout and stderr, in order."""
    output_truncated: bool
    value: Any
    """The value that `run_experiment` returned; images as `Image`."""
    error: str
    """Words that help to write a better program, with the program's own line numbers; "" if `ok`."""
    duration_s: float
    """Wall-clock seconds, tool calls included."""
    calls: int
    """Tool calls that were answered."""
    tier: Tier
    notes: tuple[str, ...] = field(default=())
    """News for the agent of its variables: that they were rebuilt, or that they are lost."""
    output_lost: bool = False
    """It closed its stdout or stderr, or put another file in its place: what it printed then is not known."""


class RecordedAnswer(TypedDict):
    """The answer to one call, as JSON; images as ids. It has either `value` or `error`."""

    asked: str
    """Digest of the method and its arguments."""
    value: NotRequired[Any]
    error: NotRequired[str]


class ExecutedProgram(TypedDict):
    """One program and the answers to its calls, as JSON."""

    program: str
    status: Status
    calls: list[RecordedAnswer]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that a sandbox knows, without its pixels."""

    id: str
    size: tuple[int, int]
    """Height and width in pixels."""

    @classmethod
    def of(cls, image: Image) -> ImageRef:
        return cls(image.id, image.size)


class ImageSource(Protocol):
    """Images by content id, such as those that a run has on disk."""

    def __contains__(self, id: str, /) -> bool: ...

    def __getitem__(self, id: str, /) -> Image: ...


class ToolHost(Protocol):
    """Answers the calls of one agent's programs."""

    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        """Return the answer of `docs/architecture.md`; images are `Image` both ways, or `ImageRef` if known
        already.

        Raises:
            MaiaError: Becomes an exception in the program, with the same words.
        """


class Sandbox(Protocol):
    """One agent's interpreter: variables persist between its programs."""

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        """Run a program to its end; never raises for anything that the program does."""

    @property
    def record(self) -> list[ExecutedProgram]:
        """The programs so far and what their calls were answered. It only grows."""

    def restore(self, records: Sequence[ExecutedProgram], images: ImageSource) -> None:
        """Take over another sandbox's record; variables are rebuilt before the next program."""

    async def close(self) -> None:
        """End the process and forget the images."""


@dataclass(frozen=True)
class Check:
    """One row of the self-test."""

    name: str
    passed: bool
    detail: str


class SandboxServer(Protocol):
    """Makes sandboxes on one machine."""

    tier: Tier
    dialect: Dialect

    async def open(self, *, seed: int) -> Sandbox:
        """Return a new sandbox whose randomness depends on `seed` alone."""

    async def self_test(self) -> list[Check]:
        """Try what the tier promises to stop, the way a program would."""

    async def close(self) -> None:
        """End every sandbox and the server."""

    async def __aenter__(self) -> SandboxServer: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
