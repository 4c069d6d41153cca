"""dictionary_learning (`ae.pt` + `config.json`), with checkpoints and backups of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import Activation, Dictionary, Gated, JumpRelu, Relu, TopK
from actors.vision.dictionaries.files import DictionaryConfig, DictionaryFiles

_TRAINING = """
activation_queue_length adaptive_sparsity_penalty anneal_end anneal_start auxk_alpha bandwidth buffer
decay_start device group_fractions group_sizes group_weights l1_penalty layer lm_name lr n_sparsity_updates
norm_factor p_end p_start resample_steps seed sparsity_coeff sparsity_function sparsity_loss_queue_length
sparsity_penalty sparsity_queue_length sparsity_warmup_steps steps steps_before_annealing target_l0
threshold_beta threshold_start_step top_k_aux trainer_class wandb_name warmup_steps
"""


class DictionaryLearningConfig(DictionaryConfig):
    ignored_keys = frozenset(_TRAINING.split())
    """Keys of training, whose effect is in the weights."""

    dict_class: Literal[
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
        "MatroyshkaBatchTopKSAE",
    ]
    activation_dim: int
    dict_size: int
    k: int | None = None
    submodule_name: str | None = None


def fits(files: DictionaryFiles) -> bool:
    return isinstance(files.config.get("trainer"), Mapping)


def dictionary(files: DictionaryFiles) -> Dictionary:
    """Return the dictionary as `load_dictionary` would encode with it.

    That loader rescales an `AutoEncoder` to decoder columns of norm 1. A backup of training with normalized
    activations is scaled as its final save would have been.
    """
    config = DictionaryLearningConfig.of(files.config["trainer"], files.config_name)
    width, latents, kind = config.activation_dim, config.dict_size, config.dict_class
    scale = _norm_factor(files)
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE", "MatroyshkaBatchTopKSAE"):
        encoder, decoder = files.tensor("W_enc", width, latents).T, files.tensor("W_dec", latents, width)
    else:
        encoder = files.tensor("encoder.weight", latents, width)
        decoder = files.tensor("decoder.weight", width, latents).T
    bias = None
    if kind != "GatedAutoEncoder":
        bias = files.tensor("b_enc" if "W_enc" in files.tensors else "encoder.bias", latents) * scale
    names = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    offset = files.tensor(names.get(kind, "b_dec"), width) * scale
    norms = _norms(decoder) if kind == "AutoEncoder" else None
    made = Dictionary(
        encoder=encoder,
        decoder=decoder,
        activation=_activation(files, config, scale),
        bias=bias,
        offset=None if kind in ("JumpReluAutoEncoder", "AutoEncoderNew") else offset,
        decoder_bias=offset,
        code_scale=norms,
        decoder_scale=None if norms is None else 1 / norms,
        hook=config.submodule_name or "",
    )
    files.refuse_unused(f"dict_class {kind!r}")
    return made


def _activation(files: DictionaryFiles, config: DictionaryLearningConfig, scale: float) -> Activation:
    latents = config.dict_size
    match config.dict_class:
        case "AutoEncoder" | "AutoEncoderNew":
            return Relu()
        case "GatedAutoEncoder":
            gate, magnitude = (files.tensor(name, latents) * scale for name in ("gate_bias", "mag_bias"))
            return Gated(gate, files.tensor("r_mag", latents).float().exp(), magnitude)
        case "JumpReluAutoEncoder":
            return JumpRelu(files.tensor("threshold", latents) * scale)
    k = files.count("k", config.k, latents)
    saved = files.scalar("k")
    if saved is not None and saved != k:
        raise UsageError(f"{files.config_name} says k = {k}, and {files.path} was saved with k = {saved:g}.")
    threshold = files.scalar("threshold")
    files.ignore("group_sizes")
    if config.dict_class == "AutoEncoderTopK":
        return TopK(k)
    if threshold is None:
        raise UsageError(
            f"{files.path} holds no threshold: without it its codes depend on the whole batch.",
            "Save it with a version of dictionary_learning that keeps the threshold.",
        )
    # Below zero it was never estimated, and all positive codes pass.
    return JumpRelu(torch.full((latents,), threshold * scale if threshold >= 0 else threshold))


def _norm_factor(files: DictionaryFiles) -> float:
    """Return the factor that a backup's biases are yet to be multiplied with."""
    if not isinstance(files.root, Mapping) or "ae" not in files.root:
        return 1.0
    factor = files.root.get("norm_factor")
    return 1.0 if factor is None else float(factor)


def _norms(decoder: torch.Tensor) -> torch.Tensor | None:
    norms = decoder.float().norm(dim=-1)
    return None if torch.allclose(norms, torch.ones_like(norms)) else norms
