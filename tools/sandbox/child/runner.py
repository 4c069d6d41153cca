"""Runs one program after another in one namespace and reports how each ended."""

from __future__ import annotations

import ast
import builtins
import errno
import fcntl
import functools
import importlib.abc
import inspect
import linecache
import mmap
import os
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .dialects import DIALECTS, values_of
from .link import HostLink, Report
from .values import text_of
from .wire import ENTRY_POINTS

MAX_ERROR = 8_000
PROGRAM_FILE = "<program"
"""Prefix of the file names of programs, in tracebacks."""
OUTPUT_COPY = 4
"""Descriptor of a copy of the output pipe: a program that closes its own cannot lose the next one's."""
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.EROFS)
BALLAST_BYTES = 16 << 20
_WATCH = "__entry_point__"

_ADVICE = {
    "torch": "torch is not available here: images are PIL images (use numpy and PIL), and the network is"
    " reached with system.call_neuron(images)",
    "torchvision": "torchvision is not available here: images are PIL images; use numpy and PIL",
}
_NO_MODULE = "there is no module {name!r} here: programs have numpy, PIL and the standard library"


class Advice(importlib.abc.MetaPathFinder):
    """Says what to use instead of a module: of a known one if asked `first`, of any if asked last."""

    def __init__(self, first: bool) -> None:
        self._first = first

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if path is None and (fullname in _ADVICE or not self._first):
            sentence = _ADVICE.get(fullname, _NO_MODULE.format(name=fullname))
            raise ModuleNotFoundError(sentence, name=fullname)


class Runner:
    """One agent's interpreter: variables persist from program to program."""

    def __init__(self, link: HostLink, seed: int, dialect: str) -> None:
        self._link = link
        self._values = values_of(dialect, link)
        self._system, self._tools = (kind(self._values) for kind in DIALECTS[dialect])
        self._called: dict[str, Any] = {}
        self._ballast: mmap.mmap | None = None
        self._output = _file(OUTPUT_COPY)
        self._defined: dict[str, Callable[..., Any]] = {}
        self._names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        self._hide = sorted(
            {path for path in (*sys.path, sys.prefix, sys.base_prefix) if path}, key=len, reverse=True
        )
        for name in ("exit", "quit"):  # elsewhere made by `site`, which is not loaded here
            setattr(builtins, name, sys.exit)
        _fix_randomness(seed)
        sys.meta_path.insert(0, Advice(first=True))
        sys.meta_path.append(Advice(first=False))

    def serve(self) -> None:
        """Answer the host for ever."""
        while True:
            message = self._link.receive()
            if _file(OUTPUT_COPY) != self._output:
                os._exit(1)  # nothing would be heard of this program, either: the host begins anew
            _restore_output()
            self._link.begin(message["number"])
            report = self.run(message["program"], message["number"])
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except Exception:  # the program replaced or closed it
                    continue
            lost = any(_file(fd) != self._output for fd in (1, 2))
            self._link.report(replace(report, output_lost=lost))

    def run(self, program: str, number: int) -> Report:
        """Run one program to its end."""
        name = f"{PROGRAM_FILE} {number}>"
        lines = program.splitlines(keepends=True)
        linecache.cache[name] = (len(program), None, lines, name)
        self._called, self._defined = {}, {}
        self._ballast = _ballast()
        self._names.update(system=self._system, tools=self._tools, **{_WATCH: self._watch})
        try:
            tree = ast.fix_missing_locations(_WatchEntryPoints().visit(ast.parse(program, name)))
            exec(compile(tree, name, "exec", dont_inherit=True), self._names)
            for entry, function in list(self._defined.items()):
                if entry not in self._called:
                    self._called[entry] = _call_entry(function, self._system, self._tools)
            returned = list(self._called.values())
            return Report("ok", self._values.any(returned[-1]) if returned else None)
        except SystemExit:
            return Report("ok")
        except BaseException as error:
            self._ballast = None
            return Report(_status(error), error=self._message_of(error))
        finally:
            self._names.pop(_WATCH, None)

    def _watch(self, name: str) -> Callable[[Any], Any]:
        """Return a decorator that notes whether the program calls its entry point itself, and what it
        returned.
        """

        def decorate(function: Any) -> Any:
            if not callable(function):  # the program's own decorators made something else of it
                return function

            @functools.wraps(function)
            def entry(*args: Any, **kwargs: Any) -> Any:
                self._called[name] = None
                self._called[name] = value = function(*args, **kwargs)
                return value

            self._defined[name] = entry
            return entry

        return decorate

    def _message_of(self, error: BaseException) -> str:
        """Return the error in the program's own lines, without the paths of this machine."""
        try:
            message = "".join(traceback.format_exception_only(type(error), error)).strip()
        except MemoryError:
            message = f"{type(error).__name__} (its words need more memory than a program may use)"
        if isinstance(error, SyntaxError):
            text = message
        else:
            if isinstance(error, RecursionError):
                error.__traceback__ = None
            frames = [
                frame
                for frame in traceback.extract_tb(error.__traceback__, limit=200)
                if frame.filename.startswith(PROGRAM_FILE)
            ]
            if len(frames) > 12:
                frames = frames[:6] + frames[-6:]
            where = [f"  line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames]
            text = "\n".join([*(["Traceback:"] if where else []), *where, message])
        if _status(error) == "memory":
            text += "\nThe program used more memory than it may: work on fewer or smaller things at a time."
        if isinstance(error, OSError) and error.errno in (*_FORBIDDEN, errno.ENOENT):
            text += (
                "\nPrograms have no files, network or processes: keep values in variables, show them"
                " with print"
            )
            text += " and tools.display."
        for path in self._hide:
            text = text.replace(path, "<python>")
        return text_of(
            text if len(text) <= MAX_ERROR else text[: MAX_ERROR // 2] + "\n...\n" + text[-MAX_ERROR // 2 :]
        )


class _WatchEntryPoints(ast.NodeTransformer):
    """Marks run_experiment and execute_command where a program defines them at its top level."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if node.name in ENTRY_POINTS:
            watch = ast.Call(ast.Name(_WATCH, ast.Load()), [ast.Constant(node.name)], [])
            node.decorator_list.insert(0, ast.copy_location(watch, node))
        return node

    def _leave(self, node: Any) -> Any:
        return node

    visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _leave


def _call_entry(function: Callable[..., Any], system: Any, tools: Any) -> Any:
    """Call an entry point with as many of (system, tools) as it takes."""
    written = inspect.unwrap(function)
    code = getattr(written, "__code__", None)
    if code is None or code.co_flags & inspect.CO_VARARGS:
        return function(system, tools)
    names = code.co_varnames[: code.co_argcount]
    required = len(names) - len(getattr(written, "__defaults__", None) or ())
    if names[:1] == ("tools",):
        return function(tools, system) if required > 1 else function(tools)
    return function(*(system, tools)[: min(len(names), 2)])


def _status(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return "forbidden"
    return "error"


def _file(fd: int) -> tuple[int, int] | None:
    """Return which file a descriptor stands for, None if for none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _restore_output() -> None:
    # What the last program could not print goes with its streams, and is not printed by this one.
    sys.stdout = sys.stderr = None
    fcntl.fcntl(OUTPUT_COPY, fcntl.F_SETFL, 0)  # it may have made writing fail where it had to wait
    for fd in (1, 2):
        os.dup2(OUTPUT_COPY, fd)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115
            fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
        )
        setattr(sys, name, stream)


def _ballast() -> mmap.mmap | None:
    """Return address space that a program cannot use, to be freed for reporting that it used up the rest."""
    try:
        return mmap.mmap(-1, BALLAST_BYTES)
    except (OSError, MemoryError):
        return None


def _fix_randomness(seed: int) -> None:
    """Make `random`, `numpy.random` and unseeded numpy generators depend on the seed alone."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    streams = np.random.SeedSequence(seed)
    original = np.random.default_rng

    @functools.wraps(original)
    def default_rng(seed: Any = None) -> np.random.Generator:
        return original(streams.spawn(1)[0] if seed is None else seed)

    np.random.default_rng = default_rng
