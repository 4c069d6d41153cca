"""The planted role of each unit is named, by a command that is resumed where it ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.experiments.effects.test_edited_network import run_command

NETWORK = """
import torch


class Planted(torch.nn.Module):
    class_names = tuple(f"class {i}" for i in range(10))
    preprocessing = {"size": 32}

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.see = torch.nn.Conv2d(3, 40, 8, stride=8, bias=False)
        self.head = torch.nn.Linear(40, 10, bias=False)
        with torch.no_grad():
            self.see.weight.copy_(torch.randn(self.see.weight.shape, generator=generator) / 10)
            self.head.weight.zero_()
            # Unit i raises class i % 10; unit 39 and its opposite raise nothing.
            for unit in range(39):
                self.head.weight[unit % 10, unit] = 1.0

    def forward(self, x):
        return self.head(self.see(x).relu().amax((2, 3)))
"""


@pytest.mark.slow
def test_planted_roles_are_named_and_kept(  # type: ignore[no-untyped-def]
    config_file, capsys, tmp_path: Path
) -> None:
    (tmp_path / "planted_net.py").write_text(NETWORK)
    run = tmp_path / "run"
    arguments = (
        f"python:{tmp_path / 'planted_net.py'}:Planted",
        "see",
        "--config",
        str(config_file()),
        "--out",
        str(run),
    )
    code, out, err = run_command(capsys, "roles", *arguments, "--json")
    assert code == 0, err
    summary = json.loads(out)
    rows = [json.loads(line) for line in (run / "roles.jsonl").read_text().splitlines()]
    right = sum(
        row["role"]["raised"][:1] != [] and row["role"]["raised"][0]["name"] == f"class {row['index'] % 10}"
        for row in rows[:39]
    )
    assert right >= 38, "95 % of 40 units"
    assert not rows[39]["role"]["raised"]
    assert not rows[39]["role"]["lowered"]
    assert (summary["units"], summary["raising"], summary["with_effect"]) == (40, 39, 39)
    # What is there is read.
    kept = run / "units" / "5.json"
    kept.write_text(kept.read_text().replace("class 5", "of the record"))
    (run / "units" / "6.json").unlink()
    code, out, err = run_command(capsys, "roles", *arguments)
    assert code == 0, err
    assert "of the record" in (run / "roles.jsonl").read_text()
    assert len(list((run / "units").glob("*.json"))) == 40


def test_a_layer_behind_which_nothing_lies_is_refused_before_a_pass_over_the_data(  # type: ignore[no-untyped-def]
    config_file, capsys, tmp_path: Path
) -> None:
    (tmp_path / "planted_net.py").write_text(NETWORK)
    name, run = f"python:{tmp_path / 'planted_net.py'}:Planted", tmp_path / "run"
    code, _, err = run_command(
        capsys, "roles", name, "output", "--config", str(config_file()), "--out", str(run)
    )
    assert code == 2
    assert "cannot be edited" in " ".join(err.split())
    assert not (run / "manifest.json").exists()
