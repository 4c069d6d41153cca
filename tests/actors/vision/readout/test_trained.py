"""A dictionary is applied where it was trained, and refused elsewhere with the name of the right place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actors.errors import UsageError
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.places import Places, split_place
from actors.vision.readout.units import Readout, reader
from tests.actors.vision.dictionaries import published

D = published.D
PLACES = Places(("cls", "register0"), True, heads=4, head_width=D, n_inputs=D)
LAYERS = {
    name: LayerInfo(name, kind, D, shape, "Block", places=PLACES)
    for name, kind, shape in (("blocks.9", "tokens", (2, 3)), ("blocks.9.attn", "tokens", (2, 3)))
}
LAYERS["pooled"] = LayerInfo("pooled", "vector", D, (), "Identity")


def read_at(folder: Path, layer: str) -> Any:
    name, place = split_place(layer)
    return reader(Readout(layer, "latent", str(folder)), LAYERS[name].at(place))


@pytest.mark.parametrize(
    ("library", "config", "right", "wrong"),
    [
        ("prisma", {"cls_token_only": True}, "blocks.9@cls", "blocks.9"),
        ("prisma", {"cls_token_only": True}, "blocks.9@cls", "blocks.9@mean"),
        ("prisma", {"use_patches_only": True}, "blocks.9", "blocks.9@all"),
        ("prisma", {"layer_subtype": "hook_resid_pre"}, "blocks.9@in", "blocks.9"),
        (
            "prisma",
            {"layer_subtype": "hook_resid_pre", "cls_token_only": True},
            "blocks.9@in+cls",
            "blocks.9@cls",
        ),
        ("sae_lens", {"metadata": {"seqpos_slice": [0, 1]}}, "blocks.9@cls", "blocks.9@register0"),
        (
            "sae_lens",
            {"hook_name": "blocks.9.attn.hook_z", "hook_head_index": 3},
            "blocks.9.attn@head3",
            "blocks.9.attn@head2",
        ),
    ],
)
def test_the_wrong_place_is_refused_with_the_right_one(
    library: str, config: dict[str, Any], right: str, wrong: str, tmp_path: Path
) -> None:
    folder = getattr(published, library)(tmp_path, **config)
    made = read_at(folder, right)
    assert made.read is not None
    x = published.inputs(3)[:, :, None, None]
    assert made.read(x).shape == (3, made.n_units, 1, 1)
    with pytest.raises(UsageError) as refused:
        read_at(folder, wrong)
    assert f"{wrong!r} is another place" in refused.value.message
    assert right in refused.value.fix


def test_values_of_all_heads_are_read_at_the_input_of_the_projection(tmp_path: Path) -> None:
    folder = published.sae_lens(tmp_path, hook_name="blocks.9.attn.hook_z", reshape_activations="hook_z")
    with pytest.raises(UsageError) as refused:
        read_at(folder, "blocks.9.attn")
    assert "blocks.9.attn.proj@in" in refused.value.fix
    assert read_at(folder, "blocks.9@in").n_units == published.F


def test_a_dictionary_of_class_tokens_reads_pooled_values(tmp_path: Path) -> None:
    """A pooled layer is a vector: there is nothing that could be confused."""
    assert read_at(published.prisma(tmp_path, cls_token_only=True), "pooled").n_units == 2 * D


def test_a_dictionary_that_says_nothing_is_applied_at_any_place(tmp_path: Path) -> None:
    folder = published.sae_lens(tmp_path)
    for layer in ("blocks.9", "blocks.9@cls", "blocks.9@mean", "blocks.9@in"):
        assert torch.isfinite(read_at(folder, layer).read(published.inputs(2)[:, :, None, None])).all()
