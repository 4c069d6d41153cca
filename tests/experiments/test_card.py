"""What a study's result says on a terminal."""

from __future__ import annotations

from pathlib import Path

from agents.records.record_types import StudyResult
from experiments.studies.describe import card


def test_the_card_of_repeated_studies_shows_agreement_and_labels() -> None:
    record = {
        "unit": "net/x:0", "status": "answered", "label": "robot", "labels": ["robot"],
        "description": "Robots.", "verdict": "untested", "confirmed": None,
        "agreement": {"value": 0.8}, "rounds": 1, "images_made": 4, "images_tested": 2,
        "repeats": [
            {"number": 1, "labels": ["[b]robot"], "verdict": "confirmed", "rounds": 5}, {"number": 2},
        ],
    }  # fmt: skip
    output = card(StudyResult(**record), Path("p"))
    assert "agreement of 2 studies: 0.80 of the images of each other's tests" in output
    assert "  1: \\[b]robot (confirmed)" in output, "what a model wrote is no markup"
    assert "  2: no label (no verdict)" in output
    assert "6 rounds, 6 images" in output
    alone = StudyResult(**record | {"agreement": {"value": None}})
    assert "not measured: that needs two labels" in card(alone, Path("p"))
