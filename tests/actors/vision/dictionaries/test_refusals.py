"""What is not read is refused by name, and nothing that a file holds is run."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from actors.errors import UsageError
from actors.vision.dictionaries.formats import load
from tests.actors.vision.dictionaries import published
from tests.actors.vision.dictionaries.published import D, F, encoder, inputs


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "gated", "k": 4}, "'r_mag'"),
        ({"architecture": "temporal"}, "architecture = 'temporal'"),
        ({"architecture": "transcoder"}, "architecture = 'transcoder'"),
        ({"architecture": "topk"}, "must give k from 1 to 10"),
        ({"architecture": "topk", "k": 11}, "it gives 11"),
        ({"architecture": "batchtopk", "k": 4}, "'topk_threshold'"),
        ({"normalize_activations": "batch_norm"}, "normalize_activations = 'batch_norm'"),
        ({"normalize_activations": "covariance_whitening"}, "fold_activation_whitening"),
        ({"normalize_activations": "expected_average_only_in"}, "whose factor no file has"),
        ({"normalize_activations": True}, "normalize_activations = True"),
        ({"activation_fn": "gelu"}, "activation_fn = 'gelu'"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "signed": True}}, "signed"),
        ({"activation_fn": "topk", "architecture": "jumprelu"}, "only 'standard'"),
        ({"reshape_activations": "patches"}, "reshape_activations = 'patches'"),
        ({"whiten": 0.3}, "whiten = 0.3, which is not known"),
        ({"d_in": None}, "d_in"),
        ({"d_sae": 2 * F}, "needs floating point of shape (6, 20)"),
    ],
)
def test_sae_lens_configurations_with_unknown_demands_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    """Every value that is not computed, and every key that could change codes."""
    assert words in refusal(published.sae_lens(tmp_path, **config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"layer_subtype": "attn.hook_z"}, "takes the bias of the values away"),
        ({"is_transcoder": True}, "is_transcoder = True"),
        ({"architecture": "jumprelu"}, "architecture = 'jumprelu'"),
        ({"architecture": "gated", "activation_fn_str": "topk"}, "the architecture 'gated'"),
        ({"hook_point_head_index": 2}, "hook_point_head_index = 2"),
        ({"activation_fn_str": "topk"}, "activation_fn_kwargs.k"),
        ({"normalize_activations": None}, "normalize_activations = None"),
        ({"activation_fn_kwargs": {"postact_fn": "abs"}}, "postact_fn"),
        ({"rotate": True}, "rotate = True, which is not known"),
    ],
)
def test_prisma_configurations_with_unknown_demands_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    """Heads whose values no module gives, and what its library does not compute either."""
    assert words in refusal(published.prisma(tmp_path, **config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"transcode": True}, "transcode = True"),
        ({"signed": True}, "signed = True"),
        ({"skip_connection": True}, "skip_connection = True"),
        ({"activation": "groupmax", "k": 3}, "does not divide 10"),
        ({"k": 0}, "from 1 to 10"),
    ],
)
def test_sparsify_configurations_with_unknown_demands_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    """Transcoders, signed codes and groups that do not come out even."""
    assert words in refusal(published.sparsify(tmp_path, **config))


def test_dictionary_learning_is_refused_where_files_contradict(tmp_path: Path) -> None:
    """Another k than was saved, an unknown class, and a threshold that an old version did not keep."""
    t = encoder()
    trainer = {"dict_class": "MatryoshkaBatchTopKSAE", "activation_dim": D, "dict_size": F, "k": 3}
    path = published.torch_file(tmp_path / "ae.pt", {**t, "k": torch.tensor(4)}, {"trainer": trainer})
    assert "was saved with k = 4" in refusal(path)
    published.torch_file(tmp_path / "ae.pt", {**t, "k": torch.tensor(3)}, {"trainer": trainer})
    assert "no threshold" in refusal(path)
    (path / "config.json").write_text(json.dumps({"trainer": {**trainer, "dict_class": "CrossCoder"}}))
    assert "dict_class = 'CrossCoder'" in refusal(path)


def test_a_file_whose_configuration_is_missing_is_refused_with_what_to_write(tmp_path: Path) -> None:
    """Tensor names do not say how codes are chosen; a configuration in the file's metadata does."""
    save_file(encoder(), tmp_path / "sae.safetensors")
    assert '"architecture": "standard"' in refusal(tmp_path)
    config = {"architecture": "standard", "d_in": str(D), "d_sae": str(F), "apply_b_dec_to_input": "false"}
    save_file(encoder(), tmp_path / "sae.safetensors", metadata=config)
    assert load(str(tmp_path))[0].offset is None
    published.torch_file(tmp_path / "state/sae.pt", {"dictionary._weights": torch.ones(F, D)}, None)
    assert '"class": "TopKSAE"' in refusal(tmp_path / "state")
    (tmp_path / "cfg.json").write_text('{"model_type": "vit"}')
    assert "of no format that is read" in refusal(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    assert "not a readable configuration" in refusal(tmp_path)


def test_a_folder_without_one_dictionary_names_those_below_it(tmp_path: Path) -> None:
    """A release is a folder of folders; what training leaves beside the weights is no dictionary."""
    for name in ("trainer_0", "trainer_1"):
        published.sae_lens(tmp_path / name)
    assert str(tmp_path / "trainer_1") in refusal(tmp_path)
    assert "no file or folder" in refusal(tmp_path / "trainer_2")
    (tmp_path / "empty").mkdir()
    assert "holds no dictionary" in refusal(tmp_path / "empty")
    save_file({"sparsity": torch.ones(F)}, tmp_path / "trainer_0/sparsity.safetensors")
    assert load(str(tmp_path / "trainer_0"))[0].n_latents == F
    (tmp_path / "sae.pkl.gz").write_bytes(b"")
    assert "read from .safetensors" in refusal(tmp_path / "sae.pkl.gz")


def test_tensors_that_the_configuration_has_no_use_for_are_named(tmp_path: Path) -> None:
    """A threshold beside a standard architecture means that one of the two is of another dictionary."""
    assert "'threshold', which architecture 'standard'" in refusal(
        published.sae_lens(tmp_path, encoder("threshold"))
    )


class _Runs:
    """A pickle of this would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    """In either kind of file of torch, or without it."""
    target = tmp_path / "ran"
    for old in (False, True):
        torch.save({"x": _Runs(target)}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        refusal(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(pickle.dumps(_Runs(target)))
    assert "an old pickle" in refusal(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 damaged")
    refusal(tmp_path / "a.pt")
    assert not target.exists()


def test_a_configuration_object_of_prisma_is_read_without_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older files are one pickle {cfg, state_dict}, whose class lives in a library that is not needed."""
    module = types.ModuleType("elsewhere")
    kind = type("VisionModelSAERunnerConfig", (), {"__module__": "elsewhere"})
    module.VisionModelSAERunnerConfig = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    whole = published.prisma(tmp_path / "json")
    config = kind()
    vars(config).update(json.loads((whole / "config.json").read_text()), _dtype=torch.float32)
    published.torch_file(tmp_path / "old.pt", {"cfg": config, "state_dict": published.prisma_tensors()}, None)
    monkeypatch.delitem(sys.modules, "elsewhere")
    codes = [load(str(path))[0].encode(inputs()) for path in (tmp_path / "old.pt", whole)]
    assert torch.equal(*codes)
