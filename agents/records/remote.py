"""A run's objects under a URL, such as `s3://bucket/run`: everything that fsspec knows.

Records, report and `status` work on files. So a run with a URL works in a folder of this machine, its working
copy, and whatever is written there is copied to the URL while the run goes on. The lease of the URL, held
like that of a folder, lets one process at a time do so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import re
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from actors.errors import MaiaError, UsageError
from agents.records.lease import Lease, cancel, works_here
from agents.records.manifest import KEY as MANIFEST
from agents.records.run_files import MAX_BYTES, RecordError, split_key
from agents.records.store import Objects, Store, StoreError
from agents.records.work import KEY as PLAN

COPY_S = 5.0
"""Seconds from one copying to the next: what a machine that is lost for good may take with it."""
BEAT_S = 10.0
"""Seconds from one sign of life at the URL to the next; six without one, and another process may take over.
"""
_OWN = "mirror"
"""Folder of the URL that is not part of the run: who copies to it."""
_WORKING = "working"
"""Folder of a machine's cache where the working copies are."""
_DERIVED = "report"
"""Made from the records, and made again after a copy came back."""
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def working_copy(cache: Path, url: str) -> Path:
    """Return the folder for the run at a URL: the same one every time."""
    from agents.records.journal import slug

    return cache / _WORKING / slug(url)


def is_working_copy(cache: Path, folder: Path) -> bool:
    return folder.resolve().parent == (cache / _WORKING).resolve()


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """An object at a URL: its bytes, and when it was written (seconds since 1970; None: unknown)."""

    size: int
    written: float | None


class RemoteStore:
    """Objects by key below a URL. Credentials come from the environment, as its file system reads them."""

    def __init__(self, url: str, folder: str = "") -> None:
        """Of `folder` below the URL alone, if one is given.

        Raises:
            UsageError: If nothing that is installed knows such URLs.
        """
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if (written := urlsplit(url)).password is not None:
            raise UsageError(
                f"the URL of {written.hostname} holds a password, which would end up in logs and records.",
                "Leave it out, and give credentials in the environment.",
            )
        try:
            # Another process writes there too: nothing may be remembered of a folder.
            self.fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise UsageError(
                f"{url} needs a package that is not installed ({error}).", _install(url)
            ) from error
        except ValueError as error:
            raise UsageError(
                f"{url} cannot be used: {error}.", "Use a folder, or s3://BUCKET/PATH."
            ) from error
        self._has_links = isinstance(self.fs, LocalFileSystem)
        self.name = url.rstrip("/")
        self.root: str = f"{root.rstrip('/')}/{folder}".rstrip("/")

    def check(self) -> None:
        """Make sure that the place is there: a mistyped bucket is not made.

        Raises:
            UsageError: If it is not.
            StoreError: If the URL cannot be reached.
        """
        top = self.root.split("/", 1)[0] or "/"
        # Credentials may not allow to list a folder.
        with self._translate_errors(), contextlib.suppress(PermissionError):
            try:
                # Unlike `exists`, this fails for a service that does not answer.
                self.fs.ls(self.root, detail=False)
            except FileNotFoundError:
                if not self.fs.exists(top):
                    raise UsageError(
                        f"there is no {top!r} to put {self.name} in.", "Make it first, or correct the URL."
                    ) from None

    def put(self, key: str, data: bytes) -> bool:
        """Write `data` unless the key exists; return whether this call did. One of two at once wins where the
        URL's service can notify.

        Raises:
            StoreError: If it cannot be written.
        """
        with self._translate_errors():
            try:
                self.fs.makedirs(posixpath.dirname(self._path(key)), exist_ok=True)
                self.fs.pipe_file(self._path(key), data, mode="create")
            except Exception as error:
                # Each service answers "exists" with an error of its own.
                if isinstance(error, FileExistsError) or self.fs.exists(self._path(key)):
                    return False
                raise
        return True

    def replace(self, key: str, data: bytes) -> None:
        with self._translate_errors():
            self.fs.makedirs(posixpath.dirname(self._path(key)), exist_ok=True)
            self.fs.pipe_file(self._path(key), data)

    def get(self, key: str) -> bytes | None:
        """Return an object, None if there is none under that key.

        Raises:
            StoreError: If the URL fails, or the object is larger than a file of a run.
        """
        with self._translate_errors():
            try:
                if (self.fs.info(self._path(key))["size"] or 0) > MAX_BYTES:
                    raise _too_large(self.name, key)
                data: bytes = self.fs.cat_file(self._path(key))
            except FileNotFoundError:
                return None
        return data

    def has(self, key: str) -> bool:
        with self._translate_errors():
            return bool(self.fs.exists(self._path(key)))

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder, sorted; below all with ""."""
        yield from sorted(self.objects(prefix))

    def objects(self, prefix: str) -> dict[str, RemoteObject]:
        """Return size and time of each key below a folder; below all with "".

        Of a file system only regular files count, and none behind a link that leads elsewhere.
        """
        with self._translate_errors():
            try:
                listing = self.fs.find(self._path(prefix), detail=True)
            except FileNotFoundError:
                return {}
        return {
            path[len(self.root) :].strip("/"): RemoteObject(about["size"], _written(about))
            for path, about in listing.items()
            if about.get("type") == "file" and not about.get("islink") and self._stays(path)
        }

    def _stays(self, path: str) -> bool:
        return not self._has_links or Path(path).resolve().is_relative_to(Path(self.root).resolve())

    def remove(self, folder: str) -> None:
        """Delete all keys below a folder."""
        with self._translate_errors():
            self.fs.rm(self._path(folder), recursive=True)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Copy files to keys, several at a time."""
        with self._translate_errors():
            for folder in {posixpath.dirname(self._path(key)) for _, key in files}:
                self.fs.makedirs(folder, exist_ok=True)
            self.fs.put([str(path) for path, _ in files], [self._path(key) for _, key in files])

    def download(self, files: Sequence[tuple[str, Path]]) -> None:
        """Copy keys to files, several at a time; each file is whole or absent."""
        with self._translate_errors():
            drafts = [path.with_name(f".{os.urandom(16).hex()}.tmp") for _, path in files]
            for draft in drafts:
                draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.fs.get([self._path(key) for key, _ in files], [str(draft) for draft in drafts])
                for draft, (_, path) in zip(drafts, files, strict=True):
                    draft.replace(path)
            finally:
                for draft in drafts:
                    draft.unlink(missing_ok=True)

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn what any client library raises into an error that names the URL."""
        try:
            yield
        except MaiaError:
            raise
        except Exception as error:
            raise StoreError(
                f"{self.name} cannot be reached or written ({type(error).__name__}: {error}).",
                "Check the URL, the network and the credentials in the environment.",
            ) from error


def _too_large(name: str, key: str) -> StoreError:
    return StoreError(
        f"{name} holds {key!r} with more than {MAX_BYTES >> 20} MiB, the most that a file of a run has.",
        "Remove it.",
    )


def _written(about: Mapping[str, Any]) -> float | None:
    """Return when an object was written, whatever its service calls that."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = about.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _install(url: str) -> str:
    return "Install it: pip install 'maia[s3]'." if url.startswith("s3:") else "Install the package it names."


class WorkingCopy:
    """A folder and the URL it is copied to."""

    def __init__(self, remote: RemoteStore, folder: Path) -> None:
        self.remote, self.folder = remote, folder
        self._copied: dict[str, tuple[int, int]] = {}
        self._pushing = threading.Lock()
        """One at a time: a push whose caller was cancelled goes on in its thread, with what was there before.
        """

    def pull(self, *, images: bool = True) -> None:
        """Fetch what the URL has and the folder has not; tables and counts are fetched whatever is there.

        Files keep the time at which they were written: a run's rate is computed from it.

        Raises:
            StoreError: If the URL or the folder fails, or an object's name leads out of the folder.
        """
        wanted, same = [], []
        held = self.remote.objects("")
        for key in sorted(held):
            top, path = key.split("/", 1)[0], self.folder / key
            written_once = "/" in key and top != "leases"
            if top in (_OWN, _DERIVED) or (top == "blobs" and not images):
                continue
            try:  # an object's name is any text, chosen by the bucket's owner
                split_key(key)
            except RecordError as error:
                raise StoreError(f"{self.remote.name}: {error.message}", "Remove it.") from error
            if held[key].size > MAX_BYTES:
                if "/" not in key and not key.endswith(".json"):
                    continue  # a table of results, which is made from the records
                raise _too_large(self.remote.name, key)
            if not (written_once and path.exists()):
                wanted.append((key, path))
            elif path.stat().st_size == held[key].size:
                same.append((key, path))
        if wanted:
            self.remote.download(wanted)
        for key, path in wanted:
            if (written := held[key].written) is not None:
                os.utime(path, (written, written))
        self._copied |= {key: _state(path) for key, path in (*wanted, *same)}

    def push(self) -> int:
        """Copy what is new or changed, images before the records that name them; return how many files.

        Raises:
            StoreError: If the URL fails: what was not copied is copied the next time.
        """
        with self._pushing:
            return self._push()

    def _push(self) -> int:
        changed: dict[int, list[tuple[Path, str, tuple[int, int]]]] = {}
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):  # the manifest is looked at before the plan, which grows before it
                path = Path(folder) / name
                key = path.relative_to(self.folder).as_posix()
                with contextlib.suppress(FileNotFoundError):
                    state = _state(path)
                    if not _UNFINISHED.fullmatch(name) and self._copied.get(key) != state:
                        changed.setdefault(_rank(key), []).append((path, key, state))
        for rank in sorted(changed):
            self.remote.upload([(path, key) for path, key, _ in changed[rank]])
            self._copied |= {key: state for _, key, state in changed[rank]}
        return sum(map(len, changed.values()))


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _rank(key: str) -> int:
    """Return when a file is copied among others: half a copy must be a run that can be resumed."""
    if key.startswith("blobs/"):
        return 0
    if key.startswith("units/"):
        return 3 if key.endswith("/done.json") else 2 if "/rounds/" in key else 1
    if key in (PLAN, MANIFEST):
        # What says that units are planned must never be there without them: they would be taken for done.
        return 4 if key == PLAN else 6
    return 5 if "/" not in key or key.startswith("leases/") else 7


@asynccontextmanager
async def mirrored(
    remote: RemoteStore,
    folder: Path,
    *,
    notify: Callable[[str], None],
    stop: Callable[[], None],
    copy_s: float = COPY_S,
    beat_s: float = BEAT_S,
) -> AsyncIterator[None]:
    """Work in `folder` on the run at a URL: it is fetched first, and copied there while and after the work is
    done.

    `stop` is called once if the run is asked at the URL to stop, or is taken over.

    Raises:
        UsageError: If another process works on the URL.
        LeaseLostError: If another process has taken the run over.
        StoreError: If the URL fails at the beginning, or at the end: the folder then has what it has not.
    """
    await asyncio.to_thread(remote.check)
    copy = WorkingCopy(remote, folder)
    marks = RemoteStore(remote.name, _OWN)
    copied = False
    try:
        async with await Lease.take(marks, beat_s=beat_s, stale_s=6 * beat_s, notify=notify) as lease:
            if (aside := await asyncio.to_thread(_set_aside, marks, folder, lease.generation)) is not None:
                notify(
                    f"another process worked on {remote.name} since: what was here before is kept in {aside}"
                )
            notify(f"fetching {remote.name} into {folder}")
            await asyncio.to_thread(copy.pull)
            copying = asyncio.create_task(_keep(copy, lease, notify, stop, copy_s))
            try:
                yield
            finally:
                copying.cancel()
                await asyncio.wait([copying])
                await asyncio.to_thread(lease.check)
                await asyncio.to_thread(copy.push)
                copied = True
    finally:  # also of a command that was refused, or ends with a code of its own
        if copied and await asyncio.to_thread(_holds_run, remote):
            notify(f"all of it is at {remote.name}")
        elif copied:
            await asyncio.to_thread(remote.remove, _OWN)


def _set_aside(marks: Objects, folder: Path, generation: int) -> Path | None:
    """Move the folder away unless it was the last to be copied to the URL; return where to, None if it stays.

    A run that went on from the URL has other rounds than a copy that was left behind with some that had not
    been copied: mixed, they would be no one's run.
    """
    marks.put("id", uuid.uuid4().hex.encode())
    run = (marks.get("id") or b"").decode()
    held = folder.with_name(f"{folder.name}.held")
    last = held.read_text().split() if held.exists() else []
    kept_at = None
    if not held.exists() and folder.is_dir():
        # A reader's: all in it came from the URL. Out of the way first, for a reader may be fetching into it.
        gone = folder.with_name(f"{folder.name}.gone-{uuid.uuid4().hex[:8]}")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    elif last != [run, str(generation - 1)] and folder.is_dir() and any(folder.iterdir()):
        kept_at = folder.with_name(f"{folder.name}.aside-{uuid.uuid4().hex[:8]}")
        folder.rename(kept_at)
    held.parent.mkdir(parents=True, exist_ok=True)
    held.write_text(f"{run} {generation}")
    return kept_at


async def _keep(
    copy: WorkingCopy, lease: Lease, notify: Callable[[str], None], stop: Callable[[], None], copy_s: float
) -> None:
    failing = stopped = False
    while True:
        await asyncio.sleep(copy_s)
        try:
            await asyncio.to_thread(lease.check)
            await asyncio.to_thread(copy.push)
            failing = False
            if not stopped and await asyncio.to_thread(lease.cancelled):
                stopped = True
                if not await asyncio.to_thread(cancel, Store(copy.folder)):
                    stop()
        except StoreError as error:
            if not failing:
                notify(f"{error} The run goes on in {copy.folder} and is copied when that works again.")
            failing = True
        except MaiaError as error:  # taken over
            notify(str(error))
            stop()
            return


def _holds_run(remote: RemoteStore) -> bool:
    return any(not key.startswith(f"{_OWN}/") for key in remote.keys(""))


@asynccontextmanager
async def followed(
    url: str, folder: Path, *, images: bool = True, every_s: float = 10.0
) -> AsyncIterator[None]:
    """Bring a working copy up to date to read it, and keep it so meanwhile.

    Raises:
        UsageError: If there is no run at the URL.
        StoreError: If the URL fails at the beginning.
    """
    remote = RemoteStore(url)
    await asyncio.to_thread(remote.check)
    if not await asyncio.to_thread(_holds_run, remote):
        raise UsageError(f"there is no run at {url}.", "Name the --out of a run.")
    copy = WorkingCopy(remote, folder)

    def fetch() -> None:
        # Where a process of this machine works in the folder, the folder is the newer one.
        if not works_here(Store(folder)):
            copy.pull(images=images)

    async def keep() -> None:
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(fetch)

    await asyncio.to_thread(fetch)
    fetching = asyncio.create_task(keep())
    try:
        yield
    finally:
        fetching.cancel()
        await asyncio.wait([fetching])


def ask_to_stop(url: str) -> bool:
    """Ask the process that works on the run at a URL to stop; False if none does."""
    return cancel(RemoteStore(url, _OWN))
