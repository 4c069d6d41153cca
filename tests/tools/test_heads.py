"""A unit of an attention head is shown with what the head looks at, in agents' images and in people's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from actors.images import Image, Provenance
from actors.masks import paint
from actors.serving.pool import LocalPool
from actors.vision.client import PoolVisionClient
from actors.vision.readout.base import Unit
from tests.actors.vision.gradients.test_head_map import backend_of, few_keys, torchvisions, vit
from tests.actors.vision.readout.test_edits import noise
from tests.tools.fakes import FakeStudio, FakeSubject
from tools.subject import NetworkUnit
from tools.system import SubjectSystem

VIT, TORCH = "blocks.1.attn", "encoder.layers.encoder_layer_1.self_attention"


class Noise:
    """A data set of four images, none of them held out."""

    name = fingerprint = "noise"

    def __len__(self) -> int:
        return 4

    def load(self, index: int) -> Image:
        return noise(index + 1, 32)[index]

    def provenance(self, index: int) -> Provenance:
        return Provenance("dataset", "noise", seed=index)


async def unit_of(make: Callable[[], nn.Module], layer: str, folder: Path) -> NetworkUnit:
    client = await PoolVisionClient.connect(LocalPool(backend_of(make())), folder)
    return NetworkUnit(client, Unit(layer, 2), Noise())


@pytest.mark.parametrize("place", ["@head1", "@head1+cls"])
@pytest.mark.parametrize(("make", "layer"), [(vit, VIT), (torchvisions, TORCH)])
async def test_exemplars_of_a_head_are_masked_where_it_looks(
    make: Any, layer: str, place: str, tmp_path: Path
) -> None:
    subject = await unit_of(make, layer + place, tmp_path)
    (first, *_) = await SubjectSystem(subject, paint).exemplars(4)
    attributed = await backend_of(make()).attribute(first.image, subject.ablation.readout, 2, "attention")
    looks = first.looks
    assert looks is not None
    np.testing.assert_allclose(looks, attributed.map, rtol=1e-4)
    assert first.masked.id != first.image.id
    whole = first.image.pixels.astype(int).sum((2,))
    bright = (first.masked.pixels.sum(2) == whole) | (first.masked.pixels == (255, 0, 0)).all(2)
    at_patches = bright.reshape(8, 4, 8, 4).mean((1, 3))
    assert (
        at_patches[looks > np.quantile(looks, 0.9)].mean()
        > 2 * at_patches[looks < np.quantile(looks, 0.1)].mean()
    )


async def test_maps_of_a_head_stay_those_of_its_unit_and_other_units_look_nowhere(tmp_path: Path) -> None:
    """Donors of an edit and means are values of the unit, not weights of the attention."""
    subject = await unit_of(vit, f"{VIT}@head1", tmp_path)
    (response,) = await subject.measure(noise(1, 32))
    assert response.map.max() == pytest.approx(response.activation, rel=1e-3)
    other = await unit_of(vit, VIT, tmp_path / "other")
    assert await other.looks(noise(1, 32)) == [None]


async def test_a_head_without_weights_between_all_tokens_is_masked_where_its_unit_is_active(
    tmp_path: Path,
) -> None:
    subject = await unit_of(few_keys, "segformer.stages.0.blocks.0.attention@head0", tmp_path)
    (measured,) = await SubjectSystem(subject, paint).measure(noise(1, 32))
    assert measured.looks is None
    assert measured.masked.id != measured.image.id


class Head(FakeSubject):
    """A head that looks at each image with given weights; its own map would be masked otherwise."""

    weights = np.array([[0.5, 0.1], [0.2, 0.2]], np.float32)

    async def looks(self, images: Any) -> Any:
        return [self.weights for _ in images]


@pytest.mark.parametrize(
    ("looks", "bright"),
    [
        ([[0.5, 0.1], [0.2, 0.15]], [[1, 0], [1, 0]]),
        ([[0.7, 0.1], [0.1, 0.1]], [[1, 0], [0, 0]]),
        ([[0.2, 0.2], [0.2, 0.2]], [[1, 1], [1, 1]]),
        ([[0.0, 0.0], [0.0, 0.0]], [[1, 1], [1, 1]]),
    ],
)
async def test_a_mask_keeps_the_fewest_patches_with_most_of_the_attention(looks: Any, bright: Any) -> None:
    shown: list[tuple[np.ndarray, float]] = []

    def painter(image: Image, values: np.ndarray, threshold: float, view: Any) -> Image:
        shown.append((values, threshold))
        return image

    subject = Head(FakeStudio(), lambda words: 3.0)
    subject.weights = np.array(looks, np.float32)
    await SubjectSystem(subject, painter).measure([Image.from_pixels(np.zeros((8, 8, 3), np.uint8))])
    ((values, threshold),) = shown
    assert ((values > threshold) == np.array(bright, bool)).all()
