"""Small dictionaries as libraries lay them out, written by hand: D channels, F latents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D, F = 6, 10

Tensors = dict[str, torch.Tensor]


def inputs(n: int = 32) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(3)) * 2 + 0.5


def drawn(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def encoder(*more: str) -> Tensors:
    """Tensors named as in SAELens and ViT-Prisma; each of `more` is one number a latent."""
    return drawn(W_enc=(D, F), b_enc=(F,), W_dec=(F, D), b_dec=(D,), **dict.fromkeys(more, (F,)))


def sae_lens(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encoder() if tensors is None else tensors, folder / "sae_weights.safetensors")
    whole = {"architecture": "standard", "d_in": D, "d_sae": F, **config}
    (folder / "cfg.json").write_text(json.dumps(whole))
    return folder


def prisma(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    whole = {
        "architecture": "standard",
        "d_in": D,
        "expansion_factor": 2,
        "hook_point_layer": 9,
        "layer_subtype": "hook_resid_post",
        "cls_token_only": False,
        "normalize_activations": "layer_norm",
        "activation_fn_str": "relu",
        "activation_fn_kwargs": {},
        "l1_coefficient": 1e-5,
        **config,
    }
    return torch_file(folder / "n_images_26000.pt", prisma_tensors() if tensors is None else tensors, whole)


def prisma_tensors(*more: str) -> Tensors:
    return drawn(
        W_enc=(D, 2 * D), b_enc=(2 * D,), W_dec=(2 * D, D), b_dec=(D,), **dict.fromkeys(more, (2 * D,))
    )


def torch_file(path: Path, content: object, config: Mapping[str, Any] | None) -> Path:
    """Save with torch, beside a config.json; return the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config))
    return path.parent


def sparsify(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = drawn(W_dec=(F, D), b_dec=(D,), bias=(F,), weight=(F, D))
    names = {"bias": "encoder.bias", "weight": "encoder.weight"}
    save_file({names.get(name, name): tensor for name, tensor in made.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps({"d_in": D, "k": 2, "expansion_factor": 4, "num_latents": F, **config})
    )
    return folder
