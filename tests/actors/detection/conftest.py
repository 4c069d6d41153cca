"""Tiny detectors, built and saved once for the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.actors.detection import tiny_detectors


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return the folder of a saved tiny model by the name of the function that saves it."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> str:
        if name not in folders:
            from actors.runtime import import_vision_libraries

            import_vision_libraries()
            save = getattr(tiny_detectors, f"save_{name}")
            folders[name] = save(tmp_path_factory.mktemp("detectors") / name)
        return str(folders[name])

    return folder


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Run tiny models on one thread: more would only wait for each other, and spin while other tests run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
