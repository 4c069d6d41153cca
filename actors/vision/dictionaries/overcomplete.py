"""overcomplete: a whole module (`torch.save(sae)`), or a state dict with a `config.json` of what it is of.

The library keeps no configuration, and `top_k` and `running_threshold` are in no state dict. So one is needed
next to it: {"class": "TopKSAE", "top_k": 32}; also `running_threshold`, `normalization`, `delta`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from actors.errors import UsageError
from actors.vision.dictionaries.dictionary import Activation, Dictionary, JumpRelu, Relu, TopK
from actors.vision.dictionaries.files import DictionaryConfig, DictionaryFiles, Stub

_TINY = 1e-8
"""Added to norms by the library."""

_ATTRIBUTES = ("top_k", "running_threshold")


class OvercompleteConfig(DictionaryConfig):
    ignored_keys = frozenset({"threshold_momentum", "use_multiplier", "kernel", "bandwidth", "device"})

    sae: Literal["SAE", "TopKSAE", "JumpSAE", "BatchTopKSAE", "RATopKSAE", "RAJumpSAE"]
    top_k: int | None = None
    running_threshold: float | None = None
    normalization: Literal["l2", "max_l2", "l1", "max_l1", "identity"] = "l2"
    delta: float = 1.0


def fits(files: DictionaryFiles) -> bool:
    return any(name.startswith("dictionary.") for name in files.tensors)


def dictionary(files: DictionaryFiles) -> Dictionary:
    """Return the dictionary as the module encodes in evaluation: no input normalization, no offset."""
    config = _config(files)
    decoder = _atoms(files, config)
    encoder, bias = _encoder(files, decoder)
    made = Dictionary(encoder, decoder, _activation(files, config, len(decoder)), bias)
    files.refuse_unused(f"{config.sae} with a linear encoder")
    return made


def _config(files: DictionaryFiles) -> OvercompleteConfig:
    if not isinstance(files.root, Stub):
        if "class" not in files.config:
            raise UsageError(
                f"{files.path} is a state dict of overcomplete, which does not say how codes are chosen.",
                f"Write {files.path.with_name('config.json')} as it was made "
                '({"class": "TopKSAE", "top_k": 32}), '
                "or save the whole module with torch.save.",
            )
        values = {("sae" if key == "class" else key): value for key, value in files.config.items()}
        values["sae"] = str(values["sae"]).rpartition(".")[2]
        return OvercompleteConfig.of(values, files.config_name)
    module = vars(files.root)
    atoms = vars(module["_modules"]["dictionary"])
    values = {name: _number(module[name]) for name in _ATTRIBUTES if module.get(name) is not None}
    values["sae"] = files.root.class_name
    _check_encoder(files, module["_modules"]["encoder"])
    if "delta" in atoms:
        values["delta"] = _number(atoms["delta"])
    else:
        function = getattr(atoms.get("normalization"), "full_name", "")
        values["normalization"] = function.rpartition(".")[2].removeprefix("normalize_")
    return OvercompleteConfig.of(values, str(files.path))


def _check_encoder(files: DictionaryFiles, encoder: object) -> None:
    """Raise UsageError if a pickled encoder is more than one linear layer and a ReLU."""
    assert isinstance(encoder, Stub)
    if encoder.class_name == "TieableEncoder":
        return
    parts = vars(encoder)["_modules"]
    final = parts.get("final_block")
    names = [] if final is None else [m.class_name for m in vars(final)["_modules"].values()]
    output = getattr(parts.get("final_activation"), "class_name", "")
    blocks = vars(parts["mlp_blocks"])["_modules"] if "mlp_blocks" in parts else {}
    if encoder.class_name != "MLPEncoder" or blocks or names != ["Linear", "Identity"] or output != "ReLU":
        layers = " + ".join([*names, output or "no activation"])
        description = f"{encoder.class_name} of {len(blocks)} blocks and {layers}"
        raise UsageError(
            f"{files.path} has an encoder that is not read: {description}.",
            "A linear or tied encoder with ReLU is read; name another dictionary.",
        )


def _encoder(files: DictionaryFiles, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    latents, width = atoms.shape
    tied = [name for name in files.tensors if name.startswith("encoder.tied_to.")]
    if tied:
        files.ignore(*tied)  # the dictionary once more
        return atoms, files.optional("encoder.bias", latents)
    if "encoder.weight" in files.tensors:
        return files.tensor("encoder.weight", latents, width), files.optional("encoder.bias", latents)
    weight = files.tensor("encoder.final_block.0.weight", latents, width)
    return weight, files.tensor("encoder.final_block.0.bias", latents)


def _activation(files: DictionaryFiles, config: OvercompleteConfig, latents: int) -> Activation:
    match config.sae:
        case "SAE":
            return Relu()
        case "TopKSAE" | "RATopKSAE":
            return TopK(files.count("top_k", config.top_k, latents))
        case "JumpSAE" | "RAJumpSAE":
            files.ignore("bandwidth")
            return JumpRelu(files.tensor("thresholds", latents).float().exp(), inclusive=True)
        case "BatchTopKSAE":
            if config.running_threshold is None:
                raise UsageError(
                    f"{files.config_name} holds no running_threshold: codes then depend on the whole batch.",
                    "Save the whole trained module, or add running_threshold to the configuration.",
                )
            return JumpRelu(torch.full((latents,), config.running_threshold), inclusive=True)


def _atoms(files: DictionaryFiles, config: OvercompleteConfig) -> torch.Tensor:
    """Return the atoms (F, D) as in evaluation: training leaves its last step without the constraints."""
    multiplier = files.scalar("dictionary.multiplier") or 0.0
    if "dictionary.C" not in files.tensors:
        weights = _matrix(files, "dictionary._weights")
        return _normalized(weights, config.normalization) * torch.tensor(multiplier).exp()
    points, mixture, relax = (_matrix(files, f"dictionary.{name}") for name in ("C", "W", "Relax"))
    mixture = mixture.relu()
    mixture = mixture / (mixture.sum(-1, keepdim=True) + _TINY)
    relax = relax * (config.delta / relax.norm(dim=-1, keepdim=True)).clamp(max=1)
    return (mixture @ points + relax) * torch.tensor(multiplier).exp()


def _matrix(files: DictionaryFiles, name: str) -> torch.Tensor:
    tensor = files.tensors.get(name)
    rows, columns = tensor.shape if tensor is not None and tensor.ndim == 2 else (0, 0)
    return files.tensor(name, rows, columns).float()


def _normalized(atoms: torch.Tensor, how: str) -> torch.Tensor:
    if how == "identity":
        return atoms
    norms = atoms.norm(p=2 if how.endswith("l2") else 1, dim=1, keepdim=True)
    return atoms / (norms.amax(0, keepdim=True) if how.startswith("max") else norms + _TINY)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
