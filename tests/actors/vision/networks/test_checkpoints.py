"""Weights are found in the files that trainers write, or refused with what to do; no code in them is run."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import os
import pathlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.errors import UsageError
from actors.vision.networks import checkpoints
from actors.vision.networks.weight_fit import OtherHeadError
from tests.actors.vision import tiny_networks as networks

State = dict[str, torch.Tensor]


def trained(seed: int = 1) -> State:
    return networks.seeded(networks.TinyConv, seed).state_dict()


def part(*names: str) -> State:
    return {name: value for name, value in trained().items() if name.partition(".")[0] in names}


def prefixed(prefix: str, state: State | None = None) -> State:
    return {prefix + name: value for name, value in (state or trained()).items()}


def load(content: Any, folder: pathlib.Path, module: nn.Module | None = None) -> checkpoints.LoadedWeights:
    """Save `content` with torch, load it into a tiny network and check that it has the trained weights."""
    torch.save(content, folder / "saved.ckpt")
    module = module or networks.tiny_conv()
    loaded = checkpoints.read(folder / "saved.ckpt").load_into(module)
    ends = {name.partition("net.")[2] or name: value for name, value in module.state_dict().items()}
    for name, value in trained().items():
        assert torch.equal(ends[name], value), name
    return loaded


FORMS: dict[str, Callable[[], Any]] = {
    "a plain state dict": trained,
    "Lightning": lambda: {"epoch": 3, "state_dict": prefixed("model."), "optimizer_states": [{}]},
    "DDP": lambda: {"model_state_dict": prefixed("module.")},
    "torch.compile": lambda: prefixed("_orig_mod."),
    "DDP around torch.compile": lambda: {"model": prefixed("module._orig_mod.")},
    "torch.compile of one part": lambda: {
        name.replace("deep.", "deep._orig_mod."): value for name, value in trained().items()
    },
    "FSDP": lambda: {"model": {"module": prefixed("_fsdp_wrapped_module.")}},
    "DeepSpeed": lambda: {
        "module": trained(),
        "ds_version": "0.14",
        "optimizer": {"state": {0: torch.ones(2)}},
    },
    "timm's averaged weights": lambda: {
        "arch": "x",
        "state_dict": trained(5),
        "state_dict_ema": prefixed("module."),
    },
    "DINO": lambda: {
        "student": prefixed("module.backbone.", trained(5)),
        "teacher": prefixed("backbone.") | {"head.mlp.0.weight": torch.ones(3, 7)},
        "dino_loss": {"center": torch.ones(1, 9)},
    },
    "Lightning with a student and a teacher": lambda: {
        "state_dict": prefixed("student.backbone.", trained(5)) | prefixed("teacher.backbone.")
    },
    "MoCo": lambda: {
        "state_dict": prefixed("module.encoder_q.")
        | prefixed("module.encoder_k.", trained(5))
        | {"module.queue": torch.ones(4, 9)}
    },
    "an averaged model": lambda: prefixed("module.") | {"n_averaged": torch.tensor(7)},
    "behind a normalization": lambda: {"net": prefixed("1.") | {"0.mean": torch.ones(3)}},
    "a loss with weights": lambda: {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(4)}},
    "a loss next to the network": lambda: trained() | {"criterion.weight": torch.ones(4)},
    "a profiler's counts": lambda: (
        trained() | {"stem.total_ops": torch.ones(1), "total_params": torch.ones(1)}
    ),
    "half precision": lambda: {"model": trained(), "amp": torch.ones(1).half()},
    "a backbone and a head apart": lambda: {
        "state_dict": prefixed("backbone.", part("stem", "branch", "deep")) | prefixed("cls.", part("head"))
    },
    "a part without the prefix of the others": lambda: (
        prefixed("module.", part("stem", "branch", "deep")) | part("head")
    ),
    "deep in a trainer's own record": lambda: {"a": {"b": {"c": {"d": {"trunk": trained()}}}}},
    "a masked autoencoder": lambda: {"model": trained() | {"decoder_blocks.0.weight": torch.ones(3)}},
}


@pytest.mark.parametrize("form", FORMS)
def test_trained_weights_are_found_in_the_files_of_trainers(form: str, tmp_path: pathlib.Path) -> None:
    assert load(FORMS[form](), tmp_path).classifies


def test_notes_say_what_was_taken_and_what_was_ignored(tmp_path: pathlib.Path) -> None:
    notes = "; ".join(load(FORMS["timm's averaged weights"](), tmp_path).notes)
    assert "taken from 'state_dict_ema', not state_dict" in notes
    assert "prefix 'module.' removed" in notes
    notes = "; ".join(load(FORMS["a loss with weights"](), tmp_path).notes)
    assert "1 tensors outside it ignored (criterion.weight)" in notes
    assert load(trained(), tmp_path).notes == ()


def test_a_network_inside_a_wrapper_takes_the_weights_of_the_bare_one(tmp_path: pathlib.Path) -> None:
    wrapper = nn.ModuleDict({"net": networks.tiny_conv()})
    assert load(prefixed("module."), tmp_path, wrapper).classifies


class Box(dict[str, Any]):
    """A dictionary of somebody's own, as configurations often are."""


def test_objects_stored_with_the_weights_are_not_run(tmp_path: pathlib.Path) -> None:
    others = {
        "args": argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("x")),
        "best": np.float64(0.9),
        "curve": np.arange(3),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "schedule": functools.partial(print, "run"),
        "config": Box(a=1),
    }
    load({"state_dict": prefixed("model."), **others}, tmp_path)
    torch.save({"model": trained(), **others}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    checkpoints.read(tmp_path / "old.pth").load_into(networks.tiny_conv())


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def test_a_program_in_a_file_is_not_run(tmp_path: pathlib.Path) -> None:
    trace = tmp_path / "ran"
    for call in ((os.system, f"touch {trace}"), (pathlib.Path.touch, trace), (open, str(trace), "w")):
        torch.save({"model": trained(), "args": Evil(*call)}, tmp_path / "evil.pt")
        with contextlib.suppress(UsageError):
            checkpoints.read(tmp_path / "evil.pt")
        assert not trace.exists()
    torch.save({"model": trained(), "args": Evil(os.system, "true")}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="system"):
        checkpoints.read(tmp_path / "evil.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda module: module, lambda module: {"model": module, "epoch": 3}])
def test_a_whole_pickled_module_is_refused_with_the_fix(
    wrap: Callable[[nn.Module], Any], zipped: bool, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "whole.pt"
    torch.save(wrap(nn.Sequential(nn.Conv2d(3, 4, 2))), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"whole pickled module.*state_dict\(\), NEW_FILE"):
        checkpoints.read(path)


def test_a_program_of_torchscript_is_refused_with_the_fix(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "program.pt")
    with pytest.raises(UsageError, match=r"program of TorchScript.*torch\.jit\.load"):
        checkpoints.read(tmp_path / "program.pt")


def test_a_file_is_known_by_its_content_whatever_it_is_called(tmp_path: pathlib.Path) -> None:
    """Either format under the other's name is read; what is neither is refused with how it begins."""
    save_file(trained(), tmp_path / "a.pth")
    torch.save(trained(), tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert checkpoints.read(tmp_path / name).load_into(networks.tiny_conv()).classifies
    (tmp_path / "c.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match=r"no file of torch.*git lfs pull"):
        checkpoints.read(tmp_path / "c.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".metadata").touch()
    with pytest.raises(UsageError, match=r"distributed training.*dcp_to_torch"):
        checkpoints.read(tmp_path / "folder")


def test_a_head_of_another_size_is_reported_as_such(tmp_path: pathlib.Path) -> None:
    state = trained() | {"head.weight": torch.ones(9, 7), "head.bias": torch.ones(9)}
    with pytest.raises(OtherHeadError, match="a head of 9 classes, and the network one of 4") as error:
        load({"state_dict": prefixed("model.", state)}, tmp_path)
    assert error.value.n_classes == 9


def test_a_backbone_without_a_classifier_gives_what_that_would_be_given(tmp_path: pathlib.Path) -> None:
    state = {name: value for name, value in trained().items() if not name.startswith("head.")}
    torch.save(state | {"head.mlp.0.weight": torch.ones(3, 7)}, tmp_path / "backbone.pth")
    module = networks.tiny_conv()
    loaded = checkpoints.read(tmp_path / "backbone.pth").load_into(module)
    assert module(torch.zeros(2, 3, 18, 12)).shape == (2, 7)
    assert not loaded.classifies
    assert any("no classifier (head)" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem.weight": None}, r"1 missing \(stem.weight\)"),
        ({"deep.1.weight": torch.ones(2)}, r"1 unexpected \(deep.1.weight\)"),
        (
            {"stem.weight": torch.ones(5, 3, 7, 7)},
            r"of another shape .*\(5, 3, 7, 7\) float32 for \(5, 3, 3, 3\)",
        ),
        ({"stem.weight": torch.ones(5, 3, 3, 3, dtype=torch.int8)}, "int8 for .* float32"),
    ],
)
def test_another_networks_weights_are_refused(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    state = {name: value for name, value in (trained() | change).items() if value is not None}
    with pytest.raises(UsageError, match=f"made for another network.*{message}"):
        load(state, tmp_path)


@pytest.mark.parametrize("part", ["norm_pre.weight", "reg_token", "fc_norm.bias", "se.weight"])
def test_a_part_that_the_network_lacks_is_no_rubbish_of_a_trainer(part: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=f"unexpected .{part}"):
        load(trained() | {part: torch.ones(7)}, tmp_path)


def test_an_encoder_stored_alone_fits_into_its_classifier(tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 12,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.ViTConfig(num_hidden_layers=1, **sizes)
    encoder = transformers.ViTModel(config)
    torch.save(encoder.state_dict(), tmp_path / "encoder.bin")
    classifier = transformers.ViTForImageClassification(config)
    loaded = checkpoints.read(tmp_path / "encoder.bin").load_into(classifier)
    assert torch.equal(classifier.vit.layernorm.weight, encoder.layernorm.weight)
    assert torch.equal(classifier.vit.embeddings.cls_token, encoder.embeddings.cls_token)
    assert not loaded.classifies


def test_a_longer_network_is_not_cut_to_fit(tmp_path: pathlib.Path) -> None:
    """A numbered part more, with all others alike, is another network and no rubbish of a trainer."""
    short, long = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    torch.save(long.state_dict(), tmp_path / "long.pth")
    with pytest.raises(UsageError, match=r"unexpected \(1.bias, 1.weight\)"):
        checkpoints.read(tmp_path / "long.pth").load_into(short)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_an_index_leads_to_its_files(suffix: str, tmp_path: pathlib.Path) -> None:
    from safetensors.torch import save_file

    state = trained()
    halves = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
    places: dict[str, str] = {}
    for at, half in enumerate(halves, start=1):
        name = f"model-0000{at}-of-00002.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)(half, tmp_path / name)  # type: ignore[operator]
        places |= dict.fromkeys(half, name)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    module = networks.tiny_conv()
    checkpoints.read(index).load_into(module)
    assert torch.equal(module.state_dict()["head.bias"], state["head.bias"])
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"names '{name}', which is missing"):
        checkpoints.read(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"weight_map": [1]}', "is damaged"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "is not in its folder"),
    ],
)
def test_an_index_that_is_wrong_is_refused(content: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        checkpoints.read(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}])
def test_a_file_without_tensors_is_refused(content: Any, tmp_path: pathlib.Path) -> None:
    torch.save(content, tmp_path / "empty.pt")
    with pytest.raises(UsageError, match="holds no tensors by name"):
        checkpoints.read(tmp_path / "empty.pt")


def test_names_of_classes_in_a_file_are_taken_where_they_fit_the_head(tmp_path: pathlib.Path) -> None:
    names = ["ant", "bee", "cat", "dog"]
    mapping = {name: at for at, name in enumerate(names)}
    assert load({"state_dict": trained(), "class_to_idx": mapping}, tmp_path).class_names == tuple(names)
    meta = {"dataset_meta": {"classes": names}}
    assert load({"state_dict": trained(), "meta": meta}, tmp_path).class_names == tuple(names)
    assert load({"state_dict": trained(), "names": ["lr", "wd"]}, tmp_path).class_names == ()


def test_the_names_of_an_architectures_authors_are_converted_by_timm(tmp_path: pathlib.Path) -> None:
    """ConvNeXt as its authors published it, with other names and linear layers in place of convolutions."""
    names = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^(stages\.\d)\.blocks\.", r"\1."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"mlp\.grn", "grn"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    ]
    original: State = {}
    for name, value in networks.tiny_convnext().state_dict().items():
        for pattern, other in names:
            name = re.sub(pattern, other, name)
        original[name] = value
    torch.save({"model": prefixed("module.", original)}, tmp_path / "convnext.pth")
    module = networks.seeded(networks.tiny_convnext, 3)
    loaded = checkpoints.read(tmp_path / "convnext.pth").load_into(module)
    expected = networks.tiny_convnext().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    assert "names converted by timm" in loaded.notes
