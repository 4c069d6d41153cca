"""A synthetic neuron is its formula over detected concepts, and what the data set holds is found once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.detection.backend import DetectionBackend
from actors.detection.base import Detection, DetectRequest
from actors.detection.client import PoolDetector
from actors.detection.compose import Formula
from actors.errors import MaiaError, UsageError
from actors.images import Image, ImageDecodeError, Provenance
from actors.serving.pool import LocalPool
from actors.vision.readout.base import SampleError
from tools.synthetic import ConceptTable, SyntheticNeuron

CONCEPTS = {"dog": 0, "grass": 1, "car": 2}


class Pixels:
    """A detector that reads a concept's score off a pixel: channel c of the first pixel, in 255ths."""

    name = "pixels"
    max_batch = 2

    def __init__(self) -> None:
        self.sought: list[str] = []

    def detect(self, requests: Sequence[DetectRequest]) -> list[Detection | MaiaError]:
        assert 1 <= len(requests) <= self.max_batch
        return [self._one(request) for request in requests]

    def _one(self, request: DetectRequest) -> Detection | MaiaError:
        self.sought.append(request.concept)
        if request.concept not in CONCEPTS:
            return UsageError(f"unknown {request.concept}")
        score = float(request.image.pixels[0, 0, CONCEPTS[request.concept]]) / 255
        mask = np.zeros(request.image.size, bool)
        mask[CONCEPTS[request.concept], :] = score > 0
        return Detection(score, mask)


def picture(*scores: int) -> Image:
    return Image.from_pixels(np.tile(np.array(scores, np.uint8), (4, 5, 1)))


class Pictures:
    """Seven images; the fourth cannot be read."""

    name = fingerprint = "pictures"
    rows = ((255, 0, 0), (51, 51, 0), (0, 255, 0), (0, 0, 0), (102, 204, 0), (0, 0, 255), (204, 0, 51))

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Image:
        if index == 3:
            raise ImageDecodeError("damaged")
        return picture(*self.rows[index])

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", self.name, recipe={"row": index})


@pytest.fixture
def seeker() -> Pixels:
    return Pixels()


@pytest.fixture
async def detector(seeker: Pixels) -> AsyncIterator[PoolDetector]:
    async with LocalPool(DetectionBackend(seeker)) as pool:
        yield PoolDetector(pool)


def neuron(
    detector: PoolDetector, folder: Path, text: str, explored: Sequence[int] = range(7)
) -> SyntheticNeuron:
    table = ConceptTable(detector, Pictures(), folder)
    return SyntheticNeuron(Formula.parse(text), table, np.array(explored))


@pytest.mark.parametrize(
    ("text", "activation", "rows"),
    [
        ("dog", 0.4, {0}),
        ("dog OR grass", 0.6, {0, 1}),
        ("dog|grass", 0.4, {0}),
        ("dog AND NOT grass", 0.0, set()),
    ],
)
async def test_the_map_is_the_activation_on_the_formulas_mask(detector, tmp_path, text, activation, rows):
    (response,) = await neuron(detector, tmp_path, text).measure([picture(102, 204, 0)])
    assert response.activation == pytest.approx(activation)
    assert response.map.shape == (4, 5)
    assert set(np.flatnonzero(response.map.any(1))) == rows
    assert response.map.max() == pytest.approx(activation)


async def test_exemplars_are_the_strongest_explored_images_and_never_reserved_or_damaged_ones(
    detector, tmp_path
):
    unit = neuron(detector, tmp_path, "dog", explored=[1, 2, 3, 4, 6])
    found = await unit.exemplars(3)
    assert [each.provenance.recipe["row"] for each in found] == [6, 4, 1]
    assert [each.response.activation for each in found] == pytest.approx([0.8, 0.4, 0.2])
    background = await unit.background()
    assert background.n_images == 6
    assert background.maximum == pytest.approx(1.0)
    assert background.mask_threshold == 0.0


async def test_all_concepts_cost_one_pass_and_the_next_run_none(detector, seeker, tmp_path):
    reports: list[tuple[int, int]] = []
    table = ConceptTable(detector, Pictures(), tmp_path)
    await table.fill(["dog", "grass", "dog"], lambda done, total: reports.append((done, total)))
    assert sorted(set(seeker.sought)) == ["dog", "grass"]
    assert len(seeker.sought) == 12, "six readable images, two concepts"
    assert reports[-1] == (7, 7)
    assert table.ids[3] == ""
    assert np.isnan(table.scores("dog")[3])
    again = ConceptTable(detector, Pictures(), tmp_path)
    await again.fill(["grass", "dog"])
    assert len(seeker.sought) == 12
    await again.fill(["car", "dog"])
    assert seeker.sought[12:] == ["car"] * 6, "only what is missing"
    np.testing.assert_array_equal(again.scores("dog"), table.scores("dog"))


async def test_an_unknown_concept_is_reports_before_any_pass(detector, tmp_path):
    with pytest.raises(UsageError, match="quokka"):
        await neuron(detector, tmp_path, "dog OR quokka").check()


async def test_a_detectors_failure_is_never_an_absence(detector, tmp_path):
    with pytest.raises(UsageError, match="quokka"):
        await neuron(detector, tmp_path, "quokka").measure([picture(1, 2, 3)])


async def test_what_no_image_tells_is_a_failure_of_its_own_and_never_a_number(detector, tmp_path):
    class Damaged(Pictures):
        fingerprint = "damaged"

        def load(self, index: int) -> Image:
            raise ImageDecodeError("damaged")

    unit = SyntheticNeuron(Formula.parse("dog"), ConceptTable(detector, Damaged(), tmp_path), np.arange(7))
    for ask in (unit.sample, unit.background):
        with pytest.raises(SampleError, match="known on no image of 'pictures'"):
            await ask()


async def test_a_sample_is_of_the_images_that_can_be_read(detector, tmp_path):
    found = await neuron(detector, tmp_path, "dog").sample()
    assert found.dtype == np.float32
    assert found == pytest.approx([1.0, 0.2, 0.0, 0.4, 0.0, 0.8])
