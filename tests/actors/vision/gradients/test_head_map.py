"""Where a head looks is what a hand-written attention gives, in fused and in plain attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import UsageError
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.networks.network import wrap
from actors.vision.readout.units import Readout
from actors.vision.settings import VisionSettings
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.readout.test_edits import noise


def backend_of(module: nn.Module) -> VisionBackend:
    network = wrap(module.eval(), name="known", size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    return VisionBackend(network, VisionSettings(placement=Placement(threads=1), device="cpu"))


def vit(fused: bool = True) -> nn.Module:
    module = networks.tiny_vit(img_size=32)
    for block in module.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = fused
    return module


def torchvisions() -> nn.Module:
    import torchvision

    return networks.seeded(lambda: torchvision.models.VisionTransformer(32, 4, 2, 3, 12, 16))


def eager() -> nn.Module:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=16, image_size=32,
        patch_size=4, num_labels=5, attn_implementation="eager",
    )  # fmt: skip
    return networks.seeded(lambda: transformers.ViTForImageClassification(config))


def few_keys() -> nn.Module:
    """Return a network whose attention has a quarter as many keys as tokens."""
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[2], hidden_sizes=[8], patch_sizes=[7], strides=[4],
        num_attention_heads=[1], mlp_ratios=[2], num_labels=5,
    )  # fmt: skip
    return networks.seeded(lambda: transformers.SegformerForImageClassification(config))


def by_hand(attention: Any, tokens: torch.Tensor, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a head's weights (T, T) and what it gives (T, width), for tokens (1, T, C)."""
    if hasattr(attention, "qkv"):
        weight, bias = attention.qkv.weight, attention.qkv.bias
    elif hasattr(attention, "in_proj_weight"):
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
    else:
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "bias"))
    q, k, v = (tokens[0] @ weight.T + bias).unflatten(1, (3, 3, 4))[:, :, head].unbind(1)
    weights = (q @ k.T / 2).softmax(-1)
    return weights, weights @ v


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (vit, "blocks.1.attn"),
        (lambda: vit(fused=False), "blocks.1.attn"),
        (torchvisions, "encoder.layers.encoder_layer_1.self_attention"),
        (eager, "vit.layers.1.attention"),
    ],
)
@pytest.mark.parametrize("token", ["", "+cls", "+mean"])
async def test_where_a_head_looks_is_as_computed_by_hand(make: Any, name: str, token: str) -> None:
    backend = backend_of(make())
    attention, given = backend.network.module.get_submodule(name), []
    handle = attention.register_forward_pre_hook(
        lambda _module, arguments, named: given.append([*arguments, *named.values()][0]), with_kwargs=True
    )
    image = noise(1, 32)[0]
    found = await backend.attribute(image, Readout(f"{name}@head1{token}"), 2, "attention")
    handle.remove()
    with torch.inference_mode():
        weights, heads = by_hand(attention, given[0], 1)
    values = {"": heads[1:, 2], "+cls": heads[:1, 2], "+mean": heads[1:, 2].mean(0, keepdim=True)}[token]
    patch = 1 + int(heads[1:, 2].argmax())
    expected = {"": weights[patch], "+cls": weights[0], "+mean": weights[1:].mean(0)}[token]
    np.testing.assert_allclose(found.map, expected[1:].reshape(8, 8).numpy(), rtol=1e-4, atol=1e-7)
    assert found.value == pytest.approx(float(values.max()), rel=1e-4)
    await backend.close()


@pytest.mark.parametrize(
    ("make", "layer", "message"),
    [
        (vit, "blocks.1.attn", "is no head of an attention"),
        (few_keys, "segformer.stages.0.blocks.0.attention@head0", "no weights between all tokens"),
    ],
)
async def test_what_has_no_such_map_is_refused_in_a_sentence(make: Any, layer: str, message: str) -> None:
    backend = backend_of(make())
    with pytest.raises(UsageError, match=message):
        await backend.attribute(noise(1, 32)[0], Readout(layer), 0, "attention")
    await backend.close()
