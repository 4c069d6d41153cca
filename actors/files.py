"""Files that are written whole or not at all, whatever happens to the process."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without an error."""
    with _draft(path) as draft:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)


def write_if_absent(path: Path, data: bytes) -> None:
    """Write `data` to `path`; a file that exists already stays."""
    with _draft(path) as draft:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yield the path of a new hidden file next to `path`, which is removed at the end."""
    draft = path.with_name(f".{uuid.uuid4().hex}")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)
