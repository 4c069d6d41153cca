"""The page on one's own network shows code that works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from actors.images import Image
from actors.serving.pool import LocalPool
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.readout import units
from actors.vision.readout.base import Unit
from actors.vision.readout.units import parse_unit
from actors.vision.settings import VisionSettings
from tests.actors.vision.test_backend import ONE_THREAD

PAGE = Path(__file__).parents[3] / "docs" / "own-network.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


async def test_the_factory_on_the_page_is_short_and_can_be_measured(tmp_path: Path) -> None:
    lines = [line for line in blocks()[0].splitlines() if line.strip()]
    assert len(lines) < 20
    (tmp_path / "my_network.py").write_text(blocks()[0])
    backend = VisionBackend(
        f"python:{tmp_path / 'my_network.py'}:build", VisionSettings(placement=ONE_THREAD)
    )
    async with LocalPool(backend) as pool:
        client = await PoolVisionClient.connect(pool, tmp_path)
        assert client.name.endswith("my_network.py:build")
        image = Image.from_pixels(np.full((80, 70, 3), 90, np.uint8))
        (channel,) = await client.measure(Unit("1", 7), [image])
        assert channel.map.shape == (30, 30)
        dog = parse_unit("output", "dog", await client.class_names())
        (logit,) = await client.measure(dog, [image])
        assert dog.index == 1
        assert logit.map.shape == (1, 1)


async def test_the_further_kind_on_the_page_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units._READER_FACTORIES, "negated", lambda *_: None)  # unregistered at the end
    exec(blocks()[1], {})
    assert parse_unit("1", "negated:x:2").kind == "negated"
