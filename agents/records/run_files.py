"""How files of a run directory are opened: it may have been made by a stranger, so it is data and nothing
else.

The folder itself is the one that the person named. Below it only real directories and regular files are
opened, one path component at a time and relative to the handle of the one above: a link, a pipe or a device
is refused by its name, also if it is put there between two checks. Sizes, nesting and the number of values
have bounds.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import MaiaError

if TYPE_CHECKING:
    import numpy as np
    from pydantic import ValidationError

MAX_BYTES = 64 << 20
"""Size of one file: a record, or an image."""
MAX_TABLE = 1 << 30
"""Size of a table with a line for each unit."""
MAX_DEPTH = 64
"""Nesting of a record's values."""
MAX_VALUES = 2_000_000
"""Values of one record; a plan of 100,000 units holds half of them."""
MAX_UNPACKED = 1 << 30
"""Bytes of all arrays of a file, which may be packed."""
# Possessive, and one without an end runs to the end of the data: a search stays linear in a damaged file too.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)
_ENDLESS_NUMBER = re.compile(rb"[0-9]{301}")
"""Digits of a number that has no place in a float."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class RecordError(MaiaError):
    """A file of a run directory is damaged, or is no file that a run would hold: the message names it."""


def split_key(key: str) -> list[str]:
    """Return the components of a key, which is a relative path with `/`.

    Raises:
        RecordError: If it leads out of the folder, or cannot be a path.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RecordError(f"{key!r} names no file of a run: a name must stay inside the run directory.")
    return parts


@contextmanager
def opened_folder(root: Path, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Yield the handle of a folder below `root`; `make` makes those that are missing, but never `root`.

    Raises:
        FileNotFoundError: If it does not exist.
        RecordError: If something on the way is a link or no directory.
    """
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, f"{root} is gone", str(root)) from error
    try:
        for depth, part in enumerate(parts, 1):
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                        os.fsync(handle)
                below = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle
                )
            except OSError as error:
                raise _refused(root, parts[:depth], error) from error
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def open_file(root: Path, key: str) -> int | None:
    """Return the handle of a regular file, None if there is none under that key.

    Raises:
        RecordError: If it is something else, or lies behind a link.
    """
    parts = split_key(key)
    try:
        with opened_folder(root, parts[:-1]) as folder:
            # Not blocking: a pipe would be waited for.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(parts[-1], flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(root, parts, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(root, parts)
    return handle


def read_bytes(root: Path, key: str, most: int = MAX_BYTES) -> bytes | None:
    """Return a file's content, None if there is none under that key.

    Raises:
        RecordError: If it is no regular file, larger than `most` bytes, or cannot be read.
    """
    handle = open_file(root, key)
    if handle is None:
        return None
    with os.fdopen(handle, "rb") as file:
        try:
            # Asked for more than it has, a file takes that much memory all the same.
            data = file.read(min(os.fstat(handle).st_size, most) + 1)
        except OSError as error:
            raise RecordError(f"{root / key} cannot be read ({error.strerror}).") from error
    if len(data) > most:
        raise RecordError(f"{root / key} is too large: such a file of a run has at most {most >> 20} MiB.")
    return data


def file_status(root: Path, key: str) -> os.stat_result | None:
    """Return the status of a regular file, None where there is none: also if it is a link, or lies behind
    one.
    """
    try:
        parts = split_key(key)
        with opened_folder(root, parts[:-1]) as folder:
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
    except (OSError, RecordError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def list_files(root: Path, prefix: str = "") -> list[str]:
    """Return the keys of all regular files below a folder, sorted by path; none where it is a link or
    missing.

    Unfinished writes are left out, and names that are not in UTF-8, which no run has.
    """
    keys = []
    try:
        parts = split_key(prefix) if prefix else []
        with opened_folder(root, parts) as handle:
            for folder, _, names, inside in os.fwalk(".", dir_fd=handle, follow_symlinks=False):
                above = "/".join((*parts, *(part for part in folder.split("/") if part != "."), ""))
                for name in names:
                    unfinished = name.startswith(".") and name.endswith(".tmp")
                    if not unfinished and _is_text(above + name) and _is_regular(name, inside):
                        keys.append(above + name)
    except (FileNotFoundError, RecordError):
        return []
    return sorted(keys, key=lambda key: key.split("/"))


def list_folders(root: Path, prefix: str = "") -> list[str]:
    """Return the names of the real directories in a folder, sorted; none where it is a link or missing.

    Names that are not in UTF-8, which no run has, are left out.
    """
    try:
        parts = split_key(prefix) if prefix else []
        with opened_folder(root, parts) as handle, os.scandir(handle) as entries:
            found = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            return sorted(filter(_is_text, found))
    except (OSError, RecordError):
        return []


def folder_state(root: Path, prefix: str) -> tuple[int, int]:
    """Return when a folder last changed, in nanoseconds, and how many entries it has; zeros where it is a
    link or missing.
    """
    try:
        with opened_folder(root, split_key(prefix)) as handle, os.scandir(handle) as entries:
            return os.fstat(handle).st_mtime_ns, sum(1 for _ in entries)
    except (OSError, RecordError):
        return 0, 0


def remove_file(root: Path, key: str) -> None:
    """Remove a file, or a link itself; nothing happens where there is none."""
    parts = split_key(key)
    try:
        with opened_folder(root, parts[:-1]) as folder:
            os.unlink(parts[-1], dir_fd=folder)
    except FileNotFoundError:
        return


def put_file(root: Path, key: str, data: bytes) -> bool:
    """Write a file unless the name is taken; return whether this call did. Bytes and name are on disk then.

    `link` is atomic also on NFS, where exclusive creation is not.

    Raises:
        OSError: If the disk is full or the folder cannot be written.
        RecordError: If something on the way is a link or no directory.
    """
    parts = split_key(key)
    with opened_folder(root, parts[:-1], make=True) as folder:
        if _exists(parts[-1], folder):
            return False
        temporary = f".{uuid.uuid4().hex}.tmp"
        try:
            _write(temporary, folder, data, synced=True)
            os.link(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return False
        finally:
            _discard(temporary, folder)
        os.fsync(folder)
    return True


def replace_file(root: Path, key: str, data: bytes, *, synced: bool = False) -> None:
    """Write a file whatever was there, whole or not at all; a link under its name is replaced, not followed.

    `synced`: have it on disk before this returns.

    Raises:
        OSError: If the disk is full or the folder cannot be written.
        RecordError: If something on the way is a link or no directory.
    """
    parts = split_key(key)
    with opened_folder(root, parts[:-1], make=True) as folder:
        temporary = f".{uuid.uuid4().hex}.tmp"
        try:
            _write(temporary, folder, data, synced)
            os.replace(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise _refused(root, parts, error) from error
        finally:
            _discard(temporary, folder)
        if synced:
            os.fsync(folder)


def parse_json(data: bytes, path: Path) -> Any:
    """Return the JSON value in `data`, which were read from `path`.

    Raises:
        RecordError: If it is none, or nested or large beyond the bounds.
    """
    fix = (
        "Restore it from a copy; without one, delete it, and what is made from it is made again on resuming."
    )
    try:
        _check_extent(data)
        # UTF-8 alone: the bounds are counted in it.
        value = json.loads(data.decode())
        if _SURROGATE.search(data):
            # Half of a pair has no UTF-8 and could not be printed or written.
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged: {error}.", fix) from error
    return value


def parse_arrays(data: bytes, path: Path, most: int = MAX_UNPACKED) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file with `data`, which were read from `path`; they cannot be written to.

    Raises:
        RecordError: If it is none, holds objects, or unpacks to more than `most` bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > most:
                raise ValueError(f"it unpacks to more than {most >> 20} MiB")
            return {
                entry.filename.removesuffix(".npy"): _array(_unpacked(archive, entry))
                for entry in archive.infolist()
            }
    except Exception as error:  # what reads archives and headers raises a dozen types on damaged data
        raise RecordError(
            f"{path} is damaged: {type(error).__name__}: {error}.", "Delete it: it is made again."
        ) from error


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return an entry's bytes, never more than it says: other methods unpack all before they count."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is packed by another method than numpy's")
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _array(data: bytes) -> np.ndarray:
    """Return the array of an .npy file: never more than its bytes, whatever shape its header names."""
    import numpy as np

    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its arrays are in another version of the format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    flat = np.frombuffer(data, dtype, math.prod(shape), offset=file.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")


def damaged(path: Path, error: ValidationError) -> RecordError:
    """Return the error of a record that is not of its type; it names the first fault without its value."""
    return RecordError(f"{path} is damaged: {first_fault(error)}.", "Restore it from a copy.")


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with a value and where it is, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:200]
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _check_extent(data: bytes) -> None:
    """Raise ValueError if a record is nested deeper, or holds more values, than the bounds allow."""
    bare = _STRING.sub(b"", data)
    if sum(map(bare.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    if _ENDLESS_NUMBER.search(bare):
        raise ValueError("it holds a number of more than 300 digits")
    brackets = bare.translate(None, delete=_NO_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _write(name: str, folder: int, data: bytes, synced: bool) -> None:
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if synced:
            os.fsync(handle)
    finally:
        os.close(handle)


def _discard(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_text(name: str) -> bool:
    """Return whether a file's name is text: others can be neither shown nor written into a record."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_regular(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _refused(root: Path, parts: Sequence[str], error: OSError) -> Exception:
    """Return what is raised for a component that cannot be opened: the error itself where it is no link."""
    path = root.joinpath(*parts)
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK, errno.ENXIO):
        return _not_regular(root, parts)
    if error.errno == errno.ENAMETOOLONG:
        return RecordError(f"{path} cannot be read: the name is too long.")
    return OSError(error.errno, error.strerror, str(path))


def _not_regular(root: Path, parts: Sequence[str]) -> RecordError:
    path = root.joinpath(*parts)
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        mode = 0
    what = "a link" if stat.S_ISLNK(mode) else "no directory or regular file"
    return RecordError(
        f"{path} is {what}; a run directory holds directories and regular files only.",
        "Remove it, or ask for a whole copy of the run.",
    )
