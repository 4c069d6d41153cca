"""The gym's benchmark counts what it says: wrong labels only among those that stand, and every kind by
itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.bench_gym import _kinds, calibration


def row(kind: str = "mono", **changes: object) -> dict[str, object]:
    usual = {"truth": "dog", "labels": ["dog"], "right": True, "precision": 1.0, "e_value": 5000.0}
    return {"kind": kind, "verdict": "confirmed"} | usual | changes


def written(folder: Path, **runs: list[dict[str, object]]) -> argparse.Namespace:
    for name in ("pairs", "out-of-reach", "within-reach"):
        (folder / name).mkdir()
        rows = runs.get(name.replace("-", "_"), [])
        (folder / name / "synthetic.json").write_text(json.dumps({"rows": rows}))
    return argparse.Namespace(out=folder)


def test_only_labels_that_hold_and_stand_among_all_units_are_counted(tmp_path):
    strange = row(right=False, precision=0.5, labels=["cat"])
    told = calibration(
        written(
            tmp_path,
            pairs=[row() for _ in range(7)] + [row(right=False, labels=["animal"])],
            out_of_reach=[strange, row(e_value=None, verdict="out of reach", right=False, precision=0.0)],
            within_reach=[strange | {"verdict": "weak"}, strange | {"e_value": 1.0}],
        )
    )
    assert "9 of 12 labels" in told
    assert "no part of the unit | 1/9 |" in told
    assert "only a part of it | 2/9 |" in told


def test_runs_that_are_missing_are_named(tmp_path):
    runs = written(tmp_path, pairs=[row()], out_of_reach=[row()])
    (tmp_path / "within-reach" / "synthetic.json").unlink()
    told = calibration(runs)
    assert "They are of the units of pairs, out-of-reach. Not run: within-reach." in told


def test_runs_that_are_missing_are_asked_for(tmp_path):
    with pytest.raises(SystemExit, match="run the parts pairs and reach first"):
        calibration(argparse.Namespace(out=tmp_path))


def test_each_kind_is_counted_against_its_own_target():
    told = _kinds([row(), row("or", right=False, verdict="partial"), row("given")])
    assert "| one concept | 1/1 | 1.00 (0.21 to 1.00) | at least 0.95 | 1 |" in told
    assert "| A OR B | 0/1 | 0.00 (0.00 to 0.79) | at least 0.90 | 0 |" in told
