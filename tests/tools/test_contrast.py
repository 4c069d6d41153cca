"""Which images are shown next to the strongest, on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from actors.images import Image, Provenance
from actors.vision.readout.base import Scatter, UnitResponse
from tests.tools.fakes import FakeObservers, FakeStudio, FakeSubject, darken
from tools import contrast
from tools.subject import DatasetImage
from tools.system import SubjectSystem
from tools.toolbox import Toolbox, ToolFailedError

RELU = np.r_[np.zeros(60), np.linspace(0.5, 10.0, 40)].astype(np.float32)


def test_quantiles_walk_down_the_firing_range_and_end_with_two_silent_images() -> None:
    chosen = contrast.quantiles(RELU, seed=0)
    values = RELU[[each.row for each in chosen]]
    assert len(chosen) == 12
    assert (np.diff(values[:10]) < 0).all()
    assert values[0] > 9
    assert values[9] < 1.5
    assert values[10:].tolist() == [0, 0]
    assert [each.note for each in chosen[-2:]] == ["silent", "silent"]


def test_of_a_signed_unit_the_lowest_is_what_is_silent() -> None:
    values = np.linspace(-3, 3, 50).astype(np.float32)
    chosen = contrast.quantiles(values, seed=0)
    assert [values[each.row] for each in chosen if each.note == "silent"] == [-3]


def test_the_least_are_a_seeded_draw_of_the_silent_or_the_minimum_of_a_signed_unit() -> None:
    drawn = contrast.least(RELU, 5, seed=1)
    assert drawn == contrast.least(RELU, 5, seed=1)
    assert drawn != contrast.least(RELU, 5, seed=2)
    assert all(RELU[each.row] == 0 for each in drawn)
    assert [each.row for each in contrast.least(RELU - 5, 2, seed=1)] == [0, 1]


def directions(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_near_misses_are_alike_and_silent_and_neither_the_same_picture_nor_used_twice() -> None:
    vectors = directions(1, 20, 25, 90, 22)
    values = np.array(
        [0.0, 0.2, 0.1, 0.0, 5.0], np.float32
    )  # the same picture, two look-alikes, another, one that fires
    chosen = contrast.near(values, vectors, np.array([8.0, 7.0]), directions(0, 0))
    assert [each.row for each in chosen] == [1, 3], "the second look-alike is the same picture as the first"
    assert chosen[0].note == "like exemplar 1 (similarity 0.94), and silent, or nearly"


def test_the_same_picture_is_shown_once() -> None:
    chosen = [contrast.Chosen(row, "") for row in (2, 0, 1, 3)]
    kept = contrast.distinct(chosen, directions(0, 45, 2, 90))
    assert [each.row for each in kept] == [2, 1, 3]


def test_two_kinds_of_exemplars_are_two_groups_and_one_kind_is_one() -> None:
    spread = np.random.default_rng(0).normal(0, 4, 12)
    two = contrast.modes(directions(*(spread[:5] + 10), *(spread[5:] + 120)))
    assert [each.row for each in two] == [*range(5, 12), *range(5)]
    assert {each.note for each in two} == {"group 1 of 2", "group 2 of 2"}
    one = contrast.modes(np.eye(8))
    assert {each.note for each in one} == {"group 1 of 1: no groups stand apart"}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_exemplars_are_one_group(count: int) -> None:
    assert [each.row for each in contrast.modes(np.eye(8)[:count])] == list(range(count))


class BrowsableSubject(FakeSubject):
    """Its images are compared by their first pixel; image i of its scatter has the index 100 + i."""

    asked: list[int]

    async def scatter(self) -> Scatter:
        features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
        return Scatter(np.arange(100, 140), np.r_[np.zeros(30), np.arange(10)].astype(np.float32), features)

    async def features(self, images: list[Image]) -> np.ndarray:
        return np.stack([image.pixels[0, 0] for image in images]).astype(np.float32)

    async def pictures(self, indices: list[int]) -> list[DatasetImage]:
        self.asked = list(indices)
        image = self._dataset[0]
        return [
            DatasetImage(image, Provenance("dataset", "fake", str(i)), UnitResponse(1.0, np.ones((2, 2))))
            for i in indices
        ]


async def test_a_program_gets_masked_images_with_the_reason_for_each() -> None:
    studio = FakeStudio()
    subject = BrowsableSubject(studio, len)
    box = Toolbox(SubjectSystem(subject, darken), studio, FakeObservers(), seed=0)
    await box.call("exemplars", {})
    for which in contrast.WHICH:
        answer = await box.call("exemplars_by", {"which": which, "k": 6})
        assert len(answer["activations"]) == len(answer["images"]) == len(answer["notes"]) > 0
    assert all(100 <= index < 130 for index in subject.asked), "the lowest of 40 are silent ones"


async def test_a_unit_that_tells_only_its_strongest_says_so() -> None:
    studio = FakeStudio()
    box = Toolbox(SubjectSystem(FakeSubject(studio, len), darken), studio, FakeObservers(), seed=0)
    assert len((await box.call("exemplars_by", {"which": "top", "k": 4}))["images"]) == 4
    with pytest.raises(ToolFailedError, match="only its strongest images are known"):
        await box.call("exemplars_by", {"which": "near", "k": 4})
