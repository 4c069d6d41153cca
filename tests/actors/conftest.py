"""Tiny models, saved once for the whole run, and what tests with torch share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ModuleType, str], Path]:
    """Return the folder of a tiny model by the function of a module that saves it, `save_NAME`."""
    folders: dict[tuple[str, str], Path] = {}

    def folder(module: ModuleType, name: str) -> Path:
        key = module.__name__, name
        if key not in folders:
            from actors.vision_libraries import import_torchvision

            import_torchvision()
            folders[key] = getattr(module, f"save_{name}")(tmp_path_factory.mktemp("models") / name)
        return folders[key]

    return folder


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Run tiny models on one thread: more would only wait for each other, and spin while other tests run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
