"""The unit that carries a planted bias is named, and of groups that do not differ none is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import UsageError
from actors.images import Image
from actors.serving.pool import LocalPool
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.data.held_out import HeldOutShare
from actors.vision.networks.network import wrap
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from agents.records.run_files import RecordError
from agents.records.store import Store
from experiments.audit.carriers.measure import BiasImages, carriers_of, log_odds
from experiments.audit.carriers.page import carrier_blocks, carrier_lines
from experiments.audit.carriers.record import KEY, BiasCarriers, CarrierSection, is_done, read
from experiments.audit.carriers.survey import CarrierSurvey, images_of, readout_of
from experiments.audit.context_survey import ContextEffect
from experiments.audit.real.survey import AuditedClass, Generated
from experiments.setup.config import Profile
from experiments.setup.console import Console
from tests.actors.vision.test_backend import ONE_THREAD
from tests.tools.fakes import FakeStudio


class Leaning(nn.Module):
    """Unit 0 sees the middle, unit 1 the border, which lowers class 0; the others see noise that all logits
    share.
    """

    def __init__(self) -> None:
        super().__init__()
        self.see, self.head = nn.Linear(3 * 64, 6, bias=False), nn.Linear(6, 3, bias=False)
        generator = torch.Generator().manual_seed(2)
        middle = torch.zeros(3, 8, 8)
        middle[:, 2:6, 2:6] = 1 / 48
        border = (middle == 0) / 144
        with torch.no_grad():
            self.see.weight.copy_(torch.randn(self.see.weight.shape, generator=generator) / 30)
            self.see.weight[:2] = torch.stack([middle.flatten(), border.flatten()])
            self.head.weight.fill_(1.0)
            self.head.weight[0, :2] = torch.tensor([2.0, -2.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.see(x.flatten(1)))
        return logits


@pytest.fixture
def backend() -> VisionBackend:
    network = wrap(Leaning().eval(), name="leaning", size=8, class_names=("ant", "bee", "cat"))
    return VisionBackend(network, VisionSettings(placement=ONE_THREAD, device="cpu", batch=64))


@pytest.fixture
async def vision(backend: VisionBackend, tmp_path: Path) -> AsyncIterator[PoolVisionClient]:
    pool: LocalPool[object, object] = LocalPool(backend)
    async with pool:
        yield await PoolVisionClient.connect(pool, tmp_path / "cache", HeldOutShare(0))


def scenes(border: int, n: int, seed: int) -> list[Image]:
    """Return images of noise, their border brighter by so much."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (n, 8, 8, 3)) + border
    pixels[:, 2:6, 2:6] -= border
    return [Image.from_pixels(each.astype(np.uint8)) for each in pixels]


def bias(inside: list[Image], ordinary: list[Image]) -> BiasImages:
    return BiasImages("ant", "background: snow", "generated", 0, inside, ordinary)


async def found_in(vision: PoolVisionClient, images: BiasImages, folder: Path) -> BiasCarriers:
    return await carriers_of(
        vision, await readout_of(vision, "see"), images, Store.open(folder), lambda done, total: None
    )


async def test_the_carrier_of_a_planted_bias_is_named_with_what_is_left_without_it(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    inside, ordinary = scenes(120, 12, 0), scenes(0, 20, 1)
    found = await found_in(vision, bias(inside, ordinary), tmp_path / "run")
    assert [unit.index for unit in found.carriers] == [1]
    assert found.counteracting == []
    assert found.difference < -0.1
    assert abs(found.carriers[0].difference) < abs(found.difference) / 3
    values = await vision.activations([Unit("see", 1)], inside + ordinary)
    # Against the two other classes, whose logits share it with weight 1, it has weight -3.
    expected = -3 * (values[0, :12].mean() - values[0, 12:].mean())
    assert found.carriers[0].effect == pytest.approx(expected, rel=1e-3)
    section = CarrierSection("see", ["net/0"], [found])
    assert "carried by see 1" in carrier_lines(section)[0]
    (block,) = carrier_blocks(section)
    assert "carries it" in block.model_dump_json()


@pytest.mark.slow
async def test_of_groups_that_do_not_differ_no_carrier_is_named(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    named = 0
    for seed in range(20):
        images = bias(scenes(30, 8, 2 * seed), scenes(30, 8, 2 * seed + 1))
        found = await found_in(vision, images, tmp_path / str(seed))
        named += bool(found.carriers or found.counteracting)
    assert named <= 3


async def test_too_few_images_are_said_to_be_so(vision: PoolVisionClient, tmp_path: Path) -> None:
    found = await found_in(vision, bias(scenes(0, 2, 0), scenes(0, 9, 1)), tmp_path / "run")
    assert (found.shares, found.passes) == ([], 0)
    section = CarrierSection("see", ["net/0"], [found])
    assert "too few images (2 in the context, 9" in carrier_lines(section)[0]
    assert "too few images" in carrier_blocks(section)[0].model_dump_json()


async def test_layers_that_carry_nothing_are_refused(vision: PoolVisionClient) -> None:
    for name, message in (("nothing", "no layer"), ("output", "cannot be edited")):
        with pytest.raises(UsageError, match=message):
            await readout_of(vision, name)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "probabilities"])
def test_log_odds_are_those_of_the_probability(kind) -> None:  # type: ignore[no-untyped-def]
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 3
    probability = 1 / (1 + np.exp(-logits))
    if kind == "softmax":
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = probability if kind == "probabilities" else logits
    odds = log_odds(2, kind)(given)
    assert odds == pytest.approx(np.log(probability[:, 2] / (1 - probability[:, 2])))
    assert np.isfinite(log_odds(2, "softmax")(np.array([[0.0, 0.0, 900.0]]))).all()


async def test_images_are_those_of_the_audits_findings_by_turns() -> None:
    studio = FakeStudio()
    audited = AuditedClass("net/0", 0, "kayak", "kayak", 5, 12)
    images = await images_of(studio, audited, ["background: snow", "colour: red"], "rest")
    prompts = [prompt for prompt, _ in studio.made]
    assert len(images) == 24
    assert prompts[:3] == ["kayak in the snow", "red kayak", "kayak in the snow"]
    assert len(set(studio.made)) == 24


async def test_a_survey_shows_each_finding_again_and_records_it(
    vision: PoolVisionClient, tmp_path: Path
) -> None:
    studio, store = FakeStudio(), Store.open(tmp_path / "run")
    lab = SimpleNamespace(studio=studio, dollars_per_image=0.0)
    bench: Any = SimpleNamespace(vision=vision, profile=Profile(), context=lab)
    audited = [AuditedClass("net/0", 0, "ant", "ant", 5, 12), AuditedClass("net/1", 1, "bee", "bee", 5, 12)]
    biased = ContextEffect("bee", "background: snow", 0.3, (0.2, 0.4), 0.8, -0.5, 0.001, 0.01, 48, 0, True)
    ordinary = {"ant": ["colour: red"], "bee": ["background: snow", "colour: red", "size: small"]}
    generated = Generated([biased, replace(biased, context="colour: blue", q=0.9)], ordinary)
    await CarrierSurvey(Console(quiet=True), store, bench, "see", audited, generated).run()
    assert is_done(store, "see", ["net/0", "net/1"])
    section = read(store)
    assert section is not None
    (found,) = section.found
    assert (found.class_name, found.context, found.source) == ("bee", "background: snow", "generated")
    assert (found.inside, found.ordinary, found.units, found.passes) == (24, 24, 6, 6 * 48)
    prompts = [prompt for prompt, _ in studio.made]
    assert prompts[:24] == ["bee in the snow"] * 24
    assert set(prompts[24:]) == {"red bee", "small bee"}
    assert len(list((tmp_path / "run" / "carriers").rglob("*.json"))) == 48


def test_a_record_of_another_layer_or_of_other_classes_is_not_what_was_asked_for(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "run")
    assert read(store) is None
    store.put(KEY, b'{"layer": "see", "audited": ["net/0"], "found": [], "version": 1}')
    assert is_done(store, "see", ["net/0"])
    assert not is_done(store, "late", ["net/0"])
    assert not is_done(store, "see", ["net/0", "net/1"])
    store.replace(KEY, b'{"layer": 3}')
    assert not is_done(store, "see", ["net/0"])
    with pytest.raises(RecordError, match="damaged"):
        read(store)
