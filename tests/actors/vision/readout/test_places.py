"""Units are read and edited at the class token, at registers, in heads and at inputs, where there are any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import UsageError
from actors.vision.networks.prefix import declared_prefix
from actors.vision.readout.base import Unit
from actors.vision.readout.edits import Edit, RowEdit
from actors.vision.readout.places import Place, split_place
from actors.vision.readout.tap import spatial_max
from actors.vision.readout.taps import TappedModule
from actors.vision.readout.units import Readout, UnitReader, parse_unit
from tests.actors.vision import tiny_networks as networks

SIZE = (24, 16)


def tapped(module: nn.Module, size: tuple[int, int] = SIZE) -> TappedModule:
    with torch.inference_mode():
        return TappedModule(module.eval(), torch.zeros(2, 3, *size), prefix=declared_prefix(module))


def images(n: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn((n, 3, *size), generator=torch.Generator().manual_seed(1))


def read(network: TappedModule, batch: torch.Tensor, *layers: str, edits: Any = ()) -> list[torch.Tensor]:
    """Return the maps (N, C, h, w) of layers, from one pass."""
    taken: dict[str, torch.Tensor] = {}
    keep = {layer: lambda maps, layer=layer: taken.update({layer: maps.clone()}) for layer in layers}
    with torch.inference_mode():
        network.run(batch, keep, edits=edits)
    return [taken[layer] for layer in layers]


@pytest.fixture(scope="module")
def vit() -> TappedModule:
    """A ViT of timm with a class token and two registers, 6 x 4 patches, 3 heads."""
    return tapped(networks.tiny_vit(reg_tokens=2))


@pytest.fixture(scope="module")
def dinov2() -> TappedModule:
    """DINOv2 with three registers in transformers, with random weights."""
    import transformers

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_register_tokens=3,
        image_size=32,
        patch_size=8,
        use_swiglu_ffn=False,
    )
    return tapped(networks.seeded(lambda: transformers.Dinov2WithRegistersModel(config)), (32, 32))


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("blocks.9", "blocks.9", ""),
        ("blocks.9@cls", "blocks.9", "cls"),
        ("blocks.9@patches", "blocks.9", ""),
        ("blocks.9@in+patches", "blocks.9", "in"),
        ("a@b.attn@head03+register01", "a@b.attn", "head3+register1"),
        ("blocks.9@incls", "blocks.9@incls", ""),
        ("blocks.9@cls+in", "blocks.9@cls+in", ""),
        ("@cls", "@cls", ""),
        ("user@host", "user@host", ""),
    ],
)
def test_words_behind_the_last_at_are_a_place_and_all_else_is_the_layer(
    name: str, layer: str, words: str
) -> None:
    assert split_place(name) == (layer, split_place(name)[1])
    assert str(split_place(name)[1]) == words
    assert split_place(split_place(name)[1].of(layer))[1] == split_place(name)[1]


def test_a_units_id_holds_its_place_and_one_place_has_one_id() -> None:
    assert str(parse_unit("blocks.1@cls", "7")) == "blocks.1@cls:7"
    assert parse_unit("blocks.1@patches", "7") == parse_unit("blocks.1", "7") == Unit("blocks.1", 7)
    unit = parse_unit("blocks.1.attn@head02+cls", "direction:v@2.npy:3")
    assert (unit.layer, unit.kind, unit.source) == ("blocks.1.attn@head2+cls", "direction", "v@2.npy")
    assert unit.place == Place("head", 2, "cls")
    assert parse_unit("output@mean", "3").kind == "logit"
    assert parse_unit("blocks.1@cls", "probability:3").layer == "output"


def test_people_are_told_what_has_no_place_in_the_image() -> None:
    notes = {
        name: split_place(name)[1].note() for name in ("a", "a@head2", "a@in+cls", "a@register1", "a@mean")
    }
    assert notes == {
        "a": "",
        "a@head2": "Read at head 2.",
        "a@in+cls": "Read at the class token of the input of the layer: it has no place in the image, and "
        "images are shown whole.",
        "a@register1": "Read at register token 1: it has no place in the image, and images are shown whole.",
        "a@mean": "Read at the mean over positions: it has no place in the image, and images are shown "
        "whole.",
    }


def test_tokens_are_the_vectors_that_the_network_starts_with(vit: TappedModule) -> None:
    """The embeddings are set, so what must be read at the first layer is known."""
    module: Any = vit.module
    with torch.no_grad():
        module.cls_token.copy_(torch.full_like(module.cls_token, 3.0))
        module.reg_token.copy_(torch.arange(2.0)[None, :, None] + 7 + torch.zeros_like(module.reg_token))
        module.pos_embed.zero_()
    layers = ["@cls", "@register0", "@register1", "@registers", "@all"]
    cls, first, second, registers, everything = read(vit, images(3), *(f"pos_drop{each}" for each in layers))
    assert (cls == 3).all()
    assert cls.shape[2:] == (1, 1)
    assert (first == 7).all()
    assert (second == 8).all()
    assert (spatial_max(registers) == 8).all()
    assert everything.shape[2:] == (1, 1 + 2 + 6 * 4)


def test_tokens_of_transformers_are_those_of_its_hidden_states(dinov2: TappedModule) -> None:
    batch = images(2, (32, 32))
    with torch.inference_mode():
        states = dinov2.module(batch, output_hidden_states=True).hidden_states[1]
    layer = "encoder.layer.0"
    names = [layer, *(f"{layer}@{word}" for word in ("cls", "register0", "register2", "registers", "mean"))]
    patches, cls, first, third, registers, mean = read(dinov2, batch, *names)
    torch.testing.assert_close(cls[..., 0, 0], states[:, 0])
    torch.testing.assert_close(first[..., 0, 0], states[:, 1])
    torch.testing.assert_close(third[..., 0, 0], states[:, 3])
    torch.testing.assert_close(spatial_max(registers), states[:, 1:4].amax(1))
    torch.testing.assert_close(spatial_max(patches), states[:, 4:].amax(1))
    torch.testing.assert_close(mean[..., 0, 0], states[:, 4:].mean(1))
    (given,) = read(dinov2, batch, "encoder.layer.1@in+cls")
    assert torch.equal(given, cls)


@pytest.mark.parametrize("which", ["vit", "dinov2"])
def test_contributions_of_heads_add_up_to_the_attention(which: str, request: pytest.FixtureRequest) -> None:
    """attn = sum over heads of z_h W_O,h + b, at every token."""
    network = request.getfixturevalue(which)
    name, part = ("blocks.1.attn", "proj") if which == "vit" else ("encoder.layer.1.attention", "o_proj")
    batch = images(2, SIZE if which == "vit" else (32, 32))
    projection: Any = network.module.get_submodule(f"{name}.{part}")
    n_heads = network.taps[name].info.places.heads
    whole, *heads = read(network, batch, f"{name}@all", *(f"{name}@head{i}+all" for i in range(n_heads)))
    width = projection.in_features // n_heads
    total = projection.bias[None, :, None, None].expand_as(whole)
    for head, z in enumerate(heads):
        weight = projection.weight[:, head * width : (head + 1) * width]
        total = total + torch.einsum("nchw,oc->nohw", z, weight)
    assert n_heads == (3 if which == "vit" else 4)
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)


def test_the_class_token_behind_the_last_norm_is_what_is_pooled(vit: TappedModule) -> None:
    module: Any = vit.module
    cls, given = read(vit, images(2), "norm@cls", "head@in")
    assert module.global_pool == "token"
    torch.testing.assert_close(cls, given)


def test_the_mean_of_a_convolutions_map_is_average_pooling() -> None:
    network = tapped(networks.tiny_resnet(), (32, 32))
    pooled, mean, maximum = read(network, images(2, (32, 32)), "global_pool", "layer4@mean", "layer4")
    torch.testing.assert_close(mean[..., 0, 0], pooled[..., 0, 0])
    assert (spatial_max(maximum) >= mean[..., 0, 0]).all()


def edit(row: int, layer: str, index: int, **how: Any) -> RowEdit:
    return RowEdit(row, layer, Edit(Readout(layer), index, how.pop("how", "set"), **how), UnitReader(0))


@pytest.mark.parametrize("place", ["cls", "register1", "registers", "all", "mean", "head1+cls", "in+cls"])
def test_an_edit_changes_the_tokens_that_it_names_and_no_others(place: str, vit: TappedModule) -> None:
    batch, base = images(2), "blocks.0.attn" if "head" in place else "blocks.0"
    layer = f"{base}@{place}"
    tokens = split_place(layer)[1].tokens
    site = layer.removesuffix(tokens).rstrip("+@")
    whole = f"{site}{'+' if '@' in site else '@'}all"
    (clean,) = read(vit, batch, whole)
    after, unit = read(vit, batch, whole, layer, edits=[edit(1, layer, 2, amount=5.0)])
    changed = (after != clean).any(1)[:, 0]
    span = vit.taps[base].info.places.span(tokens)
    expected = torch.zeros_like(changed)
    expected[1, slice(3, None) if span is None else span] = True
    assert torch.equal(changed, expected)
    torch.testing.assert_close(unit[1, 2], torch.full_like(unit[1, 2], 5.0))
    assert torch.equal(after[:, [0, 1, 3]], clean[:, [0, 1, 3]])


def test_edits_of_one_row_at_several_places_of_a_layer_follow_each_other(vit: TappedModule) -> None:
    layer = "blocks.0"
    edits = [
        edit(0, f"{layer}@all", 1, amount=2.0),
        edit(0, f"{layer}@cls", 1, how="scale", amount=3.0),
        edit(1, f"{layer}@cls", 1, how="scale", amount=0.0),
    ]
    patches, cls = read(vit, images(2), layer, f"{layer}@cls", edits=edits)
    assert (patches[0, 1] == 2).all()
    assert cls[0, 1].item() == 6
    assert cls[1, 1].item() == 0


@pytest.mark.parametrize(
    ("make", "layer", "said"),
    [
        ("tiny_swin", "layers.0@cls", "There are layers.0 and @mean"),
        ("tiny_convnext", "stages.0@cls", "There are stages.0 and @mean"),
        ("siglip", "blocks.0@cls", "wrap(module, prefix_tokens="),
        ("siglip", "blocks.0@registers", "no such token is known"),
        ("siglip", "blocks.0@all", "There are blocks.0 and @mean, @in."),
        ("vit", "blocks.0@register2", "@cls, @register0-1, @registers, @mean, @all, @in"),
        ("vit", "blocks.0.mlp@head0", "Heads are those of an attention module"),
        ("vit", "blocks.0.attn@head3", "numbered 0 to 2"),
        ("vit", "head@mean", "There are head and @in"),
        ("vit", "patch_embed.proj@in", "input cannot be read, or is of other positions"),
        ("vit", "blocks.7@cls", "there is no layer 'blocks.7@cls'"),
    ],
)
def test_a_layer_without_the_place_is_refused_with_what_there_is(
    make: str, layer: str, said: str, vit: TappedModule
) -> None:
    match make:
        case "vit":
            network = vit
        case "siglip":
            network = tapped(networks.tiny_vit(class_token=False, global_pool="map"))
        case _:
            network = tapped(getattr(networks, make)(), (32, 32))
    with pytest.raises(UsageError) as refused:
        network.tap(layer)
    assert said in f"{refused.value.message} {refused.value.fix}"


@pytest.mark.parametrize("layer", ["blocks.0@cls", "blocks.1.attn@head2", "blocks.1@in+mean"])
def test_a_pass_that_stops_at_a_part_of_a_layer_gives_what_a_whole_one_gives(
    layer: str, vit: TappedModule
) -> None:
    batch = images(2)
    (alone,) = read(vit, batch, layer)
    both = read(vit, batch, layer, "output")
    through: list[np.ndarray] = []
    with torch.inference_mode():
        vit.run_through(batch, {layer: lambda maps: through.append(maps.numpy().copy())})
    assert torch.equal(alone, both[0])
    np.testing.assert_array_equal(alone, through[0])
