"""Layers of a network that was loaded before are listed without loading it."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.vision.networks.layer_cache import KnownNetwork, save_known
from actors.vision.readout.base import LayerInfo
from actors.vision.settings import VisionSettings
from experiments.setup.selection import Selection
from experiments.studies.layers import list_layers


async def test_the_layers_of_a_known_network_are_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIA_CACHE", str(tmp_path))
    layer = LayerInfo("layer1", "map", 64, (56, 56), "Sequential")
    save_known(
        tmp_path, "resnet18", KnownNetwork("resnet18", {"layer1": layer}, {}, {}, []), VisionSettings()
    )
    said: list[str] = []
    assert await list_layers(Selection(), "resnet18", said.append) == [layer]
    assert said == [], "nothing was started"
