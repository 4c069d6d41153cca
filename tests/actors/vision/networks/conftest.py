"""No test of networks reaches the hub, on machines that could."""

from __future__ import annotations

import pytest

from tests.fake_hub import set_constants


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the hub's client offline."""
    set_constants(monkeypatch, HF_HUB_OFFLINE=True)
