"""Tiny detectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.actors.detection import tiny_detectors


@pytest.fixture(scope="session")
def detector_folder(saved_model: Callable[[ModuleType, str], Path]) -> Callable[[str], str]:
    """Return the folder of a saved tiny model by the name of the function that saves it."""
    return lambda name: str(saved_model(tiny_detectors, name))
