"""Every kind of unit can be named on a command line and read off a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.errors import UsageError
from actors.vision.dictionaries.formats import load
from actors.vision.readout import units
from actors.vision.readout.base import LayerInfo, Unit
from actors.vision.readout.units import OUTPUT, Readout, UnitReader, parse_unit, reader, register_kind
from tests.actors.vision.dictionaries import published

CLASSES = ["tench, Tinca tinca", "goldfish", "crane", "construction site", "crane"]
LAYER = LayerInfo("deep", "map", 5, (2, 3), "Conv2d")
SCORES = LayerInfo(OUTPUT, "vector", 5, (), "Net")


@pytest.mark.parametrize(
    ("layer", "text", "unit"),
    [
        ("deep", "3", Unit("deep", 3)),
        ("output", "3", Unit("output", 3, "logit")),
        ("output", "goldfish", Unit("output", 1, "logit")),
        ("anything", "probability:Tench", Unit("output", 0, "probability")),
        ("output", "logit:tinca tinca", Unit("output", 0, "logit")),
        ("deep", "direction:a/b.npy", Unit("deep", 0, "direction", "a/b.npy")),
        ("deep", "direction:a/b.npy:4", Unit("deep", 4, "direction", "a/b.npy")),
        ("deep", "latent:sae.safetensors:12", Unit("deep", 12, "latent", "sae.safetensors")),
        ("deep", "channel:2", Unit("deep", 2)),
    ],
)
def test_a_unit_is_named_by_layer_and_text(layer: str, text: str, unit: Unit) -> None:
    assert parse_unit(layer, text, CLASSES) == unit


@pytest.mark.parametrize(
    ("layer", "text", "words"),
    [
        ("deep", "-1", "number from 0"),
        ("deep", "three", "number from 0"),
        ("output", "goldfihs", "goldfish"),
        ("output", "crane", "[2, 4]"),
        ("output", "zebra", "no class"),
        ("deep", "latent:sae.safetensors", "latent:PATH:INDEX"),
        ("deep", "latent:sae.safetensors:x", "number"),
        ("deep", "9" * 5000, "number from 0"),
        ("output", "9" * 5000, "no class"),
    ],
)
def test_a_text_that_names_no_unit_is_refused_with_the_rule(layer: str, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_unit(layer, text, CLASSES)
    assert words in str(caught.value)


def test_an_unknown_class_of_a_small_network_lists_all_its_classes() -> None:
    with pytest.raises(UsageError, match="The classes are dog, cat") as caught:
        units.class_index("horse", ["dog", "cat"])
    assert "nearest" not in caught.value.fix
    with pytest.raises(UsageError, match="names no classes"):
        units.class_index("horse", [])
    with pytest.raises(UsageError, match="nearest are class 30"):
        units.class_index("clas 30", [f"class {i}" for i in range(40)])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ("softmax", [[0.5, 0.5], [0.25, 0.75]]),
        ("sigmoid", [[0.5, 0.5], [0.5, 0.75]]),
        ("probabilities", [[0.0, 0.0], [0.0, np.log(3)]]),
    ],
)
def test_a_probability_is_made_of_what_the_network_gives(scores: Any, expected: list[list[float]]) -> None:
    layer = LayerInfo(OUTPUT, "vector", 2, (), "Net", scores)
    given = torch.tensor([[0.0, 0.0], [0.0, np.log(3)]], dtype=torch.float32)[:, :, None, None]
    made = reader(Readout(OUTPUT, "probability"), layer)
    assert made.read is not None
    np.testing.assert_allclose(made.read(given)[:, :, 0, 0], expected, rtol=1e-6)


def maps() -> torch.Tensor:
    return torch.randn((3, 5, 2, 4), generator=torch.Generator().manual_seed(0))


def test_a_direction_is_the_inner_product_at_each_position(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    made = reader(Readout("deep", "direction", str(tmp_path / "rows.npy")), LAYER)
    assert made.n_units == 2
    assert made.read is not None
    expected = (maps()[:, None] * torch.from_numpy(rows)[None, :, :, None, None]).sum(2)
    assert torch.allclose(made.read(maps()), expected, atol=1e-5)


def test_a_direction_may_be_one_vector_or_a_safetensors_file(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(5))
    save_file({"v": torch.ones(5)}, tmp_path / "one.safetensors")
    for file in ("one.npy", "one.safetensors"):
        made = reader(Readout("deep", "direction", str(tmp_path / file)), LAYER)
        assert made.read is not None
        assert torch.allclose(made.read(maps())[:, 0], maps().sum(1), atol=1e-5)


def test_files_with_other_contents_have_other_digests(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(5))
    first = reader(Readout("deep", "direction", str(tmp_path / "a.npy")), LAYER)
    np.save(tmp_path / "a.npy", np.zeros(5))
    assert reader(Readout("deep", "direction", str(tmp_path / "a.npy")), LAYER).digest != first.digest


def test_a_latent_is_the_code_of_each_position(tmp_path: Path) -> None:
    path = published.sae_lens(tmp_path, normalize_activations="layer_norm")
    layer = LayerInfo("deep", "map", published.D, (2, 3), "Conv2d")
    made = reader(Readout("deep", "latent", str(path)), layer)
    assert made.n_units == published.F
    assert made.read is not None
    x = published.inputs(24)
    codes = made.read(x.reshape(3, 2, 4, published.D).permute(0, 3, 1, 2))
    assert codes.shape == (3, published.F, 2, 4)
    expected, _ = load(str(path / "sae_weights.safetensors"))
    assert torch.equal(codes.permute(0, 2, 3, 1).reshape(24, -1), expected.encode(x))


def test_a_dictionary_of_another_layer_is_refused_with_both_widths_and_its_own_place(tmp_path: Path) -> None:
    path = published.sae_lens(tmp_path, hook_name="blocks.9.hook_resid_post")
    with pytest.raises(UsageError, match=r"'blocks\.9\.hook_resid_post'.* reads 6 channels.*'deep' has 5"):
        reader(Readout("deep", "latent", str(path)), LAYER)


def test_a_probability_is_the_softmax_over_the_classes() -> None:
    made = reader(Readout(OUTPUT, "probability"), SCORES)
    assert made.read is not None
    assert torch.allclose(made.read(maps()[:, :, :1, :1]).sum(1), torch.ones(3, 1, 1))


def wrong_files(folder: Path) -> list[tuple[str, str, str]]:
    np.save(folder / "long.npy", np.ones(6))
    np.save(folder / "deep.npy", np.ones((2, 2, 5)))
    (folder / "bad.npy").write_bytes(b"no")
    (folder / "bad.safetensors").write_bytes(b"no")
    save_file({"a": torch.ones(5), "b": torch.ones(5)}, folder / "two.safetensors")
    return [
        ("direction", "long.npy", "length 6"),
        ("direction", "deep.npy", "shape"),
        ("direction", "bad.npy", "not a readable"),
        ("direction", "none.npy", "no file"),
        ("direction", "a.txt", "no file"),
        ("direction", "two.safetensors", "one tensor"),
        ("latent", "bad.safetensors", "not a readable"),
        ("latent", "two.safetensors", "no configuration"),
        ("latent", "a.txt", "no file or folder"),
    ]


def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    for kind, file, words in wrong_files(tmp_path):
        with pytest.raises(UsageError) as caught:
            reader(Readout("deep", kind, str(tmp_path / file)), LAYER)
        assert words in str(caught.value), file


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_classes_need_a_vector_of_scores(kind: str) -> None:
    with pytest.raises(UsageError, match="vector of class scores"):
        reader(Readout("deep", kind), LAYER)


def test_of_a_network_that_returns_maps_a_class_is_a_unit_like_any_other() -> None:
    maps = LayerInfo(OUTPUT, "map", 5, (4, 6), "Conv2d")
    assert reader(Readout(OUTPUT, "logit"), maps) == UnitReader(5)
    with pytest.raises(UsageError, match="give a unit's number"):
        reader(Readout(OUTPUT, "probability"), maps)


def test_a_further_kind_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units._READER_FACTORIES, "negated", lambda *_: None)  # unregistered at the end

    def negated(readout: Readout, layer: LayerInfo) -> UnitReader:
        return UnitReader(layer.n_units, lambda values: -values)

    register_kind("negated", negated)
    unit = parse_unit("deep", "negated:x:3")
    made: Any = reader(Readout.of(unit), LAYER).read
    assert torch.equal(made(maps()), -maps())
    with pytest.raises(UsageError, match="negated"):
        reader(Readout("deep", "unheard-of"), LAYER)
