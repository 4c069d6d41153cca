"""Heads of torch's own attention are read and edited as a hand-written attention has them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from actors.vision.readout.edits import Edit, RowEdit
from actors.vision.readout.places import split_place
from actors.vision.readout.units import Readout, UnitReader
from tests.actors.vision import tiny_networks as networks
from tests.actors.vision.readout.test_places import images, read, tapped

HEADS, WIDTH = 2, 4


class Attending(nn.Module):
    """Patches of a 24 x 16 image attend to each other; the output is linear in their mean."""

    def __init__(self, batch_first: bool = True, mask: bool = False, **options: Any) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, HEADS * WIDTH, 4, stride=4)
        self.attend = nn.MultiheadAttention(HEADS * WIDTH, HEADS, batch_first=batch_first, **options)
        self.head = nn.Linear(HEADS * WIDTH, 3)
        self.mask = torch.triu(torch.full((24, 24), -torch.inf), 1) if mask else None

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches(x).flatten(2).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(x)
        given = tokens if self.attend.batch_first else tokens.transpose(0, 1)
        found, _ = self.attend(given, given, given, need_weights=False, attn_mask=self.mask)
        found = found if self.attend.batch_first else found.transpose(0, 1)
        scores: torch.Tensor = self.head((tokens + found).mean(1))
        return scores


def by_hand(module: Attending, x: torch.Tensor, change: Any = lambda heads: heads) -> tuple[Any, Any]:
    """Return what the heads give, (N, T, heads * width), and the scores after a change of it."""
    attend, tokens = module.attend, module.tokens(x)
    size = HEADS * WIDTH
    weight, bias = attend.in_proj_weight.split(size), attend.in_proj_bias
    bias = torch.zeros(3, size) if bias is None else bias.reshape(3, size)
    q, k, v = ((tokens @ weight[i].T + bias[i]).unflatten(2, (HEADS, WIDTH)) for i in range(3))
    scores = torch.einsum("nthw,nshw->nhts", q, k) / WIDTH**0.5
    weights = (scores if module.mask is None else scores + module.mask).softmax(-1)
    heads = torch.einsum("nhts,nshw->nthw", weights, v).flatten(2)
    found = change(heads.clone()) @ attend.out_proj.weight.T
    found = found if attend.out_proj.bias is None else found + attend.out_proj.bias
    return heads, module.head((tokens + found).mean(1))


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": False}, {"mask": True}, {"bias": False}], ids=lambda each: str(each)
)
def test_what_heads_give_and_what_an_edit_does_is_as_computed_by_hand(options: dict[str, Any]) -> None:
    module: Any = networks.seeded(lambda: Attending(**options))
    network, batch = tapped(module), images(2)

    def doubled(heads: torch.Tensor) -> torch.Tensor:
        heads[1, :, WIDTH + 2] *= -2  # of the second image alone
        return heads

    with torch.inference_mode():
        (heads, plain), (_, edited) = by_hand(module, batch), by_hand(module, batch, doubled)
    clean, one, two = read(network, batch, "output", "attend@head0", "attend@head1")
    torch.testing.assert_close(clean[..., 0, 0], plain)
    found = torch.cat([one, two], 1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, heads)
    edit = RowEdit(1, "attend@head1", Edit(Readout("attend@head1"), 2, "scale", -2.0), UnitReader(0))
    (after,) = read(network, batch, "output", edits=[edit])
    torch.testing.assert_close(after[..., 0, 0], edited)
    assert (after[1] - clean[1]).abs().max() > 1e-3


def test_a_pass_that_wants_no_head_runs_the_attention_as_it_is() -> None:
    network = tapped(networks.seeded(Attending))
    calls: list[int] = []
    handle = network.module.attend.out_proj.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    read(network, images(1), "output")
    assert calls == []
    read(network, images(1), "output", "attend@head1")
    assert calls == [1]
    handle.remove()
    assert "forward" not in vars(network.module.attend)
    assert "attend.out_proj" not in network.taps


def test_heads_of_torchvisions_transformer_have_places_and_their_class_token() -> None:
    import torchvision

    module = networks.seeded(lambda: torchvision.models.VisionTransformer(32, 8, 2, HEADS, 8, 16))
    network = tapped(module, (32, 32))
    name = "encoder.layers.encoder_layer_0.self_attention"
    patches, cls = read(network, images(2, (32, 32)), f"{name}@head1", f"{name}@head1+cls")
    assert patches.shape == (2, WIDTH, 4, 4)
    assert cls.shape == (2, WIDTH, 1, 1)
    assert split_place(f"{name}@head1")[0] == name
