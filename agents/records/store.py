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
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from actors.endpoint.secrets import without_secrets
from actors.errors import MaiaError, UsageError
from agents.records import run_files
from agents.records.run_files import RecordError


class StoreError(MaiaError):
    """The folder cannot be written: full, read-only, or gone."""


SPARE_BYTES = 32 * 2**20
"""Free space that must be left before a call whose answer could not be bought again."""


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

    def __init__(self, root: Path, *, spare_bytes: int = SPARE_BYTES) -> None:
        self.root, self._spare_bytes = root, spare_bytes
        self._base, self._prefix = root, ""

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

    def below(self, folder: str) -> Store:
        """Return the store of a folder of this one, which is made where it is missing. Whoever puts a link in
        its place later gains nothing: its files are opened from the folder that the person named.

        Raises:
            StoreError: If it cannot be made.
            RecordError: If it is a link or no directory.
        """
        with (
            _translated_errors(self.root / folder),
            run_files.opened_folder(self._base, run_files.split_key(self._key(folder)), make=True),
        ):
            inner = Store(self.root / folder, spare_bytes=self._spare_bytes)
        inner._base, inner._prefix = self._base, f"{self._key(folder)}/"
        return inner

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def put(self, key: str, data: bytes) -> bool:
        """Write `data` under `key` unless the key exists; return whether this call wrote it.

        The bytes are on disk, and so is their name, before this returns.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
            RecordError: If the folder of the key is a link.
        """
        with _translated_errors(self.root / key):
            return run_files.put_file(self._base, self._key(key), without_secrets(data))

    def check_room(self) -> None:
        """Make sure that what starts now can be written when it ends.

        Raises:
            StoreError: If less than `spare_bytes` are free.
        """
        with _translated_errors(self.root):
            free = shutil.disk_usage(self.root).free
        if free < self._spare_bytes:
            raise StoreError(
                f"the disk of {self.root} is nearly full: {free / 2**20:.0f} MB are left, "
                f"{self._spare_bytes / 2**20:.0f} "
                "MB are needed to start anything.",
                "Free some space and resume.",
            )

    def replace(self, key: str, data: bytes, *, synced: bool = False) -> None:
        """Write `data` under `key` whatever was there, whole or not at all.

        `synced`: it is on disk before this returns, as what a run is about must be; counts and tables, which
        can be made again, need not be.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
            RecordError: If the folder of the key is a link.
        """
        with _translated_errors(self.root / key):
            run_files.replace_file(self._base, self._key(key), without_secrets(data), synced=synced)

    def replace_json(self, key: str, value: Any) -> None:
        """Do as `replace` with the JSON of plain values and data classes."""
        self.replace(key, json.dumps(value, indent=1, ensure_ascii=False, default=asdict).encode())

    def remove(self, key: str) -> None:
        """Remove what can be made again; of a link, the link itself.

        Raises:
            StoreError: If the folder cannot be written.
            RecordError: If the folder of the key is a link.
        """
        with _translated_errors(self.root / key):
            run_files.remove_file(self._base, self._key(key))

    def get(self, key: str) -> bytes | None:
        """Return the object, or None if there is none under that key.

        Raises:
            RecordError: If it is no regular file, lies behind a link, or is too large.
        """
        return run_files.read_bytes(self._base, self._key(key))

    def table(self, key: str) -> bytes | None:
        """Do as `get` of a table with a line for each unit, which may be larger than a record."""
        return run_files.read_bytes(self._base, self._key(key), run_files.MAX_TABLE)

    def read(self, key: str) -> Any:
        """Return the JSON value of a record, or None if there is none under that key.

        Raises:
            RecordError: If it cannot be read, or is damaged.
        """
        data = self.get(key)
        if data is None:
            return None
        value = run_files.parse_json(data, self.root / key)
        if value is None:
            raise RecordError(f"{self.root / key} is damaged: it holds null.")
        return value

    def read_object(self, key: str) -> dict[str, Any] | None:
        """Do as `read` of a record that is a JSON object."""
        value = self.read(key)
        if value is not None and not isinstance(value, dict):
            raise RecordError(f"{self.root / key} is damaged: it holds no object.")
        return value

    def has(self, key: str) -> bool:
        """Return whether there is a regular file under that key."""
        return self.status(key) is not None

    def status(self, key: str) -> os.stat_result | None:
        """Return the status of the file under a key, None if there is none."""
        return run_files.file_status(self._base, self._key(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below the folder `prefix`, sorted; unfinished writes are not keys."""
        for key in run_files.list_files(self._base, self._key(prefix).rstrip("/")):
            yield key.removeprefix(self._prefix)

    def folder_state(self, prefix: str) -> tuple[int, int]:
        """Return when a folder last changed, in nanoseconds, and how many entries it has; zeros where there
        is none.
        """
        return run_files.folder_state(self._base, self._key(prefix))

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders in the folder `prefix`, sorted."""
        return run_files.list_folders(self._base, self._key(prefix).rstrip("/"))


def finite(value: Any) -> Any:
    """Return a plain value with null for NaN and the infinities, which JSON does not know."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> MaiaError:
    if error.errno == errno.ENAMETOOLONG:
        return RecordError(f"cannot write {path}: the name is too long.")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "Free some space and resume." if full else "Check the folder and resume."
    return StoreError(f"cannot write {path}: {error.strerror}.", fix)
