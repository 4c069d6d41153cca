"""Pictures made of a unit are on its page, in the run that studied it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import UsageError
from actors.images import encode_png
from experiments.effects.kept_pictures import keep, studied_unit
from experiments.effects.pictures import AttributedImage, AttributedUnit, VisualizedImage, VisualizedUnit
from tests.experiments.report import markup
from tests.experiments.report.run_directories import LAYER, FakeRun, picture

VISUALIZED = VisualizedUnit(
    model="tf_efficientnet_lite0",
    network="1a2b",
    unit=f"{LAYER}:7",
    steps=256,
    learning_rate=0.05,
    objective="mean",
    images=[VisualizedImage("visualization-0.png", 0, 41.5)],
    dataset="<b>photos</b>",
    exemplars=[9.5, 7.25],
    mean=0.5,
)
ATTRIBUTED = AttributedUnit(
    "tf_efficientnet_lite0",
    "1a2b",
    f"{LAYER}:7",
    "integrated-gradients",
    None,
    [AttributedImage("attribution-01.png", "attribution-01.npy", "dog.jpg", 3.5, 0.0)],
)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    made = FakeRun(tmp_path / "run")
    made.put(
        "manifest.json",
        {"command": "describe", "model": "tf_efficientnet_lite0", "layer": LAYER, "unit": "7", "seed": 3},
    )
    made.put(
        "plan.json",
        [{"unit": made.unit_id(7), "layer": LAYER, "name": "7", "seed": 3}],
    )
    made.write_unit(7)
    return made


def test_pictures_are_on_the_units_page_with_settings_and_the_activation_reached(run, tmp_path):
    (tmp_path / "visualization-0.png").write_bytes(encode_png(picture(1)))
    (tmp_path / "attribution-01.png").write_bytes(encode_png(picture(2)))
    studied = studied_unit(run.root, "tf_efficientnet_lite0", LAYER, "7")
    keep(studied, tmp_path, VISUALIZED)
    kept = keep(studied, tmp_path, ATTRIBUTED)
    shown = next(markup.check(kept.page).find("section", **{"aria-labelledby": "made-title"}))
    text = " ".join(shown.text.split())
    for fact in (
        "256 steps",
        "objective mean",
        "between 7.25 and 9.50",
        "<b>photos</b>",
        "41.50 seed 0",
        "3.50 dog.jpg",
    ):
        assert fact in text
    assert len(list(shown.find("img"))) == 2
    keep(studied, tmp_path, replace(VISUALIZED, images=[*VISUALIZED.images]))
    assert len(list((kept.record.parent).iterdir())) == 2, "the same settings replace what was kept"


@pytest.mark.parametrize(
    ("model", "layer", "unit"), [("resnet50", LAYER, "7"), ("tf_efficientnet_lite0", LAYER, "8")]
)
def test_a_run_of_another_unit_is_refused(run, model, layer, unit):
    with pytest.raises(UsageError, match="pictures are of"):
        studied_unit(run.root, model, layer, unit)
