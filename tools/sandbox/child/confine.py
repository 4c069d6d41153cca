"""The walls around one program, in the order in which a child raises them.

Landlock and seccomp are needed both: the first alone lets UDP, netlink and signals through, the second
alone lets a program read `/proc/PARENT/environ`. What is costly to build is built once, in the fork
server, and only switched on in each child.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import random
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .syscalls import ALLOWED, RESTRICTED
from .wire import MAX_THREADS

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
UNUSED_UID = 1_879_048_192
"""First of the 2**28 user ids that Linux distributions leave unused."""
UIDS = 100_000
"""User ids of one fork server."""
CLONE_NEWUSER = 0x10000000
DESCRIPTORS = 64
PIPE_BYTES = DESCRIPTORS // 2 << 16
"""Bytes that the pipes of one sandbox can hold: memory that no limit on address space sees."""

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *args: Any) -> None:
    padded = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in (*args, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


@dataclass(frozen=True)
class Plan:
    """The walls of this machine, determined once by the fork server for every child."""

    ruleset: Any | None
    """The Landlock ruleset, or None where the kernel has none."""
    program: bytes | None
    """The seccomp filter as BPF, or None."""
    missing: tuple[str, ...]
    """One sentence for each wall that cannot be raised here."""
    size_bytes: int
    """Address space of the bare interpreter."""
    uid: int | None = None
    """The first of the user ids that children get; None keeps the server's own."""
    own_space: bool = False
    """Whether each child enters a user namespace of its own, in which its threads are counted apart."""

    @property
    def counted(self) -> bool:
        """Return whether the kernel limits the threads of one child."""
        return self.uid is not None or self.own_space


def plan(readable: Sequence[str], size_bytes: int) -> Plan:
    """Build the walls that this machine has."""
    missing: list[str] = []
    ruleset = program = None
    try:
        ruleset = landlock_ruleset(readable)
        _try_out(ruleset.restrict)
    except Exception as error:
        ruleset = None
        missing.append(f"Landlock is missing ({error})")
    try:
        program = seccomp_program()
        _try_out(functools.partial(_filter_calls, program))
    except Exception as error:
        program = None
        missing.append(f"seccomp is missing ({error})")
    return Plan(ruleset, program, tuple(missing), size_bytes)


def landlock_ruleset(readable: Sequence[str]) -> Any:
    """Return a ruleset that allows reading below `readable` and nothing else."""
    from landlockpy import AccessFS, LandlockError, Ruleset, Scope

    try:
        rules = Ruleset(scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET)
    except LandlockError as error:
        # Some kernels report an ABI without having its scopes; seccomp covers signals and sockets.
        if error.errno != errno.EINVAL:
            raise
        rules = Ruleset(scoped=Scope.NONE)
    for path in readable:
        if not os.path.exists(path):  # noqa: PTH110
            continue
        access = AccessFS.READ_FILE | (AccessFS.READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112
        rules.allow_path(path, AccessFS(access))
    if os.path.exists("/dev/null"):  # noqa: PTH110
        rules.allow_path("/dev/null", AccessFS.READ_FILE | AccessFS.WRITE_FILE)
    return rules


def seccomp_program() -> bytes:
    """Return the filter as BPF instructions."""
    import pyseccomp as seccomp

    # A call of another architecture (int 0x80, x32) would be read with the wrong numbers: kill.
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for name in ALLOWED:
        _allow(seccomp, rules, name)
    for name, argument, mask, value in RESTRICTED:
        _allow(seccomp, rules, name, seccomp.Arg(argument, seccomp.MASKED_EQ, mask, value))
    # Its flags lie in memory, where no filter sees them; libc then falls back to clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    # Reading one's own limits is harmless, setting them or another's is not.
    _allow(seccomp, rules, "prlimit64", seccomp.Arg(0, seccomp.EQ, 0), seccomp.Arg(2, seccomp.EQ, 0))
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _allow(seccomp: Any, rules: Any, name: str, *arguments: Any) -> None:
    try:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    except ValueError:
        return
    if number >= 0:  # libseccomp gives negative numbers to calls that this architecture lacks
        rules.add_rule(seccomp.ALLOW, number, *arguments)


def raise_walls(plan: Plan, number: int, memory_bytes: int, parent: int) -> None:
    """Confine the calling process, which must have one thread. There is no way back.

    Raises:
        OSError: If a wall of the plan cannot be raised; the caller must then exit.
    """
    _limit(plan.size_bytes + memory_bytes - PIPE_BYTES)
    if plan.own_space:
        _enter_own_space()
    if plan.counted:
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS, MAX_THREADS))
    _drop_privileges(None if plan.uid is None else plan.uid + number % UIDS)
    # After the last change of credentials, which clears it.
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if plan.ruleset is not None:
        plan.ruleset.restrict()
        plan.ruleset.close()
    if plan.program is not None:
        _filter_calls(plan.program)


def _filter_calls(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, instructions)))


def _try_out(wall: Callable[[], None]) -> None:
    """Raise a wall in a process that is thrown away.

    Raises:
        OSError: If the kernel refuses.
    """
    child = os.fork()
    if child == 0:
        try:
            _prctl(PR_SET_NO_NEW_PRIVS, 1)
            wall()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError("the kernel has it, but refuses it here")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    def __init__(self, length: int, instructions: Any) -> None:
        super().__init__(length, ctypes.cast(instructions, ctypes.c_void_p))


def _limit(address_space_bytes: int) -> None:
    limits = {
        resource.RLIMIT_AS: address_space_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for which, value in limits.items():
        _, hard = resource.getrlimit(which)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(which, (value, value))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _drop_privileges(uid: int | None) -> None:
    for capability in range(64):
        try:
            _prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
            break
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    try:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    header, nothing = _CapabilityHeader(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(ctypes.byref(header), nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _enter_own_space() -> None:
    if _libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def with_users(walls: Plan, readable: Sequence[str]) -> Plan:
    """Return the plan with what keeps the threads of one child apart from those of others: a user id or a
    namespace.
    """
    # Two servers on one machine should not share user ids: their threads would be counted together.
    uid = UNUSED_UID + UIDS * random.SystemRandom().randrange((1 << 28) // UIDS)
    if os.geteuid() == 0 and _counts(functools.partial(_become, uid), readable):
        return replace(walls, uid=uid)
    return replace(walls, own_space=_counts(_enter_own_space, readable))


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _counts(change: Callable[[], None], readable: Sequence[str]) -> bool:
    """Return whether after `change` a process can read the interpreter and has its own process count."""
    child = os.fork()
    if child == 0:
        try:
            change()
            resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
            if os.fork() == 0:  # the second process; it counts until it is waited for
                os._exit(0)
            try:
                os.fork()
            except BlockingIOError:
                os._exit(0 if all(_readable(path) for path in readable) else 1)
            os._exit(1)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _readable(path: str) -> bool:
    try:
        return any(True for _ in Path(path).iterdir()) if Path(path).is_dir() else os.access(path, os.R_OK)
    except OSError:
        return False
