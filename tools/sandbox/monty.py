"""The `monty` executor: pydantic-monty, an interpreter for a subset of Python with no way out of itself.

It runs wherever its wheel does. Programs see the same `system` and `tools`, in both dialects, because
the classes of the child side answer here too, on this side of the interpreter; images are opaque handles,
whose pixels never reach a program. There are no numpy and no PIL, and a part of the language is missing
(docs/sandbox.md has the list).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from uuid import UUID, uuid4

import pydantic_monty as monty

from tools.sandbox.base import Check, SandboxError, Status, Tier
from tools.sandbox.calls import CallDesk, EndedError
from tools.sandbox.child.image_handle import ImageHandle
from tools.sandbox.child.link import ToolError
from tools.sandbox.child.paper_dialect import PaperSystem, PaperTools
from tools.sandbox.child.values import Values
from tools.sandbox.child.wire import ENTRY_POINTS
from tools.sandbox.frames import ProtocolError, decode_value
from tools.sandbox.session import Output, Session
from tools.sandbox.settings import SandboxSettings

_MAX_ERROR = 8_000
_FLOOD = 32
_MAX_SESSIONS = 1024
_THREADS = 256
"""Tool calls of all sandboxes that may be under way at once; each waits in a thread of its own."""
_SYSTEM = frozenset({"call_neuron", "neuron", "load_model"})
_TOOLS = frozenset(
    {
        "dataset_exemplars",
        "text2image",
        "edit_images",
        "describe_images",
        "summarize_images",
        "display",
        "log_experiment",
        "save_experiment_log",
    }
)
_SYSTEM_ATTRIBUTES = frozenset({"neuron_num", "layer", "model_name", "device"})
_TOOLS_ATTRIBUTES = frozenset({"experiment_log", "results_list", "activation_threshold"})
_TWO_TARGETS = re.compile(rb"(?:^|\n)[ \t]*\(?[ \t]*\w+[ \t]*,[ \t]*\w+[ \t]*\)?[ \t]*=[ \t]*$")
_ENTRY = re.compile(rf"^def[ \t]+({'|'.join(ENTRY_POINTS)})[ \t]*\(([^)]*)\)", re.MULTILINE)


class _FloodError(Exception):
    """The program printed far more than is kept."""


class _Bridge:
    """Stands where the child's socket is: its requests go straight to the program's call desk."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.desk: CallDesk | None = None
        self.ended: BaseException | None = None

    def ask(self, message: dict[str, Any], blob: memoryview | None = None) -> dict[str, Any]:
        assert self.desk is not None
        future = asyncio.run_coroutine_threadsafe(self.desk.reply(message, bytearray()), self._loop)
        try:
            answer, _ = future.result()
        except (EndedError, ProtocolError) as error:
            self.ended = error
            raise
        if "error" in answer:
            raise ToolError(answer["error"])
        return answer


class _Handles(Values):
    """Images are handles of this session or nothing: what a program made up is never decoded here."""

    def image(self, value: Any) -> dict[str, str]:
        if type(value) is not ImageHandle:
            raise ToolError(f"expected an image that came from tools or system, got {type(value).__name__}")
        return super().image(value)


class MontySandbox(Session):
    """A session of a Monty worker process."""

    def __init__(
        self,
        pool: Any,
        threads: ThreadPoolExecutor,
        watch: Callable[[int | None], None],
        settings: SandboxSettings,
        tier: Tier,
        seed: int,
    ) -> None:
        super().__init__(settings, tier, seed)
        self._pool, self._threads, self._watch = pool, threads, watch
        self._session: Any = None
        self._worker: int | None = None
        self._output: Output | None = None
        self._sources: list[bytes] = []
        self._bridge = _Bridge(asyncio.get_running_loop())
        self._values = _Handles(self._bridge)  # type: ignore[arg-type]
        self._receivers: dict[UUID, tuple[Any, frozenset[str]]] = {}
        self._inputs: dict[str, Any] = {}
        self._expose()

    def _expose(self) -> None:
        for name, kind, methods, attributes in (
            ("system", PaperSystem, _SYSTEM, _SYSTEM_ATTRIBUTES),
            ("tools", PaperTools, _TOOLS, _TOOLS_ATTRIBUTES),
        ):
            receiver = kind(self._bridge)  # type: ignore[arg-type]
            receiver._values = self._values
            receiver._tell = self._tell
            identity = uuid4()
            self._receivers[identity] = (receiver, methods | attributes)
            self._inputs[name] = monty.ClassInstance(
                receiver, id=identity, allowed_methods=methods, lazy_attrs=attributes
            )

    def _tell(self, text: str) -> None:
        """Print, as the program would."""
        if self._output is not None:
            self._output.add(f"{text}\n".encode())

    async def _open(self) -> None:
        self._sources = []
        session = self._pool.checkout(
            script_name="program",
            limits={
                "max_feed_duration_secs": self._settings.program_timeout_s,
                "max_memory": self._settings.memory_bytes,
                "max_suspensions": 1 << 30,
            },
            os_policy={"random_start": {"seed": self._seed}},
        )
        try:
            self._session = await session.__aenter__()
            self._worker = self._session.worker_pid
            self._watch(self._worker)
        except (OSError, TimeoutError, monty.MontyError) as error:
            raise SandboxError(f"a monty worker did not come up ({type(error).__name__}).") from error

    async def _discard(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.__aexit__(None, None, None)

    def _state(self) -> str:
        return "none" if self._session is None else "ready"

    def _interrupt(self) -> None:
        if self._session is not None and self._worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)

    async def _execute(self, program: str, desk: CallDesk, output: Output) -> tuple[Status, Any, str]:
        self._number += 1
        self._bridge.desk, self._bridge.ended, self._output = desk, None, output
        try:
            await self._feed(program, output)
            value = None
            for call in _entry_calls(program):
                value = await self._feed(call, output)
            encoded = await self._in_thread(self._values.any, value)
            return "ok", decode_value(encoded, self._shelf), ""
        except monty.MontyCrashedError as error:
            if error.timed_out:
                raise self._too_slow() from None
            raise EndedError("died", f"The interpreter died (exit status {error.exit_status}).") from None
        except monty.MontyError as error:
            return self._failed(error)
        except _FloodError:
            limit = _FLOOD * self._settings.output_bytes >> 20
            raise EndedError(
                "limit", f"The program was ended: it printed more than {limit} MB. Print less."
            ) from None

    async def _feed(self, source: str, output: Output) -> Any:
        flood = _FLOOD * self._settings.output_bytes

        def printed(stream: str, text: str) -> None:
            output.add(text.encode("utf-8", "replace"))
            if output.total_bytes > flood:
                raise _FloodError

        self._sources.append(source.encode("utf-8", "replace"))
        snapshot = await self._session.feed_start(source, inputs=self._inputs, print_callback=printed)
        while not isinstance(snapshot, monty.MontyComplete):
            if output.total_bytes > flood:
                raise _FloodError
            snapshot = await self._resume(snapshot)
        return snapshot.output

    async def _resume(self, snapshot: Any) -> Any:
        identity: Any = getattr(snapshot, "object_id", None)
        receiver, names = self._receivers.get(identity, (None, frozenset()))
        if isinstance(snapshot, monty.AsyncNameLookupSnapshot):
            name = snapshot.variable_name
            if receiver is None or name not in names:
                return await snapshot.resume_auto()
            answer = await self._answer(lambda: getattr(receiver, name))
            # Without a value the program meets an AttributeError; there is no other way to fail here.
            return await (
                snapshot.resume(value=answer["return_value"])
                if "return_value" in answer
                else snapshot.resume()
            )
        if isinstance(snapshot, monty.AsyncFutureSnapshot):
            raise EndedError(
                "error", "The program was ended: it waits for something that never comes (await)."
            )
        if not isinstance(snapshot, monty.AsyncFunctionSnapshot) or receiver is None:
            return await snapshot.resume_auto()  # an import or a file: refused
        name = str(snapshot.function_name)
        if name not in names:
            return await snapshot.resume_auto()
        args, kwargs = snapshot.args, snapshot.kwargs
        unpacked = name == "dataset_exemplars" and self._unpacks_into_two(snapshot.position)

        def call() -> Any:
            result = getattr(receiver, name)(*args, **kwargs)
            return tuple(map(list, zip(*list(result), strict=True))) if unpacked else result

        return await snapshot.resume(await self._answer(call))

    def _unpacks_into_two(self, position: Any) -> bool:
        """Say whether a call stands behind `a, b = `, as in the paper's programs."""
        number = re.search(r"\d+", position.filename)
        if number is None or int(number[0]) >= len(self._sources):
            return False
        return _TWO_TARGETS.search(self._sources[int(number[0])][: position.start][-200:]) is not None

    async def _answer(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Return the result of a call into `system` or `tools`, in the form in which Monty takes it."""
        try:
            return {"return_value": _wrapped(await self._in_thread(call))}
        except (EndedError, ProtocolError):
            raise
        except Exception as error:  # ours, or of Python for arguments that do not fit
            if self._bridge.ended is not None:
                raise self._bridge.ended from None
            name = (
                type(error).__name__
                if type(error) in (TypeError, AttributeError, ValueError)
                else "RuntimeError"
            )
            return {"exc_type": name, "message": str(error)[:_MAX_ERROR]}

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _failed(self, error: Any) -> tuple[Status, Any, str]:
        """Return how a program that raised ended."""
        message = error.display("type-msg")
        kind = message.partition(":")[0]
        if kind == "TimeoutError" and not error.traceback():
            raise self._too_slow() from None
        text = error.display()[-_MAX_ERROR:]
        if kind == "MemoryError":
            return "memory", None, f"{text}\nThe program used more memory than it may."
        if kind == "ModuleNotFoundError":
            text += "\nThis interpreter has a part of the standard library, and neither numpy nor PIL."
        return "forbidden" if kind == "PermissionError" else "error", None, text

    def _too_slow(self) -> EndedError:
        limit = self._settings.program_timeout_s
        return EndedError(
            "timeout",
            f"The program was ended after {limit:g} s of its own work (waiting for tools does not count)."
            " Look for a loop that does not end, or do less at a time.",
        )


def _wrapped(value: Any) -> Any:
    """Return `value` with each image as an opaque object of the interpreter."""
    if type(value) is ImageHandle:
        return monty.ClassInstance(value, eager_attrs=("width", "height", "size"))
    if isinstance(value, (list, tuple)):
        return (
            type(value)(map(_wrapped, value))
            if type(value) in (list, tuple)
            else [_wrapped(v) for v in list(value)]
        )
    if isinstance(value, dict):
        return {key: _wrapped(item) for key, item in value.items()}
    return value


def _entry_calls(program: str) -> list[str]:
    """Return the calls of entry points that a program defines and does not call itself.

    Read off the text, because model-written code is never parsed on this side.
    """
    calls = []
    for name, parameters in dict(_ENTRY.findall(program)).items():
        if len(re.findall(rf"\b{name}[ \t]*\(", program)) > 1:
            continue
        given = [
            text.partition(":")[0].partition("=")[0].strip() for text in parameters.split(",") if text.strip()
        ]
        wanted = ["tools", "system"] if given[:1] == ["tools"] else ["system", "tools"]
        calls.append(f"{name}({', '.join(wanted[: len(given)])})")
    return calls


class _Lifeline:
    """Ends the workers when this process dies: a busy one would not notice before its own deadline.

    A process of its own reads their ids from a pipe and acts when the pipe closes.
    """

    _WATCH = (
        "import os, select, signal, sys\n"
        "workers = []\n"
        "for line in sys.stdin:\n"
        "    for gone in select.select(workers, [], [], 0)[0]:\n"
        "        os.close(gone); workers.remove(gone)\n"
        "    try: workers.append(os.pidfd_open(int(line)))\n"
        "    except ProcessLookupError: pass\n"
        "for worker in workers:\n"
        "    try: signal.pidfd_send_signal(worker, signal.SIGKILL)\n"
        "    except ProcessLookupError: pass\n"
    )

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        if hasattr(os, "pidfd_open"):
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", self._WATCH],
                stdin=subprocess.PIPE,
                env={},
                start_new_session=True,
            )

    def watch(self, pid: int | None) -> None:
        if self._process is None or self._process.stdin is None or pid is None or pid in self._known:
            return
        self._known.add(pid)
        self._process.stdin.write(b"%d\n" % pid)
        self._process.stdin.flush()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


class MontyServer:
    """Makes `MontySandbox`es from one pool of worker processes."""

    tier: Tier = "monty"

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._pool: Any = None
        self._lifeline: _Lifeline | None = None
        self._threads = ThreadPoolExecutor(_THREADS, "maia-monty")
        self._sandboxes: list[MontySandbox] = []

    async def start(self) -> None:
        """Start the pool and prove it.

        Raises:
            SandboxError: If it does not come up.
        """
        self._lifeline = await asyncio.to_thread(_Lifeline)
        pool = monty.AsyncMonty(min_processes=1, max_processes=_MAX_SESSIONS)
        try:
            self._pool = await pool.__aenter__()
        except (OSError, RuntimeError, monty.MontyError) as error:
            raise SandboxError(f"monty cannot be started ({error}).") from error
        failed = [row for row in await self.self_test() if not row.passed]
        if failed:
            raise SandboxError("; ".join(f"{row.name} is not stopped ({row.detail})" for row in failed))

    async def open(self, *, seed: int) -> MontySandbox:
        sandbox = MontySandbox(self._pool, self._threads, self._watch, self._settings, self.tier, seed)
        await sandbox.prepare()
        self._sandboxes = [*(other for other in self._sandboxes if not other.closed), sandbox]
        return sandbox

    def _watch(self, pid: int | None) -> None:
        if self._lifeline is not None:
            self._lifeline.watch(pid)

    async def self_test(self) -> list[Check]:
        from tools.sandbox.self_test import run_monty_checks

        return await run_monty_checks(self)

    async def close(self) -> None:
        for sandbox in self._sandboxes:
            await sandbox.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.__aexit__(None, None, None)
        if self._lifeline is not None:
            await asyncio.to_thread(self._lifeline.close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> MontyServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
