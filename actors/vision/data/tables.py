"""Tables of image files (.csv, .tsv, .jsonl): one row per image, with a column that names its file."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from actors.errors import UsageError

_T = TypeVar("_T")

SUFFIXES = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = (
    "file_name", "filename", "file", "path", "filepath", "file_path", "image", "image_path", "img_filename",
    "img_path", "image_file", "image_name", "image_id", "img",
)  # fmt: skip
"""Names of columns that are taken to hold files, the surest first."""


@dataclass(frozen=True)
class Table:
    """Rows of text by column. `place` is the folder that paths in it are relative to, "" for the data set's
    own.
    """

    name: str
    rows: tuple[Mapping[str, str], ...]
    place: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for row in self.rows for column in row))


def read_table(path: Path, place: str = "") -> Table:
    """Return what a file of rows holds; numbers and truth values of .jsonl as their text, nested values left
    out.

    Raises:
        ValueError: If it is no table.
    """
    data = path.read_bytes()
    text = data.decode(
        "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    )
    try:
        rows = _objects(text) if path.suffix.lower() == ".jsonl" else _lines(text, path.suffix.lower())
    except (csv.Error, RecursionError) as error:
        raise ValueError(str(error)) from error
    return Table(path.name, tuple(row for row in rows if row), place)


def _objects(text: str) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = []
    for line in text.split("\n"):
        row = json.loads(line) if line.strip() else {}
        if not isinstance(row, dict):
            raise ValueError("a line of it holds no object")
        rows.append(
            {
                _storable(key): _storable(str(value))
                for key, value in row.items()
                if isinstance(value, str | int | float)
            }
        )
    return rows


def _lines(text: str, suffix: str) -> list[Mapping[str, str]]:
    # Only a line's end ends a line: other separators, and line ends within quotes, may be part of a field.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(text, suffix))
    return [
        {key.strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        for row in reader
    ]


def separator(text: str, suffix: str) -> str:
    """Return what separates columns: a tab in .tsv, else what is most frequent in the first line."""
    first = text.partition("\n")[0]
    return "\t" if suffix == ".tsv" else max(",;\t|", key=first.count)


def _storable(text: str) -> str:
    """Return text that can be written down: JSON can name halves of characters, which UTF-8 has not."""
    return text.encode("utf-8", "backslashreplace").decode()


def file_column(columns: Sequence[str], asked: str = "") -> str | None:
    """Return the column that names files: the one asked for, else the first of a usual name, None if there is
    none.
    """
    if asked:
        return asked if asked in columns else None
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in FILE_COLUMNS if name in by_name), None)


def matched(images: Sequence[str], table: Table, column: str) -> list[Mapping[str, str] | None]:
    """Return each image's row: by its path, else by its name, else by that without its suffix, where one
    alone has it.

    `images` are paths relative to the data set's folder.
    """
    matches: list[Mapping[str, str] | None] = [None] * len(images)
    rows = [(_joined(table.place, row.get(column, "")), row) for row in table.rows]
    below = f"{table.place}/" if table.place else ""
    for key in (_path, _name, _stem):
        by_key = _unique((key(path), row) for path, row in rows)
        for text, index in _unique((key(image), index) for index, image in enumerate(images)).items():
            if matches[index] is None and images[index].startswith(below):
                matches[index] = by_key.get(text)
    return matches


def names_images(images: Sequence[str], table: Table, asked: str = "") -> bool:
    """Return whether rows of a table belong to any of the images; `asked` is the column that names files."""
    column = file_column(table.columns, asked)
    return column is not None and any(matched(images, table, column))


def _unique(pairs: Iterable[tuple[str, _T]]) -> dict[str, _T]:
    """Return the values of the keys that occur once."""
    listed = list(pairs)
    times = Counter(key for key, _ in listed)
    return {key: value for key, value in listed if key and times[key] == 1}


def _joined(place: str, path: str) -> str:
    return f"{place}/{path}" if place and path else path


def _path(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix() if path else ""


def _name(path: str) -> str:
    return PurePosixPath(_path(path)).name


def _stem(path: str) -> str:
    return PurePosixPath(_path(path)).stem


def no_column(what: str, column: str, columns: Iterable[str], option: str) -> UsageError:
    """Return the error for a column that is not there; it names those that are."""
    there = ", ".join(columns)
    return UsageError(
        f"{what} has no column {column!r}.",
        f"It has {there}: name one with {option}." if there else "It has no columns.",
    )
