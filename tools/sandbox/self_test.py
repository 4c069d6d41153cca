"""Proof that the walls stand: a program that tries what it must not be able to do.

It goes the way of every program, through the same fork server, child and walls; the tier of a sandbox
is claimed only if every row passes.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, Protocol

from tools.sandbox.base import Check, Sandbox, Tier
from tools.sandbox.child.wire import MAX_THREADS
from tools.sandbox.settings import SandboxSettings

PROBES = """
import ctypes, errno, os, socket, time

def attempt(function):
    try:
        function()
    except OSError as error:
        return errno.errorcode.get(error.errno, "OSError")
    except (MemoryError, IndexError) as error:
        return type(error).__name__
    return "SUCCEEDED"

def libc(name, *arguments):
    def call():
        if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    return call

def fork():
    if os.fork() == 0:
        os._exit(0)

def reading(path):
    return lambda: open(path).read()

VM_FS_SIGHAND_THREAD_SYSVSEM = 0x50B00
NOTHING = ctypes.CDLL(None).getpid
stack = ctypes.create_string_buffer(1 << 16)
STACK_TOP = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16) - 256)

probes = {
    "reads a secret file": reading(SECRET),
    "reads the files of this project": reading(PROJECT),
    "lists the root directory": lambda: os.listdir("/"),
    "reads its own environment": reading("/proc/self/environ"),
    "reads its parent's environment": reading(f"/proc/{os.getppid()}/environ"),
    "writes to the temporary directory": lambda: open(SECRET + ".new", "w"),
    "opens a network socket": lambda: socket.socket(socket.AF_INET),
    "opens a local socket": lambda: socket.socket(socket.AF_UNIX),
    "forks": fork,
    "starts a program": lambda: os.execv("/bin/true", ["true"]),
    "signals its parent": lambda: os.kill(os.getppid(), 0),
    "traces its parent": libc("ptrace", 16, os.getppid(), 0, 0),
    "makes an anonymous file": lambda: os.memfd_create("x"),
    "allocates more than its limit": lambda: bytearray(LIMIT),
    "has descriptors for each thread": libc("syscall", 436, 1000, 1001, 2),  # CLOSE_RANGE_UNSHARE
    "starts a thread with its own descriptors": libc(
        "clone", NOTHING, STACK_TOP, VM_FS_SIGHAND_THREAD_SYSVSEM, None
    ),
    "looks for another process": lambda: os.getpgid(os.getppid()),
    "reads another process's time": lambda: time.clock_gettime(~os.getppid() << 3 | 2),
}

if HIDDEN:
    probes["learns that a file exists"] = lambda: os.stat(SECRET)
    probes["sees a network interface"] = lambda: [i for i, n in socket.if_nameindex() if n != "lo"][0]

def run_experiment(system, tools):
    return {name: attempt(probe) for name, probe in probes.items()}
"""


_THREADS = """
import threading
threading.stack_size(1 << 16)
done = threading.Event()
try:
    for _ in range(N):
        threading.Thread(target=done.wait, daemon=True).start()
except RuntimeError as error:
    print("refused", end="")
"""


class _Opens(Protocol):
    tier: Tier

    async def open(self, *, seed: int) -> Sandbox: ...


class _NoTools:
    async def call(self, method: str, arguments: dict[str, Any]) -> Any:
        raise AssertionError("the self-test calls no tool")


async def run_checks(server: _Opens, settings: SandboxSettings, probes: str = PROBES) -> list[Check]:
    """Return one row a probe; a row passes if the kernel refused."""
    descriptor, secret = tempfile.mkstemp(prefix="maia-self-test-")
    try:
        os.write(descriptor, b"not for programs")
        os.fchmod(descriptor, 0o644)
        given = {
            "SECRET": secret,
            "PROJECT": __file__,
            "HIDDEN": server.tier == "kernel+ns",
            "LIMIT": settings.memory_bytes + (64 << 20),
        }
        program = "\n".join([*(f"{name} = {value!r}" for name, value in given.items()), probes])
        sandbox = await server.open(seed=0)
        try:
            outcome = await sandbox.run(program, _NoTools())
        finally:
            await sandbox.close()
    finally:
        os.close(descriptor)
        os.unlink(secret)  # noqa: PTH108
    if outcome.status != "ok" or not isinstance(outcome.value, dict):
        return [Check("the self-test runs", False, f"{outcome.status}: {outcome.error}")]
    rows = [
        Check(f"a program that {name}", result != "SUCCEEDED", result)
        for name, result in outcome.value.items()
    ]
    return [*rows, await _check_threads(server)]


async def _check_threads(server: _Opens) -> Check:
    """Return a row that passes if too many threads are refused, or end their program."""
    sandbox = await server.open(seed=0)
    try:
        outcome = await sandbox.run(f"N = {2 * MAX_THREADS}\n{_THREADS}", _NoTools())
    finally:
        await sandbox.close()
    detail = outcome.output or outcome.error or "SUCCEEDED"
    return Check(
        f"a program that starts {2 * MAX_THREADS} threads",
        outcome.status == "limit" or outcome.output == "refused",
        detail,
    )


_MONTY_PROBES = {
    "reads a secret file": "open(SECRET).read()",
    "lists a directory": "import os\nos.listdir('/')",
    "writes to the temporary directory": "open(SECRET + '.new', 'w').write('x')",
    "opens a socket": "import socket\nsocket.socket()",
    "forks": "import os\nos.fork()",
    "starts a program": "import subprocess\nsubprocess.run(['true'])",
    "calls native code": "import ctypes\nctypes.CDLL(None)",
    "leaves through object internals": "().__class__.__base__.__subclasses__()",
    "reads the environment": "import os\nassert len(os.environ) == 0, 'empty'\nos.environ['PATH']",
}


async def run_monty_checks(server: _Opens) -> list[Check]:
    """Return one row a probe; a row passes if the interpreter refused."""
    rows = []
    descriptor, secret = tempfile.mkstemp(prefix="maia-self-test-")
    sandbox = await server.open(seed=0)
    try:
        os.write(descriptor, b"not for programs")
        for name, probe in _MONTY_PROBES.items():
            outcome = await sandbox.run(f"SECRET = {secret!r}\n{probe}", _NoTools())
            refused = outcome.status in ("error", "forbidden")
            detail = outcome.error.strip().rpartition("\n")[2] or outcome.status
            rows.append(Check(f"a program that {name}", refused, detail))
    finally:
        await sandbox.close()
        os.close(descriptor)
        os.unlink(secret)  # noqa: PTH108
    return rows
