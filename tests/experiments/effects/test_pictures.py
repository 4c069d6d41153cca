"""`maia visualize` and `maia attribute` on a tiny network: what they write, keep and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from experiments.effects.pictures import overlay
from tests.command_line import maia


def test_an_overlay_is_red_where_contributions_raise_and_blue_where_they_lower() -> None:
    seen = np.full((8, 8, 3), 128, np.uint8)
    contributions = np.zeros((8, 8), np.float32)
    contributions[:4], contributions[4:] = 1, -1
    picture = overlay(seen, contributions).astype(int)
    assert (picture[0, :, 0] > picture[0, :, 2]).all()
    assert (picture[-1, :, 2] > picture[-1, :, 0]).all()
    assert np.array_equal(overlay(seen, np.zeros((2, 2), np.float32))[0, 0, 0:1], [136]), "gray without any"


def test_signs_that_alternate_from_pixel_to_pixel_cancel_in_an_overlay() -> None:
    seen = np.full((64, 64, 3), 128, np.uint8)
    contributions = np.indices((64, 64)).sum(0) % 2 * 2.0 - 1
    contributions[16:48, 16:48] += 0.5
    picture = overlay(seen, contributions).astype(int)
    middle, edge = picture[20:44, 20:44], picture[2:12, 2:12]
    assert (middle[..., 0] > middle[..., 2]).all(), "more raises than lowers"
    assert np.abs(edge[..., 0] - edge[..., 2]).mean() < 0.7 * (middle[..., 0] - middle[..., 2]).mean()


NETWORK = """
import torch


class Colors(torch.nn.Module):
    class_names = ("red", "blue")
    preprocessing = {"size": 32}

    def __init__(self):
        super().__init__()
        self.detect, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.detect.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]))

    def forward(self, x):
        return self.head(self.detect(x).mean((2, 3)))
"""


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("colors")
    (folder / "net.py").write_text(NETWORK)
    (folder / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (36, 32, 32, 3), dtype=np.uint8)
    for number, each in enumerate(pixels):
        PIL.Image.fromarray(each).save(folder / "data" / f"{number:02}.png")
    half = np.zeros((32, 32, 3), np.uint8)
    half[:16, :, 0] = 255
    PIL.Image.fromarray(half).save(folder / "half.png")
    return f"python:{folder / 'net.py'}:Colors", folder


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    code = maia(*words, "--json")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    result: dict[str, object] = json.loads(printed.out)
    return result


def test_visualizations_are_kept_and_stand_beside_the_strongest_images(
    colors, config_file, capsys, tmp_path: Path
) -> None:
    network, folder = colors
    words = ("visualize", network, "detect", 0, "--data", folder / "data", "--config", config_file())
    words = (*words, "--steps", 16, "--out", tmp_path / "run")
    result = run_json(capsys, *words, "--images", 1)
    assert result == json.loads((tmp_path / "run" / "visualization.json").read_text())
    first = tmp_path / "run" / "visualization-0.png"
    written = first.stat().st_mtime_ns
    more = run_json(capsys, *words, "--images", 2)
    assert [each["seed"] for each in more["images"]] == [0, 1]  # type: ignore[index, attr-defined]
    assert first.stat().st_mtime_ns == written, "what is there is not made again"
    pixels = np.asarray(PIL.Image.open(first)).astype(float)
    assert pixels[..., 0].mean() > pixels[..., 2].mean(), "a unit of red is driven by red"


def test_maps_show_where_a_unit_acts_on_a_class(colors, config_file, capsys, tmp_path) -> None:
    network, folder = colors
    words = ("attribute", network, "detect", 0, "--config", config_file(), "--out", tmp_path / "run")
    result = run_json(capsys, *words, "--image", folder / "half.png", "--output", "red")
    assert (result["output"], result["method"]) == ("red", "gradient-x-activation")
    found = np.load(tmp_path / "run" / "attribution-01.npy")
    assert (found[:16] > 0).all()
    assert (found[16:] < 0).all(), "where there is no red, the unit lowers the class"
    assert np.allclose(found[0], found[0, 0], rtol=1e-5)


def test_maps_of_the_units_own_value_are_of_its_exemplars(colors, config_file, capsys, tmp_path) -> None:
    network, folder = colors
    words = ("attribute", network, "detect", 0, "--data", folder / "data", "--config", config_file())
    result = run_json(capsys, *words, "--k", 2, "--out", tmp_path / "run")
    assert len(result["images"]) == 2  # type: ignore[arg-type]
    found = np.load(tmp_path / "run" / "attribution-01.npy")
    assert np.count_nonzero(np.abs(found) > 1e-6 * np.abs(found).max()) == 1, "a unit of one pixel"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--output", "green"), "no class is called 'green'"),
        (("--image", "nowhere.png"), "nowhere.png cannot be read as an image"),
    ],
)
def test_what_cannot_be_attributed_is_refused_in_a_sentence(
    colors, config_file, capsys, tmp_path, more, words
) -> None:
    network, folder = colors
    shown = ("--image", folder / "half.png", "--config", config_file(), "--out", tmp_path / "run")
    assert maia("attribute", network, "detect", 0, *shown, *more) == 2
    assert words in " ".join(capsys.readouterr().err.split())
