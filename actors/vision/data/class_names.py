"""Names of classes in the order of a network's output, from files and mappings as others write them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.errors import UsageError
from actors.vision.data.tables import separator

_PLACEHOLDER = re.compile(r"(?:[a-z]+[ _-]?)?(\d+)", re.IGNORECASE)
_TITLES = ("name", "class", "label", "class_name", "names", "classes")
_FORMS = (
    "one name a line (.txt), a list or an object of numbers and names (.json, .yaml), "
    "or columns with a number and a name (.csv, .tsv)"
)


def named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names, or () if all are placeholders such as LABEL_0, LABEL_1 of transformers, which name
    nothing.
    """
    numbers = [_PLACEHOLDER.fullmatch(name.strip()) for name in names]
    return (
        () if all(number and int(number[1]) in (at, at + 1) for at, number in enumerate(numbers)) else names
    )


def read(path: Path) -> tuple[str, ...]:
    """Return the names in a file, in the order of the output.

    Raises:
        UsageError: If it is missing, cannot be read, or numbers its names with gaps.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file of class names {str(path)!r}.", f"Give a file with {_FORMS}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        match path.suffix.lower():
            case ".json":
                content = json.loads(text)
            case ".yaml" | ".yml":
                import yaml

                content = yaml.safe_load(text)
            case ".csv" | ".tsv":
                content = _columns(text, separator(text, path.suffix.lower()))
            case _:
                content = [line.strip() for line in text.rstrip().splitlines()]
    except Exception as error:  # of four parsers, each with errors of its own
        raise UsageError(
            f"the class names in {path} cannot be read: {error}", f"Give a file with {_FORMS}."
        ) from error
    names = parse(content)
    if not names:
        raise UsageError(
            f"{path} gives no class names: each class from 0 on needs one name.",
            f"Give a file with {_FORMS}.",
        )
    return names


def parse(content: Any) -> tuple[str, ...]:
    """Return the names in a list, a mapping of numbers to names or of names to numbers; () if there are none
    in it.

    They may be nested in a larger mapping, as `id2label` (transformers) or `names` (YOLO).
    """
    if isinstance(content, Mapping):
        for key in ("id2label", "names", "classes", "class_names", "categories"):
            if isinstance(content.get(key), Mapping | list):
                return parse(content[key])
        pairs = [_pair(key, value) for key, value in content.items()]
    elif isinstance(content, list | tuple):
        pairs = [
            _pair(item.get("id", at), item.get("name")) if isinstance(item, Mapping) else _pair(at, item)
            for at, item in enumerate(content)
        ]
    else:
        return ()
    by_number = dict(pair for pair in pairs if pair is not None)
    whole = len(by_number) == len(pairs) and by_number.keys() == set(range(len(pairs)))
    return tuple(by_number[index] for index in range(len(pairs))) if whole else ()


def _pair(key: Any, value: Any) -> tuple[int, str] | None:
    """Return a number and its name from a mapping's item, either way around; None if it is neither."""
    if isinstance(value, list | tuple) and value:
        value = value[-1]  # ImageNet's file gives a synset's number and then its name
    if isinstance(value, int) and isinstance(key, str):
        key, value = value, key
    if not isinstance(value, str) or not value.strip() or not str(key).strip().isdecimal():
        return None
    return int(key), value.strip()


def _columns(text: str, delimiter: str) -> list[str] | dict[str, str]:
    """Return the names in a table: of one column, or by the numbers of another. A first line of titles is
    left out.
    """
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if row
    ]
    width = min(map(len, rows))
    numbered = [column for column in range(width) if all(row[column].isdecimal() for row in rows[1:] or rows)]
    titles = [title.lower() for title in rows[0]]
    words = [column for column in range(width) if column not in numbered]
    if not words:
        raise ValueError("no column holds names")
    titled = [column for column in words if titles[column] in _TITLES]
    column = (titled or words)[0]
    if not numbered:
        return [row[column] for row in rows[bool(titled) :]]
    number = numbered[0]
    return {row[number]: row[column] for row in rows[not rows[0][number].isdecimal() :]}
