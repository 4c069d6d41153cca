"""Pictures in files: all below a folder, members of tar files too, or those that a list names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from actors.errors import UsageError
from actors.images import (
    DECODING,
    LOADED_SIDE,
    Image,
    ImageDecodeError,
    Preview,
    Provenance,
    decode,
    decode_pixels,
    heif_is_read,
    is_heif,
    looks_like_image,
    preview,
)
from actors.vision.data import tables
from actors.vision.data.labels import ColumnSettings, Labels, from_files
from actors.vision.data.tables import Table, file_column, names_images, no_column, read_table

_FINGERPRINTED_IMAGES = 32
"""Images whose content is part of a data set's fingerprint."""
_NAMES = "jpg jpeg jpe jfif png webp bmp dib gif tif tiff ppm pgm pbm pnm avif jp2 mpo"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split(" "))
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
LISTS = frozenset({".txt", *tables.SUFFIXES})
_HEAD = 32
_QUOTES = "\"' \t"
_FIX = (
    "Give a folder of images (with subfolders or without), a .tar, a list of paths (.txt, .csv), or an array "
    "uint8 (N, H, W, 3) (.npy)."
)


class Entry(NamedTuple):
    """One encoded picture: a whole file, or `size` bytes of a tar file from `offset` on."""

    path: str
    """Relative to the data set's folder; of a tar's member, the tar's path and the member's name."""
    size: int
    file: str
    offset: int | None


class FolderDataset:
    """All images below a folder, sorted by path, those in tar files too; or those in one tar file.

    The fingerprint covers names, sizes and the content of a few images: a copy elsewhere is the same data
    set. `skipped_files` counts the other files by reason.
    """

    def __init__(self, folder: Path | str) -> None:
        """List the folder.

        Raises:
            UsageError: If it does not exist, cannot be read, or holds no image.
        """
        root = Path(folder).expanduser().resolve()
        if not os.path.exists(root):  # noqa: PTH110 (Path's own raises for a name that is too long)
            raise UsageError(f"the data set folder {str(root)[:300]!r} does not exist.", _FIX)
        skipped: Counter[str] = Counter()
        name = root.name
        if root.is_dir():
            entries = sorted(_below(root, skipped))
        elif root.suffix.lower() == ".tar":
            root = root.parent
            entries = sorted(_in_tar(root / name, name, skipped))
        else:
            why = _skip_reason(root.suffix.lower(), root)
            raise UsageError(f"{str(root)!r} is not a folder{f' but {why}' if why else ''}.", _FIX)
        if not entries:
            raise UsageError(
                f"the data set folder {str(root)!r} holds no image ({', '.join(sorted(SUFFIXES))})"
                f"{'; skipped: ' + format_counts(skipped) if skipped else ''}.",
                _FIX,
            )
        self._hold(name, root, entries, skipped)

    @classmethod
    def of_list(cls, path: Path | str, column: str = "") -> FolderDataset:
        """Return the images that a file names: a path a line (.txt), or a column of paths (.csv, .tsv,
        .jsonl).

        Paths are relative to the file's folder. `column` is the one that names files; "" takes one of a usual
        name.

        Raises:
            UsageError: If it cannot be read, has no such column, or names no file that exists.
        """
        listing = Path(path).expanduser().resolve()
        try:
            table = _listed(listing)
        except (OSError, ValueError) as error:
            raise UsageError(f"the list of images {str(listing)!r} cannot be read: {error}") from error
        if (path_column := file_column(table.columns, column)) is None:
            if column:
                raise no_column(str(listing), column, table.columns, "--image-column")
            raise UsageError(
                f"{str(listing)!r} names no images in a column of a usual name: its columns are "
                f"{', '.join(table.columns) or 'none'}.",
                "Call the column of paths `path`, or name it: columns.image in a profile, --image-column of "
                "an audit.",
            )
        names = list(dict.fromkeys(row[path_column] for row in table.rows if row.get(path_column)))
        skipped: Counter[str] = Counter()
        entries = []
        for name in names:
            # As Windows writes paths, too.
            for path in (name, name.replace("\\", "/")):
                if _is_file(listing.parent / path):
                    entries.append(Entry(path, (listing.parent / path).stat().st_size, path, None))
                    break
            else:
                skipped["addresses, which are not fetched" if "://" in name else "named, but not there"] += 1
        if not entries:
            raise UsageError(
                f"{str(listing)!r} names no image that exists"
                f"{f'; the first of {len(names)}: {names[0][:200]!r}' if names else ''}.",
                "Addresses are not fetched: download the images, and write their paths."
                if names and "://" in names[0]
                else "Write one path a line, relative to the list's own folder, or a column named path.",
            )
        self = cls.__new__(cls)
        self._hold(listing.stem, listing.parent, entries, skipped)
        self._table = table
        return self

    def _hold(self, name: str, root: Path, entries: list[Entry], skipped: Counter[str]) -> None:
        self.name, self._root, self._entries, self.skipped_files = name, root, entries, skipped
        self._table: Table | None = None
        self.fingerprint = _fingerprint(root, entries)

    def __len__(self) -> int:
        return len(self._entries)

    def passed_over(self, columns: ColumnSettings) -> Counter[str]:
        """Return `skipped_files` without the tables that `labels` reads: those that name images of this."""
        if self._table is not None or not any(self.skipped_files[suffix] for suffix in tables.SUFFIXES):
            return self.skipped_files
        images = [entry.path for entry in self._entries]
        printable = [_printable(image) for image in images]
        read = Counter(
            Path(table.name).suffix.lower()
            for table in _tables(self._root, images)
            if not table.name.startswith(".") and names_images(printable, table, columns.image)
        )
        return self.skipped_files - read

    def load(self, index: int) -> Image:
        with _named(self._root, self._entries[index]) as entry:
            return decode(_read(self._root, entry), LOADED_SIDE)

    def pixels(self, index: int) -> np.ndarray:
        with _named(self._root, self._entries[index]) as entry:
            return decode_pixels(_read(self._root, entry), LOADED_SIDE)

    def preview(self, index: int) -> Preview:
        with _named(self._root, self._entries[index]) as entry:
            return preview(_read(self._root, entry))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", maker=self.name, recipe={"path": _printable(self._entries[index].path)})

    def labels(self, columns: ColumnSettings) -> Labels:
        """Return the class and the attributes of each image: of the list, or of tables and class folders.

        Raises:
            UsageError: If there are none, or a column that is asked for is not there.
        """
        images = [entry.path for entry in self._entries]
        tables = _tables(self._root, images) if self._table is None else [self._table]
        return from_files(self.name, [_printable(image) for image in images], tables, columns)


def format_counts(counts: Counter[str]) -> str:
    """Return counted reasons as text, the most frequent first."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


@contextlib.contextmanager
def _named(root: Path, entry: Entry) -> Iterator[Entry]:
    """Raise errors in reading `entry` as ImageDecodeError with its path."""
    try:
        yield entry
    except (OSError, ImageDecodeError) as error:
        # The system's own message has the path again, in characters that may not be printable.
        why = error.strerror if isinstance(error, OSError) else error
        raise ImageDecodeError(f"{_printable(str(root / entry.path))}: {why}") from error


def _read(root: Path, entry: Entry) -> bytes:
    if entry.offset is None:
        return (root / entry.file).read_bytes()
    with (root / entry.file).open("rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def _is_file(path: Path) -> bool:
    """Return whether there is such a file; False too for what cannot be a file's name."""
    return os.path.isfile(path)  # noqa: PTH113 (Path's own raises for a name that is too long)


def _printable(path: str) -> str:
    """Return a path as text that can be stored: names on disk are bytes, and not all are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _below(root: Path, skipped: Counter[str]) -> Iterator[Entry]:
    """Yield the pictures below a folder in any order, and count the other files."""

    def fail(error: OSError) -> None:
        if Path(error.filename) == root:
            raise UsageError(f"the data set folder {str(root)!r} cannot be read: {error}", _FIX) from error
        skipped["folders that may not be read"] += 1  # such as the lost+found of a disk

    walked: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(root, onerror=fail, followlinks=True):
        here = Path(parent).stat()
        if (here.st_dev, here.st_ino) in walked:  # a link back up, or a second way to the same folder
            folders.clear()
            continue
        walked.add((here.st_dev, here.st_ino))
        if is_run(folders, files):
            folders.clear()
            skipped["folders of earlier runs"] += 1
            continue
        # In this order whatever the disk's is: which of two ways to a folder counts must not change.
        folders.sort()
        if hidden := [folder for folder in folders if folder.startswith(".")]:
            skipped["hidden folders"] += len(hidden)
            folders[:] = [folder for folder in folders if folder not in hidden]
        for file in files:
            if not file.startswith("."):
                yield from _in_file(root, Path(parent) / file, skipped)


def is_run(folders: list[str], files: list[str]) -> bool:
    """Return whether a folder with these names in it is the folder of a run, whose images are its own."""
    return "manifest.json" in files and bool({"units", "blobs", "leases", "report"}.intersection(folders))


def _in_file(root: Path, path: Path, skipped: Counter[str]) -> Iterator[Entry]:
    """Yield the picture that a file is, or the pictures in it, or count why there is none."""
    try:
        status = path.stat()
    except OSError:
        skipped["links to nowhere"] += 1
        return
    if not stat.S_ISREG(status.st_mode):
        return  # a pipe or a device would be waited for without end
    name, suffix = path.relative_to(root).as_posix(), path.suffix.lower()
    if suffix == ".tar":
        yield from _in_tar(path, name, skipped)
    elif (why := _skip_reason(suffix, path)) is None:
        yield Entry(name, status.st_size, name, None)
    else:
        skipped[why] += 1


def _in_tar(path: Path, name: str, skipped: Counter[str]) -> Iterator[Entry]:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                why = _skip_reason(Path(member.name).suffix.lower(), None)
                if why is None:
                    yield Entry(f"{name}/{member.name}", member.size, name, member.offset_data)
                else:
                    skipped[why] += 1
    except (OSError, tarfile.TarError) as error:
        skipped[f".tar that cannot be read ({_printable(name)}: {error})"] += 1


def _skip_reason(suffix: str, path: Path | None) -> str | None:
    """Return why a file is no picture, None if it is one; a file without a usual suffix is opened."""
    if suffix in SUFFIXES:
        return None
    if suffix in HEIF_SUFFIXES:
        return None if heif_is_read() else f'{suffix} (pip install "maia[heif]" reads them)'
    if suffix in (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        return f"{suffix} (unpack them)"
    if suffix in (".parquet", ".arrow"):
        return f"{suffix} (name their folder as hf:FOLDER)"
    if path is None or suffix[1:].isalpha():
        return suffix or "without a suffix"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None  # reported when it is loaded
    if is_heif(head) and not heif_is_read():
        return 'HEIF without a suffix (pip install "maia[heif]" reads them)'
    if looks_like_image(head):
        return None
    return suffix if 2 < len(suffix) <= 5 and not suffix[1:].isdecimal() else "without an image's suffix"


def _listed(listing: Path) -> Table:
    """Return a list of images as a table; a line of a .txt may have a class after the path, behind a space, a
    tab, a comma or a semicolon, and quotes around it.

    Raises:
        OSError, ValueError: If it cannot be read.
    """
    if listing.suffix.lower() != ".txt":
        return read_table(listing)
    rows = []
    for line in listing.read_text("utf-8-sig").splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        there = _is_file(listing.parent / name)
        before, label = [*re.split(r"[ \t,;](?=[^ \t,;]+$)", name, maxsplit=1), ""][:2]
        if not there and _is_file(listing.parent / before.strip(_QUOTES)):
            rows.append({"path": before.strip(_QUOTES), "label": label.strip(_QUOTES)})
        else:
            rows.append({"path": name if there else name.strip(_QUOTES)})
    return Table(listing.name, tuple(rows))


def _tables(root: Path, images: Sequence[str]) -> list[Table]:
    """Return the tables in the data set's folder and in its images' folders, the outermost first.

    A file that is no table, such as notes in .csv, is skipped.
    """
    folders = {parent.as_posix() for image in images for parent in PurePosixPath(image).parents}
    listed_tables = []
    for folder in sorted(folders, key=lambda path: (path.count("/"), path)):
        here = root / folder
        for path in sorted(here.iterdir()) if here.is_dir() else ():
            if path.suffix.lower() in tables.SUFFIXES and path.is_file():
                with contextlib.suppress(OSError, ValueError):
                    listed_tables.append(read_table(path, "" if folder == "." else folder))
    return listed_tables


def _fingerprint(root: Path, entries: list[Entry]) -> str:
    named = json.dumps([DECODING, [(entry.path, entry.size) for entry in entries]])
    digest = hashlib.blake2b(named.encode(), digest_size=12)
    for place in evenly_spaced(len(entries), _FINGERPRINTED_IMAGES):
        try:
            digest.update(hashlib.blake2b(_read(root, entries[place])).digest())
        except OSError:
            digest.update(b"unreadable")  # reported when it is loaded
    return digest.hexdigest()


def evenly_spaced(n: int, at_most: int) -> list[int]:
    """Return the indices of at most `at_most` of `n` images, at even distances."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, at_most))})
