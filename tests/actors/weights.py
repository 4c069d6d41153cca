"""Weights on disk that no machine can hold."""

from __future__ import annotations

import shutil
from pathlib import Path


def oversized(model: Path, folder: Path) -> Path:
    """Copy a saved model into `folder`, its weights grown to a TiB each that takes no room on the disk."""
    shutil.copytree(model, folder)
    for path in folder.rglob("*.safetensors"):
        with path.open("r+b") as file:
            file.truncate(0)
            file.truncate(1 << 40)
    return folder
