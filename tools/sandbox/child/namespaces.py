"""A file tree, network and IPC space of the fork server's own, where the kernel allows it.

A third wall behind Landlock and seccomp, and the only one that hides names: without it a program can
find out that a path exists. The tree holds the interpreter and nothing else, so its folders can be read
by any user id even if they lie below a private home.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
_STAGE = b"/tmp"
"""A folder of every Linux to mount the new tree on; what lies in it is untouched."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespaces(visible: Sequence[str]) -> str | None:
    """Move this single-threaded process into its own namespaces, in which only `visible` exists.

    Return None, or why it cannot be done; then nothing has changed.
    """
    probe = os.fork()
    if probe == 0:
        try:
            _enter(visible)
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(probe, 0)[1] != 0:
        return "this kernel or container does not allow namespaces"
    _enter(visible)
    return None


def _enter(visible: Sequence[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    spaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if _libc.unshare(spaces) != 0:
        _check(_libc.unshare(spaces | CLONE_NEWUSER), "unshare")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
                file.write(text)
    _mount(None, b"/", None, MS_REC | MS_PRIVATE)
    real = {path: os.open(path, os.O_PATH) for path in visible if os.path.exists(path)}  # noqa: PTH110
    _mount(b"tmpfs", _STAGE, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=1m")
    mounted: list[str] = []
    for path, descriptor in sorted(real.items()):
        # What lies below a mounted folder is there already; a second mount on it would find it read-only.
        if not any(path == above or path.startswith(above + "/") for above in mounted):
            _show(path, descriptor)
            mounted.append(path)
        os.close(descriptor)
    old = _STAGE + b"/.old"
    os.mkdir(old)  # noqa: PTH102
    _check(_libc.syscall(_pivot_root(), _STAGE, old), "pivot_root")
    os.chdir("/")
    _check(_libc.umount2(b"/.old", MNT_DETACH), "umount")
    os.rmdir("/.old")  # noqa: PTH106
    _mount(None, b"/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _show(path: str, descriptor: int) -> None:
    target = _STAGE.decode() + path
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):  # noqa: PTH112
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source.encode(), target.encode(), None, MS_BIND | MS_REC)
    if not path.startswith("/dev/"):
        _mount(None, target.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY | _locked(target))


def _locked(target: str) -> int:
    """Return the mount flags that a user namespace may not take away."""
    flags = os.statvfs(target).f_flag
    pairs = ((os.ST_NOSUID, 2), (os.ST_NODEV, 4), (os.ST_NOEXEC, 8), (os.ST_NOATIME, 1024))
    return sum(mount for stat, mount in pairs if flags & stat) | ((1 << 21) if flags & os.ST_RELATIME else 0)


def _pivot_root() -> int:
    return {"x86_64": 155, "aarch64": 41}[os.uname().machine]


def _mount(
    source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None
) -> None:
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data), f"mount {target!r}")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
