"""A unit's id is taken apart into network, kind, layer with its place, number and file."""

from __future__ import annotations

import pytest

from actors.vision.readout.base import Unit
from experiments.records.names import UnitName


@pytest.mark.parametrize(
    "unit",
    [
        Unit("blocks.9", 7),
        Unit("blocks.9@cls", 7),
        Unit("blocks.9.attn@head3+register1", 0),
        Unit("blocks.9@in", 3, "direction", "v.npy"),
        Unit("blocks.9@mean", 12, "latent", "/a/dict@2/sae:b"),
        Unit("output@mean", 207, "logit"),
        Unit("pair[1]@all", 2),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "model", ["resnet18", "python:net@2.py:build", "hf:facebook/dinov2-small", "net@a/b.pth"]
)
def test_an_id_is_taken_apart_as_it_was_put_together(unit: Unit, model: str) -> None:
    name = UnitName.parse(f"{model}/{unit}")
    assert (name.model, name.kind, name.layer, name.index, name.source) == (
        model,
        unit.kind,
        unit.layer,
        unit.index,
        unit.source,
    )
    assert name.short == str(unit)
