"""Files that are whole or absent, whenever a process is killed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` at the end; an error leaves `path` as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    yield draft
    os.replace(draft, path)  # noqa: PTH105
