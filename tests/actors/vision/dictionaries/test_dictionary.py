"""A few latents cost their own rows, all of them a block at a time, and the file is not held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actors.vision.dictionaries import dictionary as room
from actors.vision.dictionaries.dictionary import (
    Activation,
    Dictionary,
    Gated,
    GroupMax,
    JumpRelu,
    Relu,
    TanhRelu,
    TopK,
)
from actors.vision.dictionaries.formats import load
from actors.vision.readout.units import Readout
from actors.vision.sweep.exemplars import ExemplarStore
from tests.actors.vision.dictionaries import published
from tests.actors.vision.dictionaries.published import D, F, drawn, inputs

t = drawn(encoder=(F, D), decoder=(F, D), bias=(F,), offset=(D,), a=(F,), b=(F,), c=(F,))

ACTIVATIONS: list[Activation] = [
    Relu(),
    TanhRelu(),
    JumpRelu(t["a"]),
    JumpRelu(t["a"], inclusive=True),
    Gated(t["a"], t["b"].exp(), t["c"]),
    TopK(3),
    GroupMax(2),
]


def made(activation: Activation) -> Dictionary:
    return Dictionary(t["encoder"], t["decoder"], activation, t["bias"], t["offset"], code_scale=t["b"].exp())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_a_few_latents_are_as_among_all(activation: Activation) -> None:
    """Also where the activation chooses among all of them, and in any order."""
    x = inputs(12).reshape(3, 2, 2, D)
    dictionary = made(activation)
    whole = dictionary.encode(x)
    assert whole.shape == (3, 2, 2, F)
    bound = 4 * (D + 2) * torch.finfo(torch.float32).eps * float(whole.max() + 10)
    torch.testing.assert_close(dictionary.encode(x, [7, 1]), whole[..., [7, 1]], rtol=0, atol=bound)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_codes_do_not_depend_on_the_size_of_a_block(
    activation: Activation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporaries are as large as a block, and a batch may be many."""
    dictionary = made(activation)
    whole = dictionary.encode(inputs())
    monkeypatch.setattr(room, "_BLOCK_BYTES", 4 * F * 5)
    bound = 4 * (D + 2) * torch.finfo(torch.float32).eps * float(whole.max() + 10)
    torch.testing.assert_close(dictionary.encode(inputs()), whole, rtol=0, atol=bound)


def test_on_the_threshold_is_above_it_only_where_inclusive() -> None:
    """overcomplete keeps what equals its threshold; SAELens and dictionary_learning do not."""
    exact = torch.tensor([[1.0, 2.0, 3.0]])
    assert JumpRelu(torch.full((3,), 2.0))(exact.clone()).tolist() == [[0, 0, 3]]
    assert JumpRelu(torch.full((3,), 2.0), inclusive=True)(exact.clone()).tolist() == [[0, 2, 3]]


def test_equal_values_at_the_last_place_are_not_all_kept() -> None:
    """Top-k keeps k of them, whichever."""
    codes = TopK(2)(torch.tensor([[3.0, 1.0, 1.0, 1.0]]))
    assert sorted(codes[0].tolist()) == [0, 0, 1, 3]


def test_half_precision_weights_and_inputs_are_computed_in_single(tmp_path: Path) -> None:
    """Codes are those of the weights as they were saved."""
    half = {name: tensor.half() for name, tensor in published.encoder().items()}
    single = {name: tensor.float() for name, tensor in half.items()}
    a, b = (load(str(published.sae_lens(tmp_path / n, w)))[0] for n, w in (("a", half), ("b", single)))
    x = inputs().half()
    assert torch.equal(a.encode(x), b.encode(x.float()))
    assert torch.equal(a.on(torch.device("cpu")).encode(x), b.encode(x.float()))


def test_the_encoder_is_copied_from_the_file_and_the_decoder_is_not(tmp_path: Path) -> None:
    """A file that is written anew while a network is studied does not change what is read."""
    mapped, _ = load(str(published.sae_lens(tmp_path)))
    copied = mapped.on(torch.device("cpu"))
    assert copied.encoder.data_ptr() != mapped.encoder.data_ptr()
    assert copied.decoder.data_ptr() == mapped.decoder.data_ptr()
    assert torch.equal(copied.encode(inputs()), mapped.encode(inputs()))


def test_the_digest_is_of_weights_and_configuration(tmp_path: Path) -> None:
    """The stimulus bank never mixes two readings."""
    digests = {load(str(published.sae_lens(tmp_path / name)))[1] for name in ("a", "b")}
    assert len(digests) == 1
    digests.add(load(str(published.sae_lens(tmp_path, apply_b_dec_to_input=False)))[1])
    changed = {**published.encoder(), "b_enc": torch.zeros(F)}
    digests.add(load(str(published.sae_lens(tmp_path, changed)))[1])
    assert len(digests) == 3


def test_exemplars_of_a_rewritten_dictionary_are_computed_again(tmp_path: Path) -> None:
    """The store is named after paths, and the same path may hold another dictionary tomorrow."""
    folder, store = published.sae_lens(tmp_path / "sae"), ExemplarStore(tmp_path / "store")
    readouts = [Readout("deep", "latent", str(path)) for path in (folder, folder / "sae_weights.safetensors")]
    before = [store.path(readout) for readout in readouts]
    assert before == [store.path(readout) for readout in readouts]
    published.sae_lens(folder, architecture="topk", k=3)
    assert not set(before) & {store.path(readout) for readout in readouts}
