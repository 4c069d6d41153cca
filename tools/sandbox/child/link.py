"""The child's end of the socket: one request at a time, from whatever thread."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass
from typing import Any

import msgpack

from .wire import ENTRY_POINTS, HEADER, MAX_STRUCTURE_BYTES, pack


class ToolError(RuntimeError):
    """A call to `system` or `tools` that could not be answered; the message says why."""


@dataclass(frozen=True)
class Report:
    """The end of a program: status, the returned value as it crosses, and the error's text."""

    status: str
    value: Any = None
    error: str = ""
    output_lost: bool = False
    """It closed its output or put another in its place."""


class HostLink:
    """Frames over a connected stream socket, with read(2) and write(2) only.

    Between two programs the gate is shut: a thread that an earlier program left behind waits for the
    next one instead of talking out of turn.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._gate = threading.Event()

    def receive(self) -> dict[str, Any]:
        """Return the next message of the host; a blob is put under "blob"."""
        structure_bytes, blob_bytes = HEADER.unpack(self._read(HEADER.size))
        message: dict[str, Any] = msgpack.unpackb(self._read(structure_bytes))
        if blob_bytes:
            message["blob"] = self._read(blob_bytes)
        return message

    def begin(self, number: int) -> None:
        """Report to the host that the program before this one is over, and let calls through again."""
        self._write(pack({"op": "started", "number": number}))
        self._gate.set()

    def notify(self, message: dict[str, Any]) -> None:
        """Send a message that is not answered."""
        with self._lock:
            self._write(_frame(message))

    def report(self, report: Report) -> None:
        """Send how a program ended; of a value that is too large, say so."""
        try:
            self.finish({"op": "done", **asdict(report)})
        except ToolError as error:
            text = f"What {ENTRY_POINTS[0]} returned is {error}."
            failed = Report("error", error=text, output_lost=report.output_lost)
            self.finish({"op": "done", **asdict(failed)})

    def finish(self, message: dict[str, Any]) -> None:
        """Send a program's last message, after every call that is under way has been answered.

        Raises:
            ToolError: If it is too large.
        """
        frame = _frame(message)
        self._gate.clear()
        with self._lock:
            self._write(frame)

    def ask(self, message: dict[str, Any], blob: memoryview | None = None) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            ToolError: If the host answered with an error, or the request is too large.
        """
        frame = _frame(message, 0 if blob is None else blob.nbytes)
        self._gate.wait()
        with self._lock:
            self._write(frame)
            if blob is not None:
                self._write(blob)
            answer = self.receive()
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def _read(self, size: int) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            got = os.readv(self._fd, [view])
            if got == 0:
                os._exit(0)  # the host is gone
            view = view[got:]
        return buffer


def _frame(message: dict[str, Any], blob_bytes: int = 0) -> bytes:
    frame = pack(message, blob_bytes)
    if len(frame) > MAX_STRUCTURE_BYTES:
        raise ToolError(
            f"too large to cross at once: {len(frame)} bytes of at most {MAX_STRUCTURE_BYTES}; use less"
        )
    return frame
