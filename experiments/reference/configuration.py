"""Writes docs/configuration.md from the settings themselves: `python -m experiments.reference.configuration`.

A field's meaning is the string under it in the class; a default lives on its field. So neither is said twice.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from actors.settings import Settings
from experiments.setup.config import Configuration, Profile

TARGET = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_INTRO = """\
# Configuration

`ray_config.yaml` is read once.
The file is the one of `--config`, of the environment variable MAIA_CONFIG, the one in the current folder, or
the program's own, in this order.
An unknown key or a bad value is an error that names the key and the file.

A profile may take another one with `extends: NAME` and change what it names.
Mappings are merged key by key, and a mapping that names another `backend` replaces the one below it.
Keys of endpoints are never written here: `api_key_env` names the environment variable that holds one.

This page is made from the settings: `python -m experiments.reference.configuration`.
"""


def reference() -> str:
    """Return the page."""
    parts = [_INTRO]
    seen: set[type[Settings]] = set()
    queue: list[tuple[str, type[Settings]]] = [("the file", Configuration), ("profiles.NAME", Profile)]
    while queue:
        path, settings = queue.pop(0)
        if settings in seen:
            continue
        seen.add(settings)
        parts.append(_section(path, settings))
        inner = "" if settings is Configuration else f"{path}."
        for name, field in settings.model_fields.items():
            for part in _parts(field.annotation):
                if settings is not Configuration:
                    queue.append((f"{inner}{name}".removeprefix("profiles.NAME."), part))
    return "\n".join(parts)


def _section(path: str, settings: type[Settings]) -> str:
    text = " ".join((settings.__doc__ or "").split())
    backend = settings.model_fields.get("backend")
    title = f"`{path}`" + (f", backend `{backend.default}`" if backend is not None else "")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    texts = meanings(settings)
    for name, field in settings.model_fields.items():
        if name in ("backend", "path"):
            continue
        if field.default is not PydanticUndefined:
            default = _shown(field.default)
        else:
            default = "required" if field.is_required() else "`{}`"
        meaning = texts.get(name, "") or ("see below" if _parts(field.annotation) else "")
        rows.append(f"| `{name}` | {default} | {meaning.replace('|', chr(92) + '|')} |")
    return f"## {title}\n\n{text}\n\n" + "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Settings):
        return "see below"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _parts(annotation: Any) -> list[type[Settings]]:
    """Return the settings classes inside an annotation."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for argument in get_args(annotation) for part in _parts(argument)]
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return []


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the string under each field, of this class and those it is made from."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base.__module__.startswith("pydantic"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for field, below in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                texts[field.target.id] = " ".join(below.value.value.split())
    return texts


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
