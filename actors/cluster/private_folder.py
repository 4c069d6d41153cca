"""A folder for Ray's files that no other user of the machine can enter.

Ray makes everything below its temporary folder writable by all users, and puts its sockets there, whose paths
may have 107 bytes (`sun_path` in unix(7)). So each cluster gets a folder of its own, 0700, with a short path:

    TMP/maia-ray-XXXXXXXX/       locked while the cluster's owner lives
        auth_token               of a private cluster
        s/session_.../           Ray's temporary folder: sockets, logs

TMP is $TMPDIR where that is short, else /tmp, else $XDG_RUNTIME_DIR.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.errors import UsageError

_PREFIX = "maia-ray-"
_SOCKET_LIMIT = 103 if sys.platform == "darwin" else 107
_BELOW = len(f"/{_PREFIX}12345678/s/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Bytes of a socket's path below TMP; process ids have at most seven digits on Linux."""
LONGEST_TEMPORARY_PATH = _SOCKET_LIMIT - _BELOW
_KEPT = 3
"""Folders of clusters that have ended and whose logs are kept."""


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """One cluster's folder. A process that holds `lock` open keeps it from being removed."""

    path: Path
    lock: int

    @property
    def ray(self) -> Path:
        """Ray's temporary folder."""
        return self.path / "s"

    @property
    def logs(self) -> Path:
        """The logs of the cluster that was started last in it."""
        return self.ray / "session_latest" / "logs"

    def write_token(self) -> Path:
        """Write a new random token that only this user can read, and return its file."""
        path = self.path / "auth_token"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        return path

    def release(self) -> None:
        """Mark the cluster as ended. Its logs stay until a few others have ended after it."""
        os.close(self.lock)


def make(environment: Mapping[str, str] = os.environ, fallback: str = "/tmp") -> PrivateFolder:
    """Make a folder for one cluster, and remove those of clusters that ended long ago.

    Raises:
        UsageError: If there is no place for it.
    """
    refused = []
    for parent in candidates(environment, fallback):
        if reason := unfit(parent):
            refused.append(reason)
            continue
        _prune(parent)
        try:
            if folder := _make_below(parent):
                return folder
            refused.append(f"files in {parent} cannot be locked")
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
    raise UsageError(
        f"there is no folder for Ray's files: {'; '.join(refused)}.",
        f"Set TMPDIR to a folder of your own whose path has at most {LONGEST_TEMPORARY_PATH} bytes.",
    )


def candidates(environment: Mapping[str, str], fallback: str = "/tmp") -> list[Path]:
    """Return the places where the folder may be made, the preferred one first."""
    named = [environment.get("TMPDIR", ""), fallback, environment.get("XDG_RUNTIME_DIR", "")]
    return [Path(path) for path in dict.fromkeys(named) if path.startswith("/")]


def unfit(parent: Path) -> str:
    """Return why no private folder can be made in `parent`, "" if one can."""
    length = len(os.fsencode(parent))
    if length > LONGEST_TEMPORARY_PATH:
        return f"the path of {parent} has {length} bytes, and sockets allow {LONGEST_TEMPORARY_PATH}"
    try:
        status = parent.stat()
    except OSError as error:
        return f"{parent}: {error.strerror}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{parent} is not a folder"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} cannot be written"
    # In a user namespace the owner of /tmp has no name here.
    if status.st_uid not in (0, os.getuid()) and parent != Path("/tmp"):
        return f"{parent} belongs to another user"
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        return f"others can replace what is in {parent}, which has no sticky bit"
    return ""


def existing(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return this user's folders of clusters that run or ran, the newest first."""
    return [path for parent in candidates(environment) for path in _ours(parent)]


def running(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Return Ray's temporary folders of this user's clusters that run, the newest first."""
    folders = []
    for path in existing(environment):
        lock = _locked(path)
        if lock is None:
            folders.append(path / "s")
        else:
            os.close(lock)
    return folders


def _make_below(parent: Path) -> PrivateFolder | None:
    # Between its making and its locking another process may take the folder for an old one, and remove it.
    for _ in range(3):
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _locked(path)
        if lock is not None:
            (path / "s").mkdir(mode=0o700)
            return PrivateFolder(path, lock)
    return None


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, None where it is taken or the folder gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.lstat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _ours(parent: Path) -> list[Path]:
    def with_times() -> Iterator[tuple[float, Path]]:
        for path in parent.glob(f"{_PREFIX}*"):
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                yield status.st_mtime, path

    return [path for _, path in sorted(with_times(), reverse=True)]


def _prune(parent: Path) -> None:
    ended = 0
    for path in _ours(parent):
        lock = _locked(path)
        if lock is None:
            continue
        ended += 1
        if ended > _KEPT:
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)
