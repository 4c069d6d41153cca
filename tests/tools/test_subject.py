"""How a subject's activations are spread over its data set."""

from __future__ import annotations

import numpy as np
import pytest

from actors.images import Image, Provenance
from actors.vision.readout.base import SampleError, Unit
from tools.subject import NetworkUnit, RecentImages, histogram


def test_a_histogram_counts_every_finite_value():
    found = histogram(np.array([0.0, 1.0, 1.0, 4.0, np.nan, np.inf], np.float32), bins=4)
    assert found == {"low": 0.0, "high": 4.0, "counts": [1, 2, 0, 1], "n": 4}


@pytest.mark.parametrize("values", [[], [2.0, 2.0], [float("nan")]])
def test_what_does_not_vary_has_no_histogram(values):
    assert histogram(np.array(values, np.float32)) is None


class CountingDataset:
    """Counts how often each image is loaded; an image takes 48 bytes."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.loaded: list[int] = []

    def load(self, index: int) -> Image:
        self.loaded.append(index)
        return Image.from_pixels(np.full((4, 4, 3), index, np.uint8))

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", self.fingerprint, seed=index)


def test_images_of_a_data_set_are_loaded_once_while_there_is_room() -> None:
    recent = RecentImages(limit_bytes=3 * 48)
    one, other = CountingDataset("one"), CountingDataset("other")
    for _ in range(2):
        found = recent.load_all(one, [5, 7])  # type: ignore[arg-type]
        assert [image.pixels[0, 0, 0] for image, _ in found] == [5, 7]
        assert [provenance.seed for _, provenance in found] == [5, 7]
    recent.load_all(other, [5])  # type: ignore[arg-type]
    assert (one.loaded, other.loaded) == ([5, 7], [5]), "two data sets have nothing in common"
    recent.load_all(one, [5, 9, 7])  # type: ignore[arg-type]
    assert one.loaded == [5, 7, 9, 7], "the one that was not wanted for longest made room"


class Classifier:
    """Stands for a network's client: classes win with a logit of 6.5."""

    name = "fake"

    async def winning_logit(self, unit: Unit, dataset: object) -> float:
        if unit.index == 9:
            raise SampleError("nothing can be measured.")
        return 6.5


@pytest.mark.parametrize(
    ("unit", "anchor"),
    [
        (Unit("output", 3, "logit"), 6.5),
        (Unit("output", 9, "logit"), None),
        (Unit("output", 3, "probability"), 0.5),
        (Unit("blocks.6", 3), None),
    ],
)
async def test_a_class_knows_what_images_of_it_reach_and_a_channel_does_not(unit, anchor):
    subject = NetworkUnit(Classifier(), unit, CountingDataset("one"))  # type: ignore[arg-type]
    assert await subject.anchor() == anchor
