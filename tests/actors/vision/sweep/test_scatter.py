"""What images do to a unit is measured once for a layer, of images that agents may see, and within bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from actors.errors import BackendError
from actors.images import Image
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.requests import Ask
from actors.vision.readout.units import Readout
from actors.vision.sweep import scatter
from actors.vision.sweep.scatter import ScatterTable, comparing_layer
from tests.actors.vision.sweep.test_accumulators import Numbered

LAYERS = [
    LayerInfo("early", "map", 4, (2, 2), "Conv2d"),
    LayerInfo("late", "vector", 3, (), "Linear"),
    LayerInfo("huge", "vector", scatter.WIDEST + 1, (), "Linear"),
    LayerInfo("classifier", "vector", 2, (), "Linear"),
    LayerInfo("output", "vector", 2, (), "Linear", "softmax"),
]
WIDTH = {layer.name: layer.n_units for layer in LAYERS}
EXPLORED = np.arange(0, 60, 2)


class BrightnessNetwork:
    """Unit u of a layer answers with the mean pixel plus u; fails on images whose first pixel is above
    `limit`.
    """

    def __init__(self, limit: int = 255) -> None:
        self.shown = 0
        self._limit = limit

    async def show(self, image: Image, asks: tuple[Ask, ...]) -> Sequence[np.ndarray] | BackendError:
        self.shown += 1
        if image.pixels[0, 0, 0] > self._limit:
            return BackendError("too bright.")
        value = float(image.pixels.mean())
        rows = [
            np.arange(WIDTH[ask.readout.layer]) if ask.indices is None else np.array(ask.indices)
            for ask in asks
        ]
        return [(row + value).astype(np.float32) for row in rows]


async def test_a_pass_serves_all_units_of_a_layer_and_shows_no_reserved_image() -> None:
    network, dataset = BrightnessNetwork(), Numbered(60, corrupt=frozenset([4]))
    table = ScatterTable(network.show, LAYERS)
    first = await table.of(Readout("early"), 1, 4, dataset, EXPLORED)
    assert first.indices.tolist() == [index for index in EXPLORED if index != 4]
    means = [dataset.load(index).pixels.mean() for index in first.indices]
    assert np.allclose(first.activations, np.array(means) + 1)
    assert first.features is not None
    assert first.features.shape == (29, 3)
    second = await table.of(Readout("early"), 3, 4, dataset, EXPLORED)
    assert np.allclose(second.activations, first.activations + 2)
    assert network.shown == 29


async def test_images_on_which_the_network_fails_are_omitted() -> None:
    network, dataset = BrightnessNetwork(limit=100), Numbered(60)
    found = await ScatterTable(network.show, LAYERS).of(Readout("early"), 0, 4, dataset, EXPLORED)
    assert found.indices.tolist() == [i for i in EXPLORED if dataset.load(i).pixels[0, 0, 0] <= 100]
    with pytest.raises(BackendError, match="none of 30 images"):
        await ScatterTable(BrightnessNetwork(limit=-1).show, LAYERS).of(
            Readout("early"), 0, 4, dataset, EXPLORED
        )


async def test_a_very_wide_readout_keeps_only_the_requested_unit() -> None:
    network = BrightnessNetwork()
    table = ScatterTable(network.show, LAYERS)
    dataset = Numbered(60)
    for unit, shown in ((7, 30), (7, 30), (8, 60)):
        made = await table.of(Readout("huge"), unit, scatter.WIDEST + 1, dataset, EXPLORED)
        assert len(made.activations) == 30
        assert network.shown == shown


async def test_tables_beyond_the_limit_are_dropped_the_oldest_first() -> None:
    network = BrightnessNetwork()
    table = ScatterTable(network.show, LAYERS, limit_bytes=2 * 30 * 4 * (4 + 3))
    for size, shown in ((4, 30), (5, 60), (4, 60), (6, 90), (4, 90), (5, 120)):
        await table.of(Readout("early"), 0, 4, Numbered(60, size=size), EXPLORED)
        assert network.shown == shown


def test_images_are_compared_in_the_last_layer_before_the_classifier_that_is_narrow_enough() -> None:
    found = comparing_layer(LAYERS)
    assert found is not None
    assert found.name == "late"
    assert comparing_layer(LAYERS[2:]) is None
