"""Where truth lies: immutable objects, written put-if-absent, under one folder.

The first writer of a key wins and every other writer learns so; a record is whole or absent, also
after a power cut. Indices and reports are made from these objects and can be made again.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from actors.errors import MaiaError, UsageError


class StoreError(MaiaError):
    """The folder cannot be written: full, read-only, or gone."""


SPARE_BYTES = 32 * 2**20
"""Free space that must be left before something is begun whose outcome could not be bought again."""


class Objects(Protocol):
    """What can be had of a store wherever it is."""

    @property
    def name(self) -> str:
        """Where it is, as a user writes it."""

    def put(self, key: str, data: bytes) -> bool: ...

    def replace(self, key: str, data: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def has(self, key: str) -> bool: ...

    def keys(self, prefix: str) -> Iterator[str]: ...


class Store:
    """Objects by key (a relative path with `/`) in a folder of a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        return str(self.root)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Make the folder if needed and prove that it can be written.

        Raises:
            UsageError: If it cannot, saying why.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".{uuid.uuid4().hex}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except FileExistsError as error:
            raise UsageError(f"{root} is a file, not a folder.", "Choose another with --out.") from error
        except OSError as error:
            raise UsageError(
                f"the output folder {root} cannot be written ({error.strerror}).",
                "Choose another with --out, or change its permissions.",
            ) from error
        return cls(root)

    def put(self, key: str, data: bytes) -> bool:
        """Write `data` under `key` unless the key exists; return whether this call wrote it.

        The bytes are on disk, and so is their name, before this returns (write, fsync, link, fsync of
        the folder). `link` is atomic also on NFS, where exclusive creation is not.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
        """
        final = self.root / key
        try:
            if final.exists():
                return False
            self._make(final.parent)
            temporary = final.parent / f".{uuid.uuid4().hex}.tmp"
            try:
                self._write(temporary, data)
                os.link(temporary, final)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            self._keep_name(final)
        except OSError as error:
            raise _refusal(final, error) from error
        return True

    def check_room(self) -> None:
        """Make sure that what is begun now can be written when it ends.

        Raises:
            StoreError: If less than `SPARE_BYTES` are free.
        """
        try:
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise _refusal(self.root, error) from error
        if free < SPARE_BYTES:
            raise StoreError(
                f"the disk of {self.root} is nearly full: {free / 2**20:.0f} MB are left, {SPARE_BYTES / 2**20:.0f} "
                "MB are needed to begin anything.",
                "Free some space and resume.",
            )

    def replace(self, key: str, data: bytes) -> None:
        """Write `data` under `key` whatever was there, whole or not at all: for counts and tables, never for truth.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
        """
        self._exchange(key, data)

    def rewrite(self, key: str, data: bytes) -> None:
        """Do as `replace`, and have it on disk before this returns: for what a run is about, which may only grow.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
        """
        self._exchange(key, data, kept=True)

    def _exchange(self, key: str, data: bytes, kept: bool = False) -> None:
        final = self.root / key
        temporary = final.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            try:
                self._make(final.parent)
                self._write(temporary, data, kept)
                temporary.replace(final)
            finally:
                temporary.unlink(missing_ok=True)
            if kept:
                self._keep_name(final)
        except OSError as error:
            raise _refusal(final, error) from error

    def _make(self, folder: Path) -> None:
        """Make a folder below the root. The root is made by `open` alone: one that was moved away in the middle of a run
        must not come to be a second time, with the rest of what the first one holds.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"{self.root} is gone", str(self.root))
        folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _keep_name(path: Path) -> None:
        """Have the name of a file on disk, as well as its bytes."""
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @staticmethod
    def _write(path: Path, data: bytes, kept: bool = True) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            if kept:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get(self, key: str) -> bytes | None:
        """Return the object, or None if there is none under that key."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def has(self, key: str) -> bool:
        return (self.root / key).exists()

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix`, sorted; unfinished writes are not keys."""
        folder = self.root / prefix
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not (path.name.startswith(".") and path.name.endswith(".tmp")):
                yield path.relative_to(self.root).as_posix()


def parse(data: bytes, path: Path) -> Any:
    """Return the JSON value in `data`, which were read from `path`.

    Raises:
        UsageError: If it is none: the file was changed by others, or its disk is failing.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise UsageError(
            f"{path} is damaged: {error}.",
            "Restore it from a copy; without one, delete it, and what is made from it is made again on resuming.",
        ) from error


def finite(value: Any) -> Any:
    """Return a plain value with null for NaN and the infinities, which JSON does not know."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: finite(each) for key, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value


def _refusal(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "Free some space and resume." if full else "Check the folder and resume."
    return StoreError(f"cannot write {path}: {error.strerror}.", fix)
