"""What `--to` gives units is read as it is written, and resampling takes the values of another image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.errors import UsageError
from experiments.effects.new_values import NewValue
from tests.experiments.effects.test_edited_network import arguments, birds, run_command

__all__ = ["birds"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("zero", NewValue("set", 0.0)),
        ("-2.5", NewValue("set", -2.5)),
        ("mean", NewValue("mean")),
        ("resample", NewValue("resample")),
        ("scale:0.5", NewValue("scale", 0.5)),
        ("add:-1", NewValue("add", -1.0)),
        ("clamp:-1,3", NewValue("clamp", -1.0, 3.0)),
    ],
)
def test_each_form_means_one_edit(text: str, meant: NewValue) -> None:
    assert NewValue.of(text) == meant


@pytest.mark.parametrize(
    "text", ["", "off", "nan", "inf", "1e39", "mean:3", "scale", "scale:", "add:x", "clamp:1", "clamp:3,1"]
)
def test_what_is_of_no_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no value that units can be given"):
        NewValue.of(text)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["scale:1", "add:0", "clamp:-9,9"])
def test_a_value_that_changes_nothing_leaves_every_probability(  # type: ignore[no-untyped-def]
    birds, config_file, capsys, tmp_path: Path, to: str
) -> None:
    more = ("--ablate", "cues:0-2", "--to", to, "--out", str(tmp_path / "run"), "--json")
    code, out, err = run_command(capsys, "edit", *arguments(birds, config_file(), *more))
    assert code == 0, err
    result = json.loads(out)
    assert result["overall"]["probability"] == result["overall"]["edited_probability"]
    assert result["values"] == {}


@pytest.mark.slow
def test_with_another_images_cues_the_answer_is_that_of_the_other_image(  # type: ignore[no-untyped-def]
    birds, config_file, capsys, tmp_path: Path
) -> None:
    """All cues are resampled, so that accuracy falls to that of independent labels; again it is the same."""
    more = ("--ablate", "cues:0-2", "--to", "resample", "--json", "--out")
    found = []
    for run in ("one", "again"):
        code, out, err = run_command(
            capsys, "edit", *arguments(birds, config_file(), *more, str(tmp_path / run))
        )
        assert code == 0, err
        found.append(json.loads(out))
    assert found[0] == found[1]
    accuracies = [found[0]["overall"]["edited_accuracy"], found[0]["overall"]["accuracy"]]
    classes = [each["edited_accuracy"] for each in found[0]["classes"]]
    assert accuracies[0] < accuracies[1]
    # Donors are independent of the class: what one class gains the other loses.
    np.testing.assert_allclose(sum(classes), 1.0, atol=0.2)
