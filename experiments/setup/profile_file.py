"""Writes profiles into a configuration file of one's own, and keeps its comments."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.errors import ConfigError, UsageError


def update_profile(path: Path, name: str, changes: Mapping[str, Any]) -> Path:
    """Merge `changes` into profile `name` of the file, and return the path of what was written.

    The built-in file stays as it is: a profile of it is changed in ./maia.yaml, by one of its name that
    extends it.

    Raises:
        ConfigError: If the result would not be a valid configuration; nothing is changed then.
    """
    from experiments.setup.config import BUILT_IN_FILE, FILE_NAME, load

    target = Path.cwd() / FILE_NAME if path.resolve() == BUILT_IN_FILE else path
    content = _round_trip().load(target.read_text(encoding="utf-8")) if target.exists() else {}
    content = content or {}
    if content.get("profiles") is None:
        content["profiles"] = {}
    profiles = content["profiles"]
    if profiles.get(name) is None:
        profiles[name] = {"extends": name} if name in load(BUILT_IN_FILE).profiles else {}
    _merge(profiles[name], changes)
    _write(target, content)
    return target


def new_file(
    path: Path, name: str, profile: Mapping[str, Any], header: str, *, replace: bool = False
) -> None:
    """Write a configuration file with one profile, the default one. `header` is a comment.

    Raises:
        UsageError: If there is such a file, and it is not to be replaced.
    """
    if not replace:
        check_free(path)
    content = {"default_profile": name, "profiles": {name: dict(profile)}}
    _write(path, content, header)


def check_free(path: Path) -> None:
    """Make sure that a new file may be written there.

    Raises:
        UsageError: If there is one.
    """
    if path.exists():
        raise UsageError(
            f"{path} exists already.",
            "Give the new file another name with --out, or replace it with --force.",
        )


def _merge(into: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), Mapping):
            _merge(into[key], value)
        else:
            into[key] = value


def _write(path: Path, content: Any, header: str = "") -> None:
    from experiments.setup.config import load

    buffer = io.StringIO()
    _round_trip().dump(content, buffer)
    # Checked beside its place: what is there stays until the new content is known to be right.
    place = path.resolve()  # a link stays one
    draft = place.with_name(f".{place.name}.draft")
    draft.write_text(header + buffer.getvalue(), encoding="utf-8")
    try:
        load(draft)
        if place.exists():
            shutil.copymode(place, draft)
        draft.replace(place)
    except ConfigError as error:
        raise ConfigError(error.message.replace(str(draft), str(place)), error.fix) from error
    finally:
        draft.unlink(missing_ok=True)


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    writer = YAML()
    writer.width = 110
    writer.indent(mapping=2, sequence=4, offset=2)
    return writer
