"""Tiny networks gain nothing from several threads, and lose much where other processes use the cores."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread(one_torch_thread: None) -> None:
    """Run each module's networks on one thread."""
