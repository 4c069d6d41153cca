"""The weights of an attention: where each token looks, seen in the pass that computes it.

Fused kernels return none. So their queries and keys are taken, or the softmax of an attention in plain
operations; torch's `MultiheadAttention` gives them when it is asked.

Shapes: H heads; T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class SeenAttention:
    """What an attention computed in a pass of one image; `weights` are the last, float32 (H, T, T)."""

    module: torch.nn.Module
    inside: bool = False
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    tables: list[torch.Tensor] = field(default_factory=list)

    def weights(self, heads: int, tokens: int) -> torch.Tensor | None:
        """Return the weights of `heads` between `tokens`, None if it has none of such a shape."""
        if isinstance(self.module, torch.nn.MultiheadAttention) and self.given is not None:
            arguments, named = self.given
            call = inspect.signature(self.module.forward).bind(*arguments, **named)
            call.arguments |= {"need_weights": True, "average_attn_weights": False}
            table = self.module.forward(*call.args, **call.kwargs)[1]
            assert table is not None
            self.tables.append(table)
        for table in reversed(self.tables):
            if table.shape == (1, heads, tokens, tokens):
                return table[0].float()
        return None


@contextmanager
def seeing(module: torch.nn.Module) -> Iterator[SeenAttention]:
    """Note what an attention computes in the passes of this block."""
    seen = SeenAttention(module)

    def before(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.inside, seen.given = True, (arguments, named)

    def behind(*_: Any) -> None:
        seen.inside = False

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(behind),
    ]
    try:
        with _Watching(seen):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Watching(TorchFunctionMode):
    def __init__(self, seen: SeenAttention) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._seen.inside:
            name = getattr(func, "__name__", "")
            if name == "scaled_dot_product_attention":
                self._seen.tables.append(_fused_weights(*args, **(kwargs or {})))
            elif name == "softmax" and result.ndim == 4:
                self._seen.tables.append(result)
        return result


def _fused_weights(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any, **named: Any
) -> torch.Tensor:
    """Return the weights that `scaled_dot_product_attention` uses of these arguments, those of torch."""
    options = dict(zip(("attn_mask", "dropout_p", "is_causal"), more, strict=False)) | named
    if options.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query.float() @ key.float().transpose(-2, -1) * (options.get("scale") or query.shape[-1] ** -0.5)
    if options.get("is_causal"):
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    if (attn_mask := options.get("attn_mask")) is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    return scores.softmax(-1)
