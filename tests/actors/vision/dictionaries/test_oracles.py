"""Codes and reconstructions equal those of the library that wrote the file.

The libraries are in the extra `oracles`; what is not installed is skipped. ViT-Prisma's dictionaries are in
no package: their formula is written out in `test_formats.py`.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.vision.dictionaries.formats import load
from actors.vision_libraries import import_torchvision
from tests.actors.vision.dictionaries.close import assert_codes_equal

pytestmark = pytest.mark.exhaustive

D, F, N = 12, 40, 64


def library(name: str) -> Any:
    """Import an oracle; warnings of its dependencies say nothing about this project."""
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"{name} is not installed: pip install -c constraints.txt -e '.[oracles]'")
        return importlib.import_module(name)


@pytest.fixture(autouse=True)
def _quiet_and_seeded() -> Iterator[None]:
    """Seed the weights that a library draws, and keep its warnings and loggers out of the run."""
    torch.manual_seed(0)
    level = logging.root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.root.setLevel(level)


def inputs() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(3)) * 2 + 0.5


def randomize(module: torch.nn.Module) -> None:
    """Draw parameters that a fresh module leaves at zero or ties to each other."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        if name == "threshold":
            parameter.data = torch.rand(parameter.shape, generator=generator)
        elif name != "thresholds":
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4


def check(path: Path, codes: torch.Tensor, decoded: torch.Tensor, x: torch.Tensor | None = None) -> None:
    x = inputs() if x is None else x
    dictionary, _ = load(str(path))
    ours = dictionary.encode(x)
    assert_codes_equal(ours, codes, x, dictionary.encoder)
    back = dictionary.decode(ours, x)
    size = float(ours.norm(dim=-1).max() * dictionary.decoder.norm() + back.abs().max())
    assert float((back - decoded).abs().max()) <= 4 * (D + F) * torch.finfo(torch.float32).eps * size


NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("kind", ["Standard", "Gated", "JumpReLU", "TopK", "TopK rescaled"])
def test_sae_lens(tmp_path: Path, kind: str, offset: bool, normalization: str) -> None:
    """Every architecture, with every normalization, with and without the offset."""
    saes = library("sae_lens")
    name, _, rescaled = kind.partition(" ")
    more: dict[str, Any] = {"k": 5, "rescale_acts_by_decoder_norm": bool(rescaled)} if name == "TopK" else {}
    config = getattr(saes, f"{name}SAEConfig")(
        d_in=D, d_sae=F, apply_b_dec_to_input=offset, normalize_activations=normalization, **more
    )
    sae = getattr(saes, f"{name}SAE")(config)
    randomize(sae)
    sae.save_model(tmp_path)
    with torch.no_grad():
        codes = sae.encode(inputs())
        check(tmp_path, codes, sae.decode(codes))


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK"])
@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("factor", [None, 0.25])
def test_sae_lens_batch_top_k(tmp_path: Path, kind: str, rescaled: bool, factor: float | None) -> None:
    """A training file with its data's factor in another file, and the published one, give the same codes."""
    saes = library("sae_lens")
    more = {"matryoshka_widths": [8, F]} if kind.startswith("M") else {}
    asked = "none" if factor is None else "expected_average_only_in"
    config = getattr(saes, f"{kind}TrainingSAEConfig")(
        d_in=D, d_sae=F, k=4, rescale_acts_by_decoder_norm=rescaled, normalize_activations=asked, **more
    )
    sae = getattr(saes, f"{kind}TrainingSAE")(config)
    randomize(sae)
    sae.topk_threshold += 0.6
    sae.save_model(tmp_path / "training")
    if factor is not None:
        (tmp_path / "training/activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
        sae.fold_activation_norm_scaling_factor(factor)
    sae.save_inference_model(tmp_path / "published")
    published = saes.SAE.load_from_disk(tmp_path / "published")
    with torch.no_grad():
        codes = published.encode(inputs())
        for folder in ("published", "training"):
            check(tmp_path / folder, codes, published.decode(codes))


@pytest.mark.parametrize("flat", [{"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, {}])
@pytest.mark.parametrize("asked", ["none", None, False, "layer_norm"])
def test_sae_lens_before_version_6(tmp_path: Path, flat: dict[str, Any], asked: Any) -> None:
    """One flat configuration, with the names and values of its time."""
    saes = library("sae_lens")
    sae = saes.StandardSAE(saes.StandardSAEConfig(d_in=D, d_sae=F))
    randomize(sae)
    sae.save_model(tmp_path)
    old = {"d_in": D, "d_sae": F, "dtype": "torch.float32", "hook_point": "blocks.3.hook_mlp_out", "lr": 0.1}
    (tmp_path / "cfg.json").write_text(json.dumps({**old, **flat, "normalize_activations": asked}))
    loaded = saes.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        codes = loaded.encode(inputs())
        check(tmp_path, codes, loaded.decode(codes))
    assert load(str(tmp_path))[0].hook == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify(tmp_path: Path, activation: str) -> None:
    """Top-k and groupmax, saved by the library."""
    coders = library("sparsify")
    coder = coders.SparseCoder(D, coders.SparseCoderConfig(activation=activation, num_latents=F, k=5))
    randomize(coder)
    coder.save_to_disk(tmp_path / "layers.3")
    with torch.no_grad():
        found = coder.encode(inputs())
        codes = torch.zeros(N, F).scatter_(-1, found.top_indices, found.top_acts)
        check(tmp_path / "layers.3", codes, codes @ coder.W_dec + coder.b_dec)


DICT_CLASSES = {
    "AutoEncoder": "dictionary_learning.dictionary",
    "AutoEncoderNew": "dictionary_learning.dictionary",
    "GatedAutoEncoder": "dictionary_learning.dictionary",
    "JumpReluAutoEncoder": "dictionary_learning.dictionary",
    "AutoEncoderTopK": "dictionary_learning.trainers.top_k",
    "BatchTopKSAE": "dictionary_learning.trainers.batch_top_k",
    "MatryoshkaBatchTopKSAE": "dictionary_learning.trainers.matryoshka_batch_top_k",
}


@pytest.mark.parametrize("threshold", [-1.0, 0.8])
@pytest.mark.parametrize("name", DICT_CLASSES)
def test_dictionary_learning(tmp_path: Path, name: str, threshold: float) -> None:
    """Every class, loaded by the library's own loader."""
    kind = getattr(library(DICT_CLASSES[name]), name)
    arguments: dict[str, Any] = {"k": 5} if "TopK" in name else {}
    made = kind(D, F, **arguments, **({"group_sizes": [8, F - 8]} if name.startswith("M") else {}))
    randomize(made)
    if "TopK" in name:
        made.threshold.fill_(threshold)
    torch.save(made.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, "lr": 1e-3, "layer": 4, **arguments}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    utils = library("dictionary_learning.utils")
    loaded, _ = utils.load_dictionary(str(tmp_path), "cpu")
    with torch.no_grad():
        codes = loaded.encode(inputs())
        check(tmp_path, codes, loaded.decode(codes))


@pytest.mark.parametrize("name", [n for n in DICT_CLASSES if n != "AutoEncoderNew"])
def test_a_backup_of_dictionary_learning_is_read_as_its_final_save(tmp_path: Path, name: str) -> None:
    """Weights that were trained on divided activations are scaled by the factor that the backup holds."""
    kind = getattr(library(DICT_CLASSES[name]), name)
    arguments: dict[str, Any] = {"k": 5} if "TopK" in name else {}
    made = kind(D, F, **arguments, **({"group_sizes": [8, F - 8]} if name.startswith("M") else {}))
    randomize(made)
    if "TopK" in name:
        made.threshold.fill_(0.3)
    state = {key: value.clone() for key, value in made.state_dict().items()}
    torch.save(
        {"step": 3, "ae": state, "optimizer": {}, "config": {}, "norm_factor": 2.5}, tmp_path / "ae.pt"
    )
    trainer = {"dict_class": name, "activation_dim": D, "dict_size": F, **arguments}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    if not hasattr(made, "scale_biases"):
        pytest.skip(f"this version of dictionary_learning cannot scale a {name}")
    made.scale_biases(2.5)
    if name == "AutoEncoder":
        made.normalize_decoder()
    with torch.no_grad():
        codes = made.encode(inputs())
        check(tmp_path, codes, made.decode(codes))


def overcomplete_sae(name: str, **more: Any) -> Any:
    saes = library("overcomplete.sae")
    if name.startswith("RA"):
        more["points"] = torch.randn(30, D, generator=torch.Generator().manual_seed(5))
    made = getattr(saes, name)(D, F, **more)
    randomize(made)
    made.train()
    for _ in range(3):
        made(inputs())
    return made.eval()


OVERCOMPLETE = [
    ("SAE", {}),
    ("SAE", {"dictionary_params": {"normalization": "max_l1", "use_multiplier": True}}),
    ("TopKSAE", {"top_k": 5}),
    ("TopKSAE", {}),
    ("JumpSAE", {}),
    ("BatchTopKSAE", {"top_k": 5 * N}),
    ("RATopKSAE", {"top_k": 5, "delta": 0.5}),
    ("RAJumpSAE", {}),
]


@pytest.mark.parametrize(("name", "more"), OVERCOMPLETE)
def test_overcomplete(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    """A whole module, and its state dict with a configuration."""
    made = overcomplete_sae(name, **more)
    with torch.no_grad():
        _, codes, decoded = made(inputs())
        torch.save(made, tmp_path / "whole.pt")
        check(tmp_path / "whole.pt", codes, decoded)
    (tmp_path / "state").mkdir()
    torch.save(made.state_dict(), tmp_path / "state/sae.pt")
    config: dict[str, Any] = {"class": name, "delta": more.get("delta", 1.0)}
    config |= {"normalization": more.get("dictionary_params", {}).get("normalization", "l2")}
    config |= {key: float(getattr(made, key)) for key in ("top_k", "running_threshold") if hasattr(made, key)}
    (tmp_path / "state/config.json").write_text(json.dumps(config))
    check(tmp_path / "state", codes, decoded)


@pytest.mark.parametrize("bias", [True, False])
def test_overcomplete_tied(tmp_path: Path, bias: bool) -> None:
    """An encoder that is the dictionary's transpose, and one that was untied from it."""
    for change in ("tied", "untied"):
        made = getattr(overcomplete_sae("TopKSAE", top_k=5), change)(bias=bias).train()
        made(inputs())
        made.eval()
        torch.save(made, tmp_path / f"{change}.pt")
        with torch.no_grad():
            _, codes, decoded = made(inputs())
            check(tmp_path / f"{change}.pt", codes, decoded)
