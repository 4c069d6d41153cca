"""Without the unit that carries a bias the worst group is recognized: known of a network that was made so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import maia
from tests.experiments.waterbirds import write_birds

NETWORK = """
import torch


class Birds(torch.nn.Module):
    class_names = ("landbird", "waterbird")
    preprocessing = {"size": 32}

    def __init__(self):
        super().__init__()
        self.stem, self.cues = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, 3, bias=False)
        self.head = torch.nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.cues.weight.copy_(torch.eye(3))
            # The bird, the place (which decides), and a cue that nothing is computed from.
            self.head.weight.copy_(torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 0.0]]))

    def forward(self, x):
        difference = x[:, 2] - x[:, 1]
        bird = difference[:, 12:20, 12:20].mean((1, 2))
        place = difference[:, :6].mean((1, 2))
        scores = self.head(self.cues(torch.stack([bird, place, place], 1)))
        return scores + 0 * self.stem(x).mean((1, 2, 3))[:, None]
"""


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("birds")
    (folder / "net.py").write_text(NETWORK)
    return f"python:{folder / 'net.py'}:Birds", str(write_birds(folder / "data", 500, share=0.6))


def run_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, and what it printed on stdout and stderr."""
    code = maia(*words)
    return code, *capsys.readouterr()


def arguments(birds: tuple[str, str], config: Path, *more: str) -> tuple[str, ...]:
    network, data = birds
    labels = ("--label-names", "0=landbird,1=waterbird", "--attributes", "place")
    return network, "--data", data, *labels, "--config", str(config), *more


@pytest.mark.slow
def test_ablating_the_place_saves_the_worst_group(  # type: ignore[no-untyped-def]
    birds, config_file, capsys, tmp_path: Path
) -> None:
    more = ("--ablate", "cues:1", "--to", "mean", "--out", str(tmp_path / "run"), "--json")
    code, out, err = run_command(capsys, "edit", *arguments(birds, config_file(), *more))
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "run" / "edit.json").read_text())
    assert list(result["values"]) == ["cues:1"]
    assert result["worst"]["accuracy"] < 0.2 < 0.8 < result["worst_edited"]["edited_accuracy"]
    assert result["overall"]["change_interval"][0] > 0
    assert result["overall"]["p"] < 1e-3
    assert {each["name"] for each in result["classes"]} == {"0", "1"}
    assert len(result["groups"]) == 4
    # Again in its folder: the same; another value in it: refused.
    code, again, err = run_command(capsys, "edit", *arguments(birds, config_file(), *more))
    assert (code, json.loads(again)) == (0, result), err
    code, _, err = run_command(capsys, "edit", *arguments(birds, config_file(), *more, "--to", "zero"))
    assert (code, "to" in err) == (2, True)


def test_a_unit_that_nothing_is_computed_from_changes_no_image(  # type: ignore[no-untyped-def]
    birds, config_file, capsys, tmp_path: Path
) -> None:
    more = ("--ablate", "cues:2", "--out", str(tmp_path / "run"), "--json")
    code, out, err = run_command(capsys, "edit", *arguments(birds, config_file(), *more))
    assert code == 0, err
    overall = json.loads(out)["overall"]
    assert (overall["change"], overall["p"]) == (0.0, 1.0)
    assert overall["probability"] == overall["edited_probability"]
    assert "none of these units changed the outputs" in " ".join(err.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--ablate", "cues"), "names no units of a layer"),
        (("--ablate", "cues:9"), "0 to 2"),
        (("--ablate", "cues:1", "--to", "off"), "zero, mean, resample, a number, scale:FACTOR"),
        (("--ablate", "cues:1", "--to", "clamp:3"), "clamp:LOW,HIGH has two numbers"),
        (("--ablate", "output:0"), "cannot be edited"),
        (("--ablate", "nothing:0"), "no layer"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_a_sentence(  # type: ignore[no-untyped-def]
    birds, config_file, capsys, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    code, _, err = run_command(
        capsys, "edit", *arguments(birds, config_file(), *more, "--out", str(tmp_path / "run"))
    )
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
