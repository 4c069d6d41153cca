"""Attributions equal what is known in closed form, and a visualization drives its unit; hot paths stay as
they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import BackendError, UsageError
from actors.images import Image
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.gradients.visualization import VisualizationSettings
from actors.vision.networks.network import wrap
from actors.vision.readout.requests import Ask, VisionRequest
from actors.vision.readout.units import OUTPUT, Readout
from actors.vision.settings import VisionSettings

SIZE = 24
MIDDLE, SCORES = Readout("middle"), Readout(OUTPUT, "logit")


class TwoLayers(nn.Module):
    """A convolution of 1 x 1, an in-place ReLU, and a linear read-out of the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.middle = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.middle(x)).mean((2, 3)))


class WithoutGradients(TwoLayers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().forward(x)


class CachingPositions(TwoLayers):
    """Makes a tensor in its first pass, in inference mode, as some transformers cache positions."""

    cached: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cached is None:
            self.cached = torch.full((1, 1, *x.shape[2:]), 2.0)
        return super().forward(x * self.cached)


def backend_of(module: nn.Module) -> VisionBackend:
    network = wrap(module, name="two layers", size=SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    return VisionBackend(network, VisionSettings(placement=Placement(threads=1), device="cpu", batch=4))


@pytest.fixture
async def backend() -> AsyncIterator[VisionBackend]:
    made = backend_of(TwoLayers())
    yield made
    await made.close()


def image(seed: int = 0) -> Image:
    return Image.from_pixels(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["integrated-gradients", "gradient-x-input"])
async def test_pixels_of_a_linear_unit_have_what_the_strongest_place_gives_each(
    backend: VisionBackend, method
) -> None:
    shown = image()
    found = await backend.attribute(shown, MIDDLE, 1, method)
    module = backend.network.module
    with torch.no_grad():
        given = backend.network.preprocess.batch([shown.pixels])
        values = module.middle(given)[0, 1]
        place = divmod(int(values.argmax()), SIZE)
        expected = (module.middle.weight[1, :, 0, 0] * given[0, :, place[0], place[1]]).sum()
    assert found.value == pytest.approx(float(values.max()), rel=1e-5)
    assert found.map.shape == (SIZE, SIZE)
    assert found.map[place] == pytest.approx(float(expected), rel=1e-4)
    rest = found.map.copy()
    rest[place] = 0
    assert np.abs(rest).max() <= 1e-5 * abs(found.map[place]), "one position reads one pixel"


async def test_integrated_gradients_add_up_to_the_change_from_the_mean_color(backend: VisionBackend) -> None:
    found = await backend.attribute(image(), SCORES, 2, "integrated-gradients")
    # A sum over 32 points of a path on which each position's ReLU opens at another.
    assert found.map.sum() == pytest.approx(found.value - found.baseline, rel=0.05)


async def test_smoothgrad_of_a_linear_unit_is_its_gradient(backend: VisionBackend) -> None:
    exact = await backend.attribute(image(), MIDDLE, 1, "gradient-x-input")
    smooth = await backend.attribute(image(), MIDDLE, 1, "smoothgrad-x-input")
    assert np.allclose(smooth.map, exact.map, atol=1e-4 * np.abs(exact.map).max())


async def test_what_a_unit_contributes_to_an_output_is_its_gradient_times_its_value(
    backend: VisionBackend,
) -> None:
    shown = image()
    found = await backend.attribute(shown, MIDDLE, 3, 1)
    module = backend.network.module
    with torch.no_grad():
        given = backend.network.preprocess.batch([shown.pixels])
        values = module.middle(given)[0, 3]
        expected = values.clamp(min=0) * module.head.weight[1, 3] / values.numel()
        score = float(module(given)[0, 1])
    assert np.allclose(found.map, expected, atol=1e-6)
    assert found.value == pytest.approx(score, rel=1e-4)


async def test_a_direction_contributes_what_moving_along_it_does(backend: VisionBackend, tmp_path) -> None:
    vector = np.array([0.0, 0.0, 0.0, 2.0], np.float32)
    np.save(tmp_path / "vector.npy", vector)
    direction = Readout("middle", "direction", str(tmp_path / "vector.npy"))
    along = await backend.attribute(image(), direction, 0, 1)
    channel = await backend.attribute(image(), MIDDLE, 3, 1)
    assert np.allclose(along.map, channel.map, atol=1e-6), "twice the value, half the derivative"


async def test_a_visualization_drives_its_unit_more_than_noise_and_the_same_each_time(
    backend: VisionBackend,
) -> None:
    settings = VisualizationSettings(steps=24, seed=3)
    pixels = await backend.visualize(MIDDLE, 2, settings)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, await backend.visualize(MIDDLE, 2, settings))
    module = backend.network.module
    with torch.no_grad():
        reached, noise = (
            float(module.middle(backend.network.preprocess.batch([each]))[0, 2].mean())
            for each in (pixels, image().pixels)
        )
    assert reached > noise


async def test_measuring_goes_on_as_before_after_gradients(backend: VisionBackend) -> None:
    request = VisionRequest(image(5), (Ask(MIDDLE, None),))
    before = (await backend_of(backend.network.module).run([request]))[0].readings[0].activations
    await backend.attribute(image(), MIDDLE, 0, 1)
    after = (await backend.run([request]))[0].readings[0].activations
    assert np.array_equal(before, after)
    assert not any(module._forward_hooks for module in backend.network.module.modules())


async def test_tensors_that_a_network_cached_in_inference_mode_are_no_obstacle() -> None:
    backend = backend_of(CachingPositions())
    found = await backend.attribute(image(), MIDDLE, 1, "gradient-x-input")
    assert np.isfinite(found.map).all()
    await backend.close()


async def test_a_network_without_gradients_is_refused_with_the_reason() -> None:
    backend = backend_of(WithoutGradients())
    with pytest.raises(BackendError, match="no gradient passes through two layers"):
        await backend.visualize(MIDDLE, 0, VisualizationSettings(steps=1))
    with pytest.raises(BackendError, match="no gradient passes"):
        await backend.attribute(image(), MIDDLE, 0, 1)
    await backend.close()


@pytest.mark.parametrize(
    ("readout", "index", "of", "words"),
    [
        (MIDDLE, 4, 1, "numbered 0 to 3, got 4"),
        (Readout("nowhere"), 0, 1, "no layer 'nowhere'"),
        (MIDDLE, 0, 3, "outputs are numbered 0 to 2, got 3"),
        (SCORES, 0, 1, "has no effect on an output"),
    ],
)
async def test_what_cannot_be_attributed_is_named(
    backend: VisionBackend, readout: Readout, index: int, of: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        await backend.attribute(image(), readout, index, of)
