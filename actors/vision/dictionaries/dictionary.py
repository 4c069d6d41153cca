"""A dictionary: an encoder of a layer's activations into sparse codes, and the decoder back.

    y = (normalize(x) - offset) W + b        codes = activation(y * code_scale)
    x_hat = denormalize((codes * decoder_scale) W_dec + b_dec)

Shapes: `...` positions; D channels of the layer; F latents. All arithmetic is in single precision, whatever
the precision of the file: codes then differ from a half-precision library by its rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch

Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

_EPSILON = 1e-5
"""Added to the deviation by SAELens and ViT-Prisma (`run_time_activation_ln_in`)."""

_BLOCK_BYTES = 64 << 20
"""Codes computed at once: temporaries are as large, and the codes of a batch may be gigabytes."""


@dataclass(frozen=True)
class Activation:
    """Turns pre-activations (n, F) into codes (n, F), in place. `joint`: a code depends on other latents."""

    joint: ClassVar[bool] = False

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Relu(Activation):
    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        return pre.relu_()


@dataclass(frozen=True)
class TanhRelu(Activation):
    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        return pre.relu_().tanh_()


@dataclass(frozen=True)
class JumpRelu(Activation):
    """ReLU of what lies above a threshold (F,); with `inclusive`, of what lies on it too."""

    threshold: torch.Tensor
    inclusive: bool = False

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        passed = pre >= self.threshold if self.inclusive else pre > self.threshold
        return pre.relu_().mul_(passed)


@dataclass(frozen=True)
class Gated(Activation):
    """[y + gate_bias > 0] relu(gain y + magnitude_bias), each (F,) (Rajamanoharan et al. 2024)."""

    gate_bias: torch.Tensor
    gain: torch.Tensor
    magnitude_bias: torch.Tensor

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        passed = pre + self.gate_bias > 0
        return pre.mul_(self.gain).add_(self.magnitude_bias).relu_().mul_(passed)


@dataclass(frozen=True)
class TopK(Activation):
    """The `k` largest positive values of a position."""

    joint: ClassVar[bool] = True
    k: int

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        best = pre.relu_().topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, best.indices, best.values)


@dataclass(frozen=True)
class GroupMax(Activation):
    """The largest positive value of each of `k` equal groups of neighboring latents."""

    joint: ClassVar[bool] = True
    k: int

    def __call__(self, pre: torch.Tensor) -> torch.Tensor:
        groups = pre.relu_().unflatten(-1, (self.k, -1))
        best = groups.max(-1, keepdim=True)
        return torch.zeros_like(groups).scatter_(-1, best.indices, best.values).flatten(-2)


TensorRecord = TypeVar("TensorRecord", Activation, "Dictionary")


@dataclass(frozen=True)
class Dictionary:
    """A dictionary as it was read. Tensors may be mapped from the file; `on` copies what encoding needs."""

    encoder: torch.Tensor
    """(F, D)"""
    decoder: torch.Tensor
    """(F, D): what a code of 1 adds, before `decoder_scale` and the normalization are undone."""
    activation: Activation
    bias: torch.Tensor | None = None
    """(F,)"""
    offset: torch.Tensor | None = None
    """(D,), subtracted from the normalized input."""
    decoder_bias: torch.Tensor | None = None
    """(D,)"""
    normalization: Normalization = "none"
    input_scale: float = 1.0
    """Multiplies the input: the factor of the training data that was not folded into the weights."""
    code_scale: torch.Tensor | None = None
    """(F,), multiplies pre-activations: norms of the decoder's rows, before the activation chooses."""
    decoder_scale: torch.Tensor | None = None
    """(F,), multiplies codes before they are decoded."""
    hook: str = ""
    """Where the file says that it reads, in the words of its library; "" if it does not."""
    tokens: Literal["", "cls", "patches"] = ""
    """The tokens that the file says it was trained on; "" if it does not."""
    head: int | None = None
    """The head of an attention that it was trained on."""

    @property
    def width(self) -> int:
        return self.encoder.shape[1]

    @property
    def n_latents(self) -> int:
        return self.encoder.shape[0]

    def on(self, device: torch.device) -> Dictionary:
        """Return it with the encoder copied to `device` in single precision; the decoder stays."""

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, torch.float32, copy=True)

        moved = _mapped(self, copied, {"decoder", "decoder_bias", "decoder_scale"})
        return replace(moved, activation=_mapped(self.activation, copied))

    def encode(self, x: torch.Tensor, latents: Sequence[int] | None = None) -> torch.Tensor:
        """Return codes, float32 (..., F), of activations (..., D); (..., len(latents)) of those alone.

        A few latents cost their own rows only, unless the activation chooses among all latents.
        """
        some = None if latents is None else torch.as_tensor(list(latents), dtype=torch.long, device=x.device)
        if some is not None and not self.activation.joint:
            return self._rows(some).encode(x)
        rows = x.reshape(-1, self.width)
        kept = self.n_latents if some is None else len(some)
        codes = torch.empty(len(rows), kept, dtype=torch.float32, device=x.device)
        step = max(1, _BLOCK_BYTES // (4 * self.n_latents))
        for start in range(0, len(rows), step):
            block = self._encode(rows[start : start + step])
            codes[start : start + step] = block if some is None else block[:, some]
        return codes.reshape(*x.shape[:-1], kept)

    def decode(self, codes: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction, float32 (..., D), of codes (..., F); `x` (..., D) was encoded."""
        scaled = codes if self.decoder_scale is None else codes * self.decoder_scale.float()
        out = scaled @ self.decoder.float()
        if self.decoder_bias is not None:
            out = out + self.decoder_bias.float()
        _, shift, scale = self._normalize(x.float())
        return out * scale + shift

    def step(self, x: torch.Tensor, latent: int, change: torch.Tensor) -> torch.Tensor:
        """Return what is added to activations `x` (..., D) when a latent's code changes by `change` (...).

        It is decode(codes') - decode(codes), so that x + step keeps the error x - decode(codes).
        """
        row = self.decoder[latent].to(x.device).float()
        if self.decoder_scale is not None:
            row = row * float(self.decoder_scale[latent])
        _, _, scale = self._normalize(x.float())
        return change[..., None] * row * scale

    def _encode(self, rows: torch.Tensor) -> torch.Tensor:
        normalized, _, _ = self._normalize(rows.float())
        if self.offset is not None:
            normalized = normalized - self.offset.float()
        bias = None if self.bias is None else self.bias.float()
        pre = torch.nn.functional.linear(normalized, self.encoder.float(), bias)
        if self.code_scale is not None:
            pre = pre * self.code_scale.float()
        return self.activation(pre)

    def _normalize(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float, torch.Tensor | float]:
        """Return the normalized input, and the shift and scale that a reconstruction is brought back with."""
        match self.normalization:
            case "layer_norm":
                mean = x.mean(-1, keepdim=True)
                deviation = x.std(-1, keepdim=True)  # the unbiased one, as SAELens and ViT-Prisma take it
                return (x - mean) / (deviation + _EPSILON), mean, deviation
            case "constant_norm_rescale":
                scale = x.norm(dim=-1, keepdim=True) / self.width**0.5
                return x / scale, 0.0, scale
            case "none":
                return x * self.input_scale if self.input_scale != 1 else x, 0.0, 1 / self.input_scale

    def _rows(self, latents: torch.Tensor) -> Dictionary:
        def taken(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[latents]

        rows = _mapped(self, taken, {"offset", "decoder_bias"})
        return replace(rows, activation=_mapped(self.activation, taken))


def _mapped(
    record: TensorRecord, change: Callable[[torch.Tensor], torch.Tensor], keep: Container[str] = ()
) -> TensorRecord:
    """Return `record` with every tensor changed but those named in `keep`."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in keep}
    changed: dict[str, Any] = {n: change(v) for n, v in values.items() if isinstance(v, torch.Tensor)}
    return replace(record, **changed)
