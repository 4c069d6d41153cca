"""The other side of the `monty` executor: a process that hands programs to an interpreter for a subset of
Python.

The interpreter runs in a worker process of its own; this one holds the API that programs call and converts
what passes between the two. So whatever a value or a text costs on its way, it costs this process, which the
host ends at the program's deadline. It is started by `__main__` with frames on its standard input and output.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any
from uuid import UUID, uuid4

import pydantic_monty as monty

from .dialects import DIALECTS
from .effects import RECORDS, Effects
from .image_handle import ImageHandle
from .link import HostLink, Report, ToolError
from .values import Values, text_of
from .wire import ENTRY_POINTS, MAX_TEXT

_MAX_ERROR = 8_000
_ENTRY = re.compile(rf"^def[ \t]+({'|'.join(ENTRY_POINTS)})[ \t]*\(([^)]*)\)", re.MULTILINE)


class PipeLink(HostLink):
    """Frames over standard input and output, which every platform has."""

    def __init__(self) -> None:
        super().__init__(0)
        self._in, self._out = sys.stdin.buffer, sys.stdout.buffer

    def print(self, text: str) -> None:
        """Print, as the program would."""
        for start in range(0, len(text), MAX_TEXT):
            self.notify({"op": "print", "text": text_of(text[start : start + MAX_TEXT])})

    def _write(self, data: bytes | memoryview) -> None:
        self._out.write(data)
        self._out.flush()

    def _read(self, size: int) -> bytearray:
        data = self._in.read(size)
        if len(data) < size:
            os._exit(0)  # the host is gone
        return bytearray(data)


class _Handles(Values):
    """Images are handles of this session or nothing: what a program made up is never decoded."""

    def image(self, value: Any) -> dict[str, str]:
        if type(value) is not ImageHandle:
            raise ToolError(f"expected an image that came from tools or system, got {type(value).__name__}")
        return super().image(value)


class MontyRunner:
    """One agent's session of the interpreter; see `Runner`."""

    def __init__(self, link: PipeLink, session: Any, dialect: str) -> None:
        self._link, self._session = link, session
        self._values = _Handles(link)
        self._receivers: dict[UUID, tuple[Any, frozenset[str]]] = {}
        self._inputs: dict[str, Any] = {}
        for name, kind in zip(("system", "tools"), DIALECTS[dialect], strict=True):
            receiver = kind(self._values, lambda text: link.print(f"{text}\n"))
            methods, attributes = _public_names(kind)
            identity = uuid4()
            self._receivers[identity] = (receiver, methods | attributes)
            self._inputs[name] = monty.ClassInstance(
                receiver, id=identity, allowed_methods=methods, lazy_attrs=attributes
            )

    def serve(self) -> None:
        """Answer the host for ever."""
        while True:
            message = self._link.receive()
            self._link.begin(message["number"])
            self._link.report(self.run(message["program"]))

    def run(self, program: str) -> Report:
        """Run one program to its end."""
        try:
            self._feed(program)
            value = None
            for call in _entry_calls(program):
                value = self._feed(call)
            return Report("ok", self._values.any(value))
        except monty.MontyCrashedError:
            os._exit(1)  # the interpreter is gone, and its variables with it
        except monty.MontyError as error:
            return _failed(error)
        except (ToolError, MemoryError) as error:
            status = "memory" if isinstance(error, MemoryError) else "error"
            return Report(status, error=str(error) or "The program used too much memory.")

    def _feed(self, source: str) -> Any:
        snapshot = self._session.feed_start(
            source, inputs=self._inputs, print_callback=lambda stream, text: self._link.print(text)
        )
        while not isinstance(snapshot, monty.MontyComplete):
            snapshot = self._resume(snapshot)
        return snapshot.output

    def _resume(self, snapshot: Any) -> Any:
        identity: Any = getattr(snapshot, "object_id", None)
        receiver, names = self._receivers.get(identity, (None, frozenset()))
        if isinstance(snapshot, monty.NameLookupSnapshot):
            name = snapshot.variable_name
            if receiver is None or name not in names:
                return snapshot.resume_auto()
            answer = self._answer(lambda: getattr(receiver, name))
            # Without a value the program meets an AttributeError; there is no other way to fail here.
            return (
                snapshot.resume(value=answer["return_value"])
                if "return_value" in answer
                else snapshot.resume()
            )
        if isinstance(snapshot, monty.FutureSnapshot):
            raise ToolError("The program waits for something that never comes (await).")
        if not isinstance(snapshot, monty.FunctionSnapshot) or receiver is None:
            return snapshot.resume_auto()  # an import or a file: refused
        name = str(snapshot.function_name)
        if name not in names:
            return snapshot.resume_auto()
        args, kwargs = snapshot.args, snapshot.kwargs
        return snapshot.resume(self._answer(lambda: getattr(receiver, name)(*args, **kwargs)))

    def _answer(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Return the result of a call into `system` or `tools`, in the form in which Monty takes it."""
        try:
            return {"return_value": _wrapped(call())}
        except Exception as error:  # ours, or of Python for arguments that do not fit
            name = (
                type(error).__name__
                if type(error) in (TypeError, AttributeError, ValueError)
                else "RuntimeError"
            )
            return {"exc_type": name, "message": str(error)[:_MAX_ERROR]}


def _public_names(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """Return the methods of a class of the API that programs may call, and its other attributes."""
    names = frozenset(name for name in dir(kind) if not name.startswith("_"))
    methods = frozenset(name for name in names if inspect.isfunction(getattr(kind, name)))
    return methods, names - methods


def serve(configuration: dict[str, Any]) -> None:
    """Start the interpreter and answer the host until it goes away."""
    _follow_the_host()
    link = PipeLink()
    with contextlib.ExitStack() as opened:
        try:
            pool = opened.enter_context(monty.Monty(max_processes=1))
            session = opened.enter_context(
                pool.checkout(
                    script_name="program",
                    limits={
                        # The host's clock ends programs; this ends a worker that was left alone.
                        "max_feed_duration_secs": configuration["backstop_s"],
                        "max_memory": configuration["memory_bytes"],
                        "max_suspensions": 1 << 30,
                    },
                    os_policy={"random_start": {"seed": configuration["seed"]}},
                )
            )
            _limit_memory(configuration["memory_bytes"])
        except (OSError, RuntimeError, TimeoutError, monty.MontyError) as error:
            link.finish({"op": "failed", "error": str(error)})
            return
        link.finish({"op": "ready"})
        MontyRunner(link, session, configuration["dialect"]).serve()


def _follow_the_host() -> None:
    """End this process and the interpreter's with the host, also while a program runs."""
    if not hasattr(select, "poll"):
        return  # Windows: the interpreter ends at its own deadline

    def wait() -> None:
        watched = select.poll()
        watched.register(0, 0)  # only that the other end was closed
        watched.poll()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


_RESERVED_BYTES = 256 << 20
"""Address space that allocators and stacks of threads reserve and hardly use; without room for it a process
ends at random.
"""


def _limit_memory(more_bytes: int) -> None:
    """Bound what converting values may take, where the system can."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as file:  # noqa: PTH123
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        most = size + more_bytes + _RESERVED_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _failed(error: Any) -> Report:
    """Return how a program that raised ended."""
    message = error.display("type-msg")[:_MAX_ERROR]
    kind = message.partition(":")[0]
    text = text_of(error.display()[-_MAX_ERROR:])
    status = {"MemoryError": "memory", "PermissionError": "forbidden"}.get(kind, "error")
    if kind == "MemoryError":
        text += "\nThe program used more memory than it may."
    if kind == "ModuleNotFoundError":
        text += "\nThis interpreter has a part of the standard library, and neither numpy nor PIL."
    return Report(status, error=text)


def _wrapped(value: Any) -> Any:
    """Return `value` with each image as an opaque object, and records with their fields."""
    if type(value) is ImageHandle:
        return monty.ClassInstance(value, eager_attrs=("width", "height", "size"))
    if isinstance(value, RECORDS):
        names = [each.name for each in fields(value)]
        return _Record(value, eager_attrs=[*names, "summary"] if isinstance(value, Effects) else names)
    if isinstance(value, (list, tuple)):
        return (
            type(value)(map(_wrapped, value))
            if type(value) in (list, tuple)
            else [_wrapped(v) for v in list(value)]
        )
    if isinstance(value, dict):
        return {key: _wrapped(item) for key, item in value.items()}
    return value


class _Record(monty.ClassInstance):
    """A record of ours, whose fields are values like any other."""

    def convert_value(self, name: str, value: Any, /) -> Any:
        return _wrapped(value)


def _called(program: str) -> set[str]:
    """Return the names that a program calls; none of one that cannot be parsed, which then says so itself."""
    try:
        nodes = list(ast.walk(ast.parse(program)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _entry_calls(program: str) -> list[str]:
    """Return the calls of entry points that a program defines and does not call itself, read off its text."""
    calls = []
    called = _called(program)
    for name, parameters in dict(_ENTRY.findall(program)).items():
        if name in called:
            continue
        given = [
            text.partition(":")[0].partition("=")[0].strip() for text in parameters.split(",") if text.strip()
        ]
        wanted = ["tools", "system"] if given[:1] == ["tools"] else ["system", "tools"]
        calls.append(f"{name}({', '.join(wanted[: len(given)])})")
    return calls
