"""Writes the records of a run into docs/formats.md: `python -m experiments.reference.formats`.

A field's meaning is the string under it in its class (`agents.records.record_types`).
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from agents.records import record_types
from agents.records.record_types import Record
from experiments.reference.configuration import meanings

TARGET = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
START = "<!-- Made from the types: python -m experiments.reference.formats -->"
END = "<!-- End of what is made from the types -->"
_NAMES = {str: "text", bool: "true or false", int: "whole number", float: "number", type(None): "null"}


def reference() -> str:
    """Return a section for each type of record, in the order of `agents.records.record_types`; those of
    other modules follow the first that has one in it.
    """
    kinds: dict[type[Record], None] = {}
    for kind in vars(record_types).values():
        if isinstance(kind, type) and issubclass(kind, Record) and kind.__module__ == record_types.__name__:
            kinds |= dict.fromkeys([kind, *_from_elsewhere(kind)])
    return "\n".join([START, "", *map(_section, kinds), END])


def _from_elsewhere(kind: type[Record]) -> Iterator[type[Record]]:
    """Yield the types of other modules that a record has in its fields, and what these have in theirs."""
    for field in kind.model_fields.values():
        for inner in _records_in(field.annotation):
            if inner.__module__ != record_types.__name__:
                yield inner
                yield from _from_elsewhere(inner)


def _records_in(annotation: Any) -> Iterator[type[Record]]:
    if isinstance(annotation, type) and issubclass(annotation, Record):
        yield annotation
    for inner in get_args(annotation):
        yield from _records_in(inner)


def page(text: str) -> str:
    """Return the page with its section of records up to date."""
    head, _, rest = text.partition(START)
    return head + reference() + rest.partition(END)[2]


def _section(kind: type[Record]) -> str:
    summary = " ".join((kind.__doc__ or "").split())
    texts = meanings(kind)
    rows = [
        f"| `{field.alias or name}` | {_type_name(field.annotation)} | {texts.get(name, '')} |"
        for name, field in kind.model_fields.items()
    ]
    return "\n".join(
        [f"### {kind.__name__}", "", summary, "", "| field | type | meaning |", "|---|---|---|", *rows, ""]
    )


def _type_name(annotation: Any) -> str:
    """Return a type in words; a record is named."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(each) for each in inner)
    if origin is list:
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return "object" if inner[1] is Any else f"object of {_type_name(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _NAMES.get(annotation, "any value")


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
