"""Tiny pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.actors.generation import tiny_pipelines


@pytest.fixture(scope="session")
def pipeline_folder(saved_model: Callable[[ModuleType, str], Path]) -> Callable[[str], Path]:
    """Return the folder of a saved tiny pipeline by the name of the function that saves it."""
    return lambda name: saved_model(tiny_pipelines, name)
