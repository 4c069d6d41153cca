"""Heads of `nn.MultiheadAttention`, which applies its output projection without calling it.

What the heads give is the projection's input. While it is wanted, the attention runs with the identity in
the projection's place, and the projection is called behind it, with its hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PROJECTION = "out_proj"


def uncalled_projections(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Return the attentions that never call their projection, by the projection's name."""
    import torch

    return {
        f"{name}.{PROJECTION}": module
        for name, module in modules.items()
        if type(module) is torch.nn.MultiheadAttention and name
    }


@contextmanager
def calling_projection(attention: Any) -> Iterator[None]:
    """Have an `nn.MultiheadAttention` call its projection, with what the heads give, (T, N, heads * width).

    The result is the same up to rounding.
    """
    inner = _without_projection(attention)

    def forward(query: Any, key: Any, value: Any, *more: Any, **named: Any) -> Any:
        sequence_second = attention.batch_first and query.dim() == 3
        if sequence_second:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        heads, weights = inner(query, key, value, *more, **named)
        output = attention.out_proj(heads)
        return output.transpose(0, 1) if sequence_second else output, weights

    attention.forward = forward  # of this object alone: its class stays
    try:
        yield
    finally:
        del attention.forward


def _without_projection(attention: Any) -> Any:
    """Return an attention of the same weights whose projection is the identity, sequences first."""
    import torch

    inner = copy.copy(attention)
    inner.__dict__ = attention.__dict__ | {
        "_modules": dict(attention._modules),
        "_forward_hooks": {},
        "_forward_pre_hooks": {},
        "batch_first": False,
    }
    weight = attention.out_proj.weight
    identity = torch.nn.Linear(attention.embed_dim, attention.embed_dim, bias=False, device="meta")
    identity.weight = torch.nn.Parameter(torch.eye(attention.embed_dim).to(weight), requires_grad=False)
    inner._modules[PROJECTION] = identity
    return inner
