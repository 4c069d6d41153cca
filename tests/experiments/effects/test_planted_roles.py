"""The planted role of each of 40 units in two layers is named, by roles and by a program's interventions,
with the effect that the formula gives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actors.images import Image
from actors.serving.pool import LocalPool
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import HeldOutShare
from actors.vision.networks.network import wrap
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from agents.evidence.role import Role
from agents.study.unit_role import RoleImages, RoleSettings, measure_role
from tests.actors.vision.test_backend import ONE_THREAD
from tests.experiments.effects.test_wiring import Noise
from tools.intervention import Intervention
from tools.subject import NetworkUnit

CLASSES = 8
K = 12
SILENT = {"see": {10, 11, 18, 19}, "mix": {18, 19}}
"""The first two are each other's duplicate, behind which the larger of both is read; the others are read by
nothing.
"""
LOWERS = {14, 15, 16, 17}


class Circuit(nn.Module):
    """Twenty detectors, twenty units that each read one or two of them, and eight classes.

    A detector matters only through the unit that reads it: itself (0 to 9), the larger (10 and 11) or the
    smaller (12 and 13) of two.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        convolution = nn.Conv2d(3, 20, 4, stride=4)
        with torch.no_grad():
            convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator) / 6)
            convolution.weight[11] = convolution.weight[10]
            convolution.weight[13] = convolution.weight[12] + 0.02
            convolution.bias.fill_(1.0)  # type: ignore[union-attr]
        self.see, self.mix = nn.Sequential(convolution, nn.ReLU()), Mix()
        self.head = nn.Linear(20, CLASSES, bias=False)
        with torch.no_grad():
            self.head.weight.zero_()
            for unit in range(18):
                self.head.weight[unit % CLASSES, unit] = -1.0 if unit in LOWERS else 1.0

    def forward(self, x: torch.Tensor, layer: str = "", unit: int = 0) -> torch.Tensor:
        """Return the scores; of the unit of a layer, if one is named, zero is passed on."""
        keep = torch.ones(20).index_fill(0, torch.tensor(unit), 0.0)
        see = self.see(x)
        see = see * keep[:, None, None] if layer == "see" else see
        mix = self.mix(see)
        mix = mix * keep[:, None, None] if layer == "mix" else mix
        scores: torch.Tensor = self.head(mix.mean((2, 3)))
        return scores


class Mix(nn.Module):
    def forward(self, see: torch.Tensor) -> torch.Tensor:
        either, both = torch.maximum(see[:, 10], see[:, 11]), torch.minimum(see[:, 12], see[:, 13])
        rest = [see[:, unit] for unit in range(14, 20)]
        return torch.stack([*see[:, :10].unbind(1), either, either / 2, both, both / 2, *rest], 1)


@pytest.fixture
async def vision(tmp_path: Path) -> AsyncIterator[PoolVisionClient]:
    names = tuple(f"class {index}" for index in range(CLASSES))
    network = wrap(Circuit().eval(), name="circuit", size=8, mean=(0,) * 3, std=(1,) * 3, class_names=names)
    settings = VisionSettings(placement=ONE_THREAD, device="cpu", batch=64)
    pool: LocalPool[object, object] = LocalPool(VisionBackend(network, settings))
    async with pool:
        yield await PoolVisionClient.connect(pool, tmp_path / "cache", HeldOutShare(0))


def by_formula(images: list[Image], layer: str, unit: int) -> np.ndarray:
    """Return what the unit adds to each class in the mean, centered, float64 (classes,)."""
    pixels = np.stack([image.pixels for image in images]).astype(np.float32) / 255
    x, module = torch.from_numpy(pixels).permute(0, 3, 1, 2), Circuit().eval()
    with torch.inference_mode():
        effects = (module(x) - module(x, layer, unit)).double().mean(0).numpy()
    centered: np.ndarray = effects - effects.mean()
    return centered


async def role_of(subject: NetworkUnit, images: list[Image]) -> Role:
    return await measure_role(subject, RoleImages(images), RoleSettings(controls=20))


@pytest.mark.slow
async def test_planted_roles_of_forty_units_are_named_with_their_effects(vision: PoolVisionClient) -> None:
    named = 0
    for layer, index in [(layer, index) for layer in SILENT for index in range(20)]:
        subject = NetworkUnit(vision, Unit(layer, index), Noise())
        images = [each.image for each in await subject.exemplars(K)]
        expected, role = by_formula(images, layer, index), await role_of(subject, images)
        program = await subject.intervene(images, Intervention.of("ablate", "zero", None))
        if index in SILENT[layer]:
            assert np.abs(expected).max() < 1e-6
            named += not (role.raised or role.lowered or program.raised or program.lowered)
            continue
        strongest = int(np.abs(expected).argmax())
        claims = [*role.raised, *role.lowered]
        found = max(claims, key=lambda each: abs(each.effect))
        said = max([*program.raised, *program.lowered], key=lambda each: abs(each.change))
        named += found.output == strongest and said.name == f"class {strongest}"
        assert layer == "see" or strongest == index % CLASSES
        for claim in claims:
            assert claim.effect == pytest.approx(expected[claim.output], abs=2e-6)
        # A program is told the change, which is the effect taken away.
        assert said.change == pytest.approx(-expected[strongest], abs=2e-6)
    assert named == 40


@pytest.mark.slow
async def test_a_planted_role_is_more_than_random_changes_do(vision: PoolVisionClient) -> None:
    """A class that one unit alone is wired to, against directions that reach all classes."""
    subject = NetworkUnit(vision, Unit("mix", 3), Noise())
    images = [each.image for each in await subject.exemplars(K)]
    role = await role_of(subject, images)
    assert role.claimed
    assert role.random is not None
    assert role.random.p == pytest.approx(1 / 21)
