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


class Patches(nn.Module):
    """An attention over 64 patches, of 2 heads; its heads are as wide as there are patches."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patch, self.attn = nn.Conv2d(3, 128, 4, stride=4), attention
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        scores: torch.Tensor = self.head(self.norm(tokens + self.attn(tokens)).mean(1))
        return scores


def of_channels() -> nn.Module:
    from timm.models.xcit import XCA

    return networks.seeded(lambda: Patches(XCA(128, num_heads=2)))


def talking_heads() -> nn.Module:
    from timm.models.cait import Cait

    return networks.seeded(
        lambda: Cait(img_size=32, patch_size=4, embed_dim=12, depth=2, num_heads=3, depth_token_only=1)
    )


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
        (of_channels, "attn@head0", "no weights between all tokens"),
        (few_keys, "segformer.stages.0.blocks.0.attention@head0", "no weights between all tokens"),
    ],
)
async def test_what_has_no_such_map_is_refused_in_a_sentence(make: Any, layer: str, message: str) -> None:
    backend = backend_of(make())
    with pytest.raises(UsageError, match=message):
        await backend.attribute(noise(1, 32)[0], Readout(layer), 0, "attention")
    await backend.close()


async def test_heads_that_share_their_weights_look_where_their_values_are_taken_from() -> None:
    """Their weights are mixed over heads before and behind the softmax."""
    backend = backend_of(talking_heads())
    attention: Any = backend.network.module.get_submodule("blocks.1.attn")
    given: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _module, arguments: given.append(arguments[0]))
    found = await backend.attribute(noise(1, 32)[0], Readout("blocks.1.attn@head1"), 2, "attention")
    handle.remove()
    with torch.inference_mode():
        q, k, v = attention.qkv(given[0])[0].unflatten(1, (3, 3, 4)).permute(1, 2, 0, 3)
        scores = attention.proj_l((q @ k.transpose(1, 2) / 2).permute(1, 2, 0)).softmax(1)
        weights = attention.proj_w(scores)[..., 1]
        at = int((weights @ v[1])[:, 2].argmax())
    np.testing.assert_allclose(found.map, weights[at].reshape(8, 8).numpy(), rtol=1e-3, atol=1e-6)
    await backend.close()
