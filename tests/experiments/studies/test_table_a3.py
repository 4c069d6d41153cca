"""The paper's unit counts can be drawn again, with a seed."""

from __future__ import annotations

import pytest

from actors.errors import UsageError
from actors.vision.networks.zoo import LAYER_ALIASES
from actors.vision.readout.base import LayerInfo
from experiments.studies.table_a3 import UNIT_COUNTS, sample_units


def layers(model: str) -> list[LayerInfo]:
    names = [LAYER_ALIASES[model].get(name, name) for name in UNIT_COUNTS[model]]
    return [LayerInfo(name, "map", 40 + 7 * place, (3, 2), "Conv2d") for place, name in enumerate(names)]


@pytest.mark.parametrize("model", sorted(UNIT_COUNTS))
def test_a_hundred_different_units_are_drawn_from_each_network(model: str) -> None:
    units = sample_units(model, layers(model), seed=1)
    assert len(units) == len(set(units)) == 100
    n_units = {layer.name: layer.n_units for layer in layers(model)}
    assert all(0 <= unit.index < n_units[unit.layer] for unit in units)
    assert units == sample_units(model, layers(model), seed=1)
    assert units != sample_units(model, layers(model), seed=2)


def test_the_counts_are_the_papers() -> None:
    assert list(UNIT_COUNTS["resnet152"].values()) == [10, 15, 20, 25, 30]
    assert list(UNIT_COUNTS["dino_vits8"].values()) == [5, 5, 20, 20, 25, 25]
    assert list(UNIT_COUNTS["clip-RN50"].values()) == [10, 20, 30, 40]


def test_another_network_is_refused() -> None:
    with pytest.raises(UsageError, match="resnet152"):
        sample_units("vgg", [])
