"""How far two single-precision computations of the same codes may lie apart."""

from __future__ import annotations

import torch


def assert_codes_equal(
    ours: torch.Tensor, theirs: torch.Tensor, x: torch.Tensor, weight: torch.Tensor
) -> None:
    """Check codes (n, F) of inputs x (n, D) against another computation with the same encoder weights.

    A sum of D products is off by at most D rounding errors of the sum of their sizes; a few more operations
    come before and after it.
    """
    ours, theirs = ours.double(), theirs.detach().double()
    size = float(x.norm(dim=-1).max() * weight.norm() + ours.abs().max())
    bound = 2 * (x.shape[-1] + 8) * torch.finfo(torch.float32).eps * size
    assert ours.shape == theirs.shape
    # The same latents are on, but for codes that rounding alone may turn on or off.
    assert not bool((((ours > 0) != (theirs > 0)) & (torch.maximum(ours, theirs) > bound)).any())
    assert float((ours - theirs).abs().max()) <= bound
    assert bool((theirs > 0).any())
