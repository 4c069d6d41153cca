"""How data sets are named: by a path, or by what makes them."""

from __future__ import annotations

from pathlib import Path


def canonical(text: str) -> str:
    """Return a data set's name with its path, if it is one, made absolute."""
    return str(Path(text).expanduser().resolve()) if is_path(text) else text


def is_path(text: str) -> bool:
    """Return whether a data set is named by its path."""
    return text.partition(":")[0] not in ("hf", "scenes")
