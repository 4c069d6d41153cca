"""What a file asks for is computed: each format against its formula, written out here in double precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.vision.dictionaries.formats import load
from tests.actors.vision.dictionaries import published
from tests.actors.vision.dictionaries.close import assert_codes_equal
from tests.actors.vision.dictionaries.published import D, F, Tensors, inputs


def normalized(x: torch.Tensor, how: str) -> torch.Tensor:
    match how:
        case "layer_norm":
            centered = x - x.sum(-1, keepdim=True) / D
            return centered / (((centered**2).sum(-1, keepdim=True) / (D - 1)).sqrt() + 1e-5)
        case "constant_norm_rescale":
            return x * D**0.5 / (x**2).sum(-1, keepdim=True).sqrt()
    return x


def top(codes: torch.Tensor, k: int) -> torch.Tensor:
    kept = torch.zeros_like(codes)
    for row, values in zip(kept, codes, strict=True):
        for at in sorted(range(len(values)), key=lambda i: -float(values[i]))[:k]:
            row[at] = values[at].clamp(min=0)
    return kept


def affine(t: Tensors, x: torch.Tensor, how: str = "none", offset: bool = True) -> torch.Tensor:
    y = normalized(x, how) - (t["b_dec"] if offset else 0)
    return y @ t["W_enc"] + t["b_enc"]


def gated(t: Tensors, x: torch.Tensor, how: str) -> torch.Tensor:
    y = (normalized(x, how) - t["b_dec"]) @ t["W_enc"]
    return ((y + t["b_gate"]) > 0) * (y * t["r_mag"].exp() + t["b_mag"]).clamp(min=0)


def check(path: Path, tensors: Tensors, expected: Callable[[Tensors, torch.Tensor], torch.Tensor]) -> None:
    dictionary, _ = load(str(path))
    double = {name: tensor.double() for name, tensor in tensors.items()}
    codes = expected(double, inputs().double())
    assert_codes_equal(dictionary.encode(inputs()), codes, inputs(), dictionary.encoder)


@pytest.mark.parametrize("how", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("offset", [True, False])
def test_sae_lens_normalizes_then_subtracts_then_encodes(tmp_path: Path, how: str, offset: bool) -> None:
    """The normalizations of published files, with the offset and without."""
    t = published.encoder()
    path = published.sae_lens(tmp_path, t, normalize_activations=how, apply_b_dec_to_input=offset)
    check(path, t, lambda t, x: affine(t, x, how, offset).clamp(min=0))


def test_a_gated_dictionary_of_sae_lens_is_gated(tmp_path: Path) -> None:
    """A gate decides, and a magnitude of its own is what passes."""
    t = published.encoder("b_gate", "b_mag", "r_mag")
    del t["b_enc"]
    path = published.sae_lens(tmp_path, t, architecture="gated", normalize_activations="layer_norm")
    check(path, t, lambda t, x: gated(t, x, "layer_norm"))


def test_a_jump_relu_of_sae_lens_is_zero_up_to_its_threshold(tmp_path: Path) -> None:
    """Strictly above passes; in the configuration of version 6 or of 3."""
    t = published.encoder("threshold")
    path = published.sae_lens(
        tmp_path, t, architecture="jumprelu", metadata={"sae_lens_version": "6.0.0", "hook_name": "blocks.1"}
    )
    check(path, t, lambda t, x: (p := affine(t, x)).clamp(min=0) * (p > t["threshold"]))
    assert load(str(path))[0].hook == "blocks.1"


@pytest.mark.parametrize(
    "config",
    [{"architecture": "topk", "k": 3}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}],
)
@pytest.mark.parametrize("rescaled", [True, False])
def test_top_k_of_sae_lens_chooses_after_the_rescaling(
    tmp_path: Path, config: dict[str, Any], rescaled: bool
) -> None:
    """Norms of the decoder's rows are multiplied before the choice; old files name top-k as an activation."""
    t = published.encoder()
    path = published.sae_lens(tmp_path, t, rescale_acts_by_decoder_norm=rescaled, **config)

    def expected(t: Tensors, x: torch.Tensor) -> torch.Tensor:
        return top(affine(t, x) * (t["W_dec"].norm(dim=1) if rescaled else 1), 3)

    check(path, t, expected)


def test_the_factor_of_the_training_data_is_read_from_its_own_file(tmp_path: Path) -> None:
    """expected_average_only_in multiplies the input, in files of today and of when it was called true."""
    t = published.encoder()
    for asked in ("expected_average_only_in", True):
        path = published.sae_lens(tmp_path, t, normalize_activations=asked)
        (path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
        check(path, t, lambda t, x: affine(t, 0.25 * x).clamp(min=0))
        dictionary, _ = load(str(path))
        codes = dictionary.encode(inputs())
        expected = 4 * (codes @ t["W_dec"] + t["b_dec"])
        torch.testing.assert_close(dictionary.decode(codes, inputs()), expected)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batch_top_k_of_sae_lens_is_read_by_its_threshold(tmp_path: Path, architecture: str) -> None:
    """One image's codes do not depend on another's."""
    t = {**published.encoder(), "topk_threshold": torch.tensor(0.7, dtype=torch.double)}
    path = published.sae_lens(tmp_path, t, architecture=architecture, k=2.5)
    check(path, t, lambda t, x: (p := affine(t, x)).clamp(min=0) * (p > 0.7))


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_the_factors_of_fine_tuning_are_for_decoding_alone(tmp_path: Path, value: float) -> None:
    """Some versions of SAELens saved ones where nothing was fine-tuned."""
    t = {**published.encoder(), "scaling_factor": torch.full((F,), value)}
    path = published.sae_lens(tmp_path, t, finetuning_scaling_factor=value != 1)
    check(path, t, lambda t, x: affine(t, x).clamp(min=0))
    dictionary, _ = load(str(path))
    codes = dictionary.encode(inputs())
    torch.testing.assert_close(dictionary.decode(codes, inputs()), value * codes @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("how", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("activation", ["relu", "tanh-relu", "topk"])
def test_prisma_always_subtracts_the_offset(tmp_path: Path, how: str, activation: str) -> None:
    """Its three activations and its three normalizations."""
    t = published.prisma_tensors()
    kwargs = {"k": 4} if activation == "topk" else {}
    path = published.prisma(
        tmp_path, t, normalize_activations=how, activation_fn_str=activation, activation_fn_kwargs=kwargs
    )

    def expected(t: Tensors, x: torch.Tensor) -> torch.Tensor:
        positive = affine(t, x, how).clamp(min=0)
        return {"relu": positive, "tanh-relu": positive.tanh(), "topk": top(positive, 4)}[activation]

    check(path, t, expected)
    assert load(str(path))[0].hook == "blocks.9.hook_resid_post"


def test_a_gated_dictionary_of_prisma_ignores_the_bias_that_it_holds(tmp_path: Path) -> None:
    """Its files hold b_enc, which its encoder does not use."""
    t = published.prisma_tensors("b_gate", "b_mag", "r_mag")
    path = published.prisma(tmp_path, t, architecture="gated")
    check(path, t, lambda t, x: gated(t, x, "layer_norm"))


@pytest.mark.parametrize("how", ["none", "layer_norm", "constant_norm_rescale"])
def test_a_planted_dictionary_restores_its_input_whatever_the_normalization(tmp_path: Path, how: str) -> None:
    """Orthonormal atoms and their opposites: the reconstruction is brought back to the scale of each
    position.
    """
    atoms = torch.linalg.qr(published.drawn(a=(D, D))["a"]).Q
    offset = published.drawn(b=(D,))["b"]
    t = {"W_enc": torch.cat([atoms.T, -atoms.T], 1), "W_dec": torch.cat([atoms, -atoms])}
    t = {**t, "b_enc": torch.zeros(2 * D), "b_dec": offset}
    dictionary, _ = load(str(published.prisma(tmp_path, t, normalize_activations=how)))
    x = 10 * inputs()
    # layer_norm divides by the deviation plus 1e-5, and multiplies by the deviation.
    torch.testing.assert_close(dictionary.decode(dictionary.encode(x), x), x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_takes_the_largest_of_all_or_of_each_group(tmp_path: Path, activation: str) -> None:
    """The offset is subtracted whatever normalize_decoder says."""
    path = published.sparsify(tmp_path / "layers.3", activation=activation, normalize_decoder=True)
    made = published.drawn(W_dec=(F, D), b_dec=(D,), bias=(F,), weight=(F, D))
    t = {"W_enc": made["weight"].T, "b_enc": made["bias"], "b_dec": made["b_dec"]}

    def expected(t: Tensors, x: torch.Tensor) -> torch.Tensor:
        positive = affine(t, x).clamp(min=0)
        halves = positive.reshape(len(x), 2, F // 2)
        return (
            top(positive, 2) if activation == "topk" else torch.cat([top(h, 1) for h in halves.unbind(1)], 1)
        )

    check(path, t, expected)


def dictionary_learning(folder: Path, name: str, tensors: dict[str, Any], **trainer: Any) -> Path:
    config = {"dict_class": name, "activation_dim": D, "dict_size": F, "lr": 1e-3, **trainer}
    return published.torch_file(folder / "ae.pt", tensors, {"trainer": config, "buffer": {"ctx_len": 128}})


def test_numbers_that_dictionary_learning_saves_as_tensors_are_numbers(tmp_path: Path) -> None:
    """A top-k holds a threshold that its encoder does not use; a batch top-k of the same names uses it."""
    t = published.encoder()
    linear = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "b_dec": t["b_dec"]}
    linear |= {
        "decoder.weight": t["W_dec"].T.contiguous(),
        "k": torch.tensor(3),
        "threshold": torch.tensor(0.8),
    }
    check(dictionary_learning(tmp_path, "AutoEncoderTopK", linear, k=3), t, lambda t, x: top(affine(t, x), 3))
    above = lambda t, x: (p := affine(t, x)).clamp(min=0) * (p > torch.tensor(0.8).double())  # noqa: E731
    check(dictionary_learning(tmp_path, "BatchTopKSAE", linear, k=3), t, above)


def test_dictionary_learning_rescales_one_class_and_subtracts_in_some(tmp_path: Path) -> None:
    """AutoEncoder has unit columns when it is loaded; JumpReluAutoEncoder does not subtract its offset."""
    t = published.encoder("threshold")
    check(
        dictionary_learning(tmp_path, "JumpReluAutoEncoder", t),
        t,
        lambda t, x: (p := affine(t, x, offset=False)).clamp(min=0) * (p > t["threshold"]),
    )
    linear = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "bias": t["b_dec"]}
    path = dictionary_learning(
        tmp_path, "AutoEncoder", {**linear, "decoder.weight": t["W_dec"].T.contiguous()}
    )
    check(path, t, lambda t, x: affine(t, x).clamp(min=0) * t["W_dec"].norm(dim=1))
    (path / "checkpoints").mkdir()
    (path / "ae.pt").rename(path / "checkpoints/ae_100.pt")
    check(path / "checkpoints/ae_100.pt", t, lambda t, x: affine(t, x).clamp(min=0) * t["W_dec"].norm(dim=1))


def test_a_backup_of_dictionary_learning_is_scaled_as_its_final_save(tmp_path: Path) -> None:
    """Training divided the activations by a factor that only the backup holds."""
    t = published.encoder("threshold")
    backup = {"step": 5, "ae": t, "optimizer": {"state": {}}, "config": {}, "norm_factor": 3.0}
    path = dictionary_learning(tmp_path, "JumpReluAutoEncoder", backup)

    def expected(t: Tensors, x: torch.Tensor) -> torch.Tensor:
        p = affine(t, x / 3, offset=False)
        return 3 * p.clamp(min=0) * (p > t["threshold"])

    check(path, t, expected)


def test_a_state_dict_of_overcomplete_needs_a_configuration(tmp_path: Path) -> None:
    """The same tensors are a TopKSAE or a BatchTopKSAE by their configuration."""
    t = published.drawn(W_enc=(D, F), b_enc=(F,), atoms=(F, D))
    state = {
        "encoder.final_block.0.weight": t["W_enc"].T.contiguous(),
        "encoder.final_block.0.bias": t["b_enc"],
    }
    state |= {"dictionary._weights": t["atoms"], "dictionary.multiplier": torch.tensor(0.5)}
    t["b_dec"] = torch.zeros(D)
    path = published.torch_file(tmp_path / "sae.pt", state, {"class": "TopKSAE", "top_k": 3})
    check(path, t, lambda t, x: top(affine(t, x), 3))
    atoms = t["atoms"] / t["atoms"].norm(dim=1, keepdim=True) * torch.tensor(0.5).exp()
    torch.testing.assert_close(load(str(path))[0].decoder, atoms)
    config = {"class": "overcomplete.sae.BatchTopKSAE", "running_threshold": 0.75}
    (path / "config.json").write_text(json.dumps(config))
    check(path, t, lambda t, x: (p := affine(t, x)).clamp(min=0) * (p >= 0.75))
