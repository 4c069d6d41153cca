"""What a terminal says of a run's units."""

from __future__ import annotations

from experiments.records.headline import UNREACHED
from experiments.runs.found import found_units
from tests.experiments.report.run_directories import LAYER, FakeRun


def test_a_unit_that_no_image_reached_is_not_called_uninterpretable(tmp_path):
    run = FakeRun(tmp_path / "run")
    items = [
        {"unit": run.unit_id(index), "layer": LAYER, "name": str(index), "task": "describe"}
        for index in (3, 5)
    ]
    run.put("plan.json", items)
    run.write_unit(3, "wheels")
    evidence = {"kind": "abstention", "finding": {"verdict": "out of reach", "reason": "Nothing came near."}}
    changes = {"label": "not interpretable", "labels": ["not interpretable"], "confirmed": None}
    run.write_unit(5, done=run.done(5, evidence=evidence, **changes))
    found = [(unit.label, unit.verdict) for unit in found_units(run.root)]
    assert found == [("wheels", "confirmed"), (UNREACHED, "out of reach")]
