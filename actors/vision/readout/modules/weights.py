"""The weights of an attention: where each token looks, seen in the pass that computes it.

Fused kernels return none. So their queries and keys are taken, or what an attention in plain operations
multiplies its values by; torch's `MultiheadAttention` gives them when it is asked.

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
    """What an attention computed in a pass of one image.

    `mixed` are the products of weights and values, each with its weights; `heads` what the output projection
    was given, (1, T, H * width).
    """

    module: torch.nn.Module
    inside: bool = False
    given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    heads: torch.Tensor | None = None
    mixed: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def weights(self, heads: int, tokens: int) -> torch.Tensor | None:
        """Return the weights of `heads` between `tokens`, float32 (H, T, T), None if it has none of such a
        shape.
        """
        if isinstance(self.module, torch.nn.MultiheadAttention) and self.given is not None:
            arguments, named = self.given
            call = inspect.signature(self.module.forward).bind(*arguments, **named)
            call.arguments |= {"need_weights": True, "average_attn_weights": False}
            table = self.module.forward(*call.args, **call.kwargs)[1]
            return (
                table[0].float() if table is not None and table.shape[1:] == (heads, tokens, tokens) else None
            )
        for table, product in reversed(self.mixed):
            if table.numel() == heads * tokens**2 and self._is_of_tokens(product, heads, tokens):
                return table.reshape(heads, tokens, tokens).float()
        return None

    def _is_of_tokens(self, product: torch.Tensor, heads: int, tokens: int) -> bool:
        """Return whether a product has a row for each token: an attention may relate channels instead."""
        if self.heads is None or product.numel() != self.heads.numel() or product.shape[-2] != tokens:
            return False
        rows = self.heads.reshape(tokens, heads, -1).transpose(0, 1)
        if rows.shape[2] != tokens:
            return True
        given = product.reshape(rows.shape)
        return bool((given - rows).abs().max() <= 1e-2 * rows.abs().max())


@contextmanager
def seeing(module: torch.nn.Module, projection: torch.nn.Module) -> Iterator[SeenAttention]:
    """Note what an attention, and its output projection, compute in the passes of this block."""
    seen = SeenAttention(module)

    def before(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.inside, seen.given = True, (arguments, named)

    def between(_module: Any, arguments: tuple[Any, ...]) -> None:
        seen.heads = arguments[0] if arguments else None

    def behind(*_: Any) -> None:
        seen.inside = False

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        projection.register_forward_pre_hook(between),
        module.register_forward_hook(behind),
    ]
    try:
        with _Watching(seen):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


_PRODUCTS = ("matmul", "__matmul__", "bmm", "einsum")


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
                self._seen.mixed.append((_fused_weights(*args, **(kwargs or {})), result))
            elif name in _PRODUCTS:
                tables = (
                    each for each in _tensors(args) if each.ndim > 2 and each.shape[-1] == each.shape[-2]
                )
                self._seen.mixed += [(table, result) for table in tables]
        return result


def _tensors(arguments: Any) -> list[torch.Tensor]:
    """Return the tensors among arguments, those of a list, too."""
    flat = [one for each in arguments for one in (each if isinstance(each, (list, tuple)) else [each])]
    return [each for each in flat if isinstance(each, torch.Tensor)]


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
