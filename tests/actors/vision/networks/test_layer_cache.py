"""What a network held when it was last loaded is known before it is loaded again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.errors import UsageError
from actors.vision.networks import layer_cache as known
from actors.vision.networks.layer_cache import KnownNetwork
from actors.vision.readout.base import LayerInfo
from actors.vision.readout.places import Places
from actors.vision.settings import VisionSettings
from tests.refusals import refusal

FOUND = KnownNetwork(
    "resnet18",
    {
        "layer1": LayerInfo("layer1", "map", 64, (56, 56), "Sequential", places=Places(has_positions=True)),
        "layer2": LayerInfo("layer2", "map", 128, (28, 28), "Sequential", places=Places(has_positions=True)),
        "output": LayerInfo("output", "vector", 3, (), "ResNet", "softmax"),
    },
    {"res1": "layer1"},
    {"odd": "it returns a str, not a tensor"},
    ["tench, Tinca tinca", "goldfish", "crane"],
)


def load_known(folder, asked, settings=None):
    return known.load_known(folder, asked, settings or VisionSettings())


def save_known(folder, asked, found, settings=None):
    known.save_known(folder, asked, found, settings or VisionSettings())


def test_a_cached_network_is_loaded_for_its_own_name_only(tmp_path):
    assert load_known(tmp_path, "resnet18") is None
    save_known(tmp_path, "resnet18", FOUND)
    assert load_known(tmp_path, "resnet18") == FOUND
    assert load_known(tmp_path, "resnet50") is None
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("name", ["python:net.py:build", "hf:owner/name", "concept-net"])
def test_networks_of_a_persons_own_code_are_not_cached(tmp_path, name):
    save_known(tmp_path, name, FOUND)
    assert load_known(tmp_path, name) is None
    assert list(tmp_path.iterdir()) == []


def test_other_class_names_or_another_checkpoint_make_another_network(tmp_path):
    named = VisionSettings(class_names=("ant", "bee", "cat"))
    save_known(tmp_path, "resnet18", FOUND, named)
    assert load_known(tmp_path, "resnet18") is None
    assert load_known(tmp_path, "resnet18", named) == FOUND
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"3 classes")
    save_known(tmp_path, f"resnet18@{weights}", FOUND)
    assert load_known(tmp_path, f"resnet18@{weights}") == FOUND
    weights.write_bytes(b"no longer 3 classes")
    assert load_known(tmp_path, f"resnet18@{weights}") is None


def test_random_weights_share_the_cache_with_any_weights(tmp_path):
    save_known(tmp_path, "resnet18", replace(FOUND, name="resnet18 (random weights)"))
    assert load_known(tmp_path, "resnet18", VisionSettings(pretrained=False)) == FOUND


@pytest.mark.parametrize("changed", ["timm", "maia"])
def test_another_version_may_build_or_read_another_network(tmp_path, monkeypatch, changed):
    save_known(tmp_path, "resnet18", FOUND)
    present = known.version
    monkeypatch.setattr(known, "version", lambda name: "0.0.1" if name == changed else present(name))
    assert load_known(tmp_path, "resnet18") is None


def test_a_damaged_or_unwritable_memory_is_none(tmp_path):
    save_known(tmp_path, "resnet18", FOUND)
    (path,) = (tmp_path / "networks").iterdir()
    path.write_text('{"name": "resnet18"')
    assert load_known(tmp_path, "resnet18") is None
    path.write_text('{"another": "form"}')
    assert load_known(tmp_path, "resnet18") is None
    save_known(tmp_path, "resnet18", FOUND)
    assert load_known(tmp_path, "resnet18") == FOUND, "and is made again"
    (tmp_path / "file").write_text("")
    save_known(tmp_path / "file", "resnet18", FOUND)


@pytest.mark.parametrize(
    ("layer", "unit", "message"),
    [
        ("layer3", "0", "nearest are layer"),
        ("odd", "0", "cannot be read: it returns a str"),
        ("layer1", "64", "numbered 0 to 63"),
        ("res1", "64", "numbered 0 to 63"),
        ("output", "goldfihs", "goldfish"),
        ("output", "3", "numbered 0 to 2"),
        ("layer1@cls", "0", "There are layer1 and @mean."),
        ("layer1@clss", "0", "'clss' is no place of a layer. There are layer1 and @mean."),
        ("layer9@mean", "0", "nearest are layer"),
        ("res1@mean", "64", "numbered 0 to 63"),
        ("output", "probability:7", "numbered 0 to 2"),
    ],
)
def test_unknown_layers_classes_and_numbers_are_refused(layer, unit, message):
    with pytest.raises(UsageError) as refusal:
        FOUND.check(layer, unit)
    assert message in f"{refusal.value.message} {refusal.value.fix}"


@pytest.mark.parametrize(
    ("layer", "unit"),
    [
        ("layer1", "63"),
        ("res1", "0"),
        ("res1@mean", "63"),
        ("layer1@patches", "63"),
        ("output", "tinca tinca"),
        ("layer2", "direction:vectors.npy:900"),
        ("anything", "probability:goldfish"),
    ],
)
def test_known_units_and_units_that_need_the_network_pass(layer, unit):
    assert refusal(FOUND.check, layer, unit) == ""
