"""Cards name the roles that were planted in a network, and random units get none more often than chance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import BackendError
from actors.images import Image
from actors.serving.pool import LocalPool
from actors.settings import Placement
from actors.vision.backend import VisionBackend
from actors.vision.client import PoolVisionClient
from actors.vision.networks.network import wrap
from actors.vision.readout.base import Unit
from actors.vision.settings import VisionSettings
from agents.evidence.evidence_record import EvidenceRecord, Trial
from agents.evidence.role import Role
from agents.records.label_card import label_card
from agents.records.record_types import RoleRecord, StudyResult
from agents.study.unit_role import RoleFinder, RoleImages, RoleSettings, measure_role
from experiments.records.roles import RecordedRole
from tests.actors.vision.sweep.test_accumulators import Numbered
from tests.tools.fakes import FakeStudio, FakeSubject
from tools.subject import NetworkUnit

SINGLE, DOUBLE, BOTH, THROUGH = range(16), range(16, 24), range(24, 32), range(32, 36)
CLASSES = tuple(f"class {i}" for i in range(28))
DATA = Numbered(60, size=8)


class Planted(nn.Module):
    """Of its detectors sixteen raise a class each; of eight, either of two is enough for a class; of eight,
    both of two are needed; four raise a class through another unit alone; and the others do nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.see = nn.Conv2d(3, 200, 4, stride=4, bias=False)
        self.then = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.see.weight.copy_(torch.randn(self.see.weight.shape, generator=generator) / 3)
            self.see.weight[20:24] = self.see.weight[16:20]
            self.then.weight.copy_(torch.eye(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.see(x).relu().mean((2, 3))
        either = torch.maximum(seen[:, 16:20], seen[:, 20:24])
        both = torch.minimum(seen[:, 24:28], seen[:, 28:32])
        through = self.then(seen[:, 32:36]).relu()
        return torch.cat([seen[:, :16], either, both, through], 1)


def expected(unit: int) -> list[str]:
    """Return what ablating a unit alone shows that it raises."""
    if unit in SINGLE:
        return [CLASSES[unit]]
    if unit in BOTH:
        return [CLASSES[20 + (unit - 24) % 4]]
    return [CLASSES[24 + unit - 32]] if unit in THROUGH else []


async def client_of(
    module: nn.Module, cache: Path, names: Sequence[str] = ()
) -> tuple[Any, PoolVisionClient]:
    network = wrap(
        module.eval(), name="known", size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), class_names=names
    )
    pool: Any = LocalPool(
        VisionBackend(network, VisionSettings(placement=Placement(threads=1), device="cpu", batch=64))
    )
    return pool, await PoolVisionClient.connect(pool, cache)


@pytest.fixture(scope="module")
async def planted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PoolVisionClient]:
    pool, client = await client_of(Planted(), tmp_path_factory.mktemp("planted"), CLASSES)
    async with pool:
        yield client


def nothing(image_id: str) -> Image:
    raise AssertionError("no image of a label is on record")


async def find(client: PoolVisionClient, unit: Unit, **more: Any) -> RoleRecord:
    settings = RoleSettings(controls=19, control_images=2)
    return await RoleFinder(settings).find(NetworkUnit(client, unit, DATA, **more), None, nothing)


def role_of(record: RoleRecord) -> Role:
    found = RecordedRole.of({"role": record.to_json()}).found
    assert found is not None, record
    return found


@pytest.mark.slow
async def test_cards_name_the_planted_roles(planted: PoolVisionClient) -> None:
    records = await asyncio.gather(*(find(planted, Unit("see", unit)) for unit in range(40)))
    cards = [label_card(StudyResult(unit="u", role=record))["writes"] for record in records]
    named = [card["raises"] for card in cards if card is not None]
    assert sum(words == expected(unit) for unit, words in enumerate(named)) >= 38, "95 % of 40"
    more_than_random = [role_of(record).claimed == bool(expected(n)) for n, record in enumerate(records)]
    assert sum(more_than_random) >= 38


class Random(nn.Module):
    """Two hundred units whose effects on twenty classes are drawn like those of any direction."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.see = nn.Sequential(nn.Conv2d(3, 200, 8, bias=False), nn.ReLU())
        self.head = nn.Linear(200, 20, bias=False)
        with torch.no_grad():
            for layer in (self.see[0], self.head):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.see(x).flatten(1))
        return out


@pytest.mark.slow
async def test_random_units_do_no_more_than_random_changes_but_by_chance(tmp_path: Path) -> None:
    pool, client = await client_of(Random(), tmp_path, CLASSES[:20])
    async with pool:
        settings = RoleSettings(controls=19, control_images=1)

        async def measured(index: int) -> Role:
            unit = NetworkUnit(client, Unit("see.1", index), DATA)
            images = [each.image for each in await unit.exemplars(6)]
            return await measure_role(unit, RoleImages(images), settings)

        roles = await asyncio.gather(*map(measured, range(200)))
    # Binomial with 200 units at 5 %: 19 or more happen in one of a thousand.
    assert sum(each.claimed for each in roles) <= 18
    ps = [each.random.p for each in roles if each.random is not None]
    assert len(ps) == 200
    assert abs(float(np.mean(ps)) - 0.525) < 4 * 0.29 / np.sqrt(200), "uniform on 1/20 ... 20/20"


async def test_of_a_network_without_classes_the_change_of_its_outputs_is_the_role(tmp_path: Path) -> None:
    pool, client = await client_of(Planted(), tmp_path)
    async with pool:
        roles = [role_of(await find(client, Unit("see", unit))) for unit in (3, 17, 38)]
    assert [each.claimed for each in roles] == [True, False, False]
    assert not any(each.named or each.raised or each.lowered for each in roles)
    assert roles[0].norm > 0
    assert roles[0].cosine < 1
    assert (roles[1].norm, roles[1].cosine) == (0, pytest.approx(1, abs=1e-6))


@pytest.mark.parametrize(
    ("unit", "reason"),
    [(Unit("output", 3, "logit"), "output itself"), (Unit("output", 3), "cannot be edited")],
)
async def test_outputs_have_no_role_and_the_record_says_why(planted, unit: Unit, reason: str) -> None:
    record = await find(planted, unit)
    assert (record.status, record.found) == ("none", None)
    assert reason in record.reason


async def test_what_is_no_part_of_a_network_has_none() -> None:
    record = await RoleFinder(RoleSettings()).find(
        FakeSubject(FakeStudio(), lambda shown: 0.0), None, nothing
    )
    assert record.status == "none"
    assert "no part of a network" in record.reason


class Broken(NetworkUnit):
    async def outputs(self, images: Sequence[Image], edits: Any = ()) -> np.ndarray:
        raise BackendError("the device is full.", "Free it.")


async def test_a_fault_costs_the_role_only(planted: PoolVisionClient) -> None:
    record = await RoleFinder(RoleSettings()).find(Broken(planted, Unit("see", 1), DATA), None, nothing)
    assert record.status == "failed"
    assert record.error is not None
    assert (record.error.type, record.error.message, record.error.fix) == (
        "BackendError",
        "the device is full.",
        "Free it.",
    )


async def test_the_effect_is_looked_for_on_images_with_and_without_the_label(planted) -> None:
    subject = NetworkUnit(planted, Unit("see", 1), DATA)
    strong = [each.image for each in await subject.exemplars(8)]
    every = [DATA.load(i) for i in range(60)]
    answers = [response.activation for response in await subject.measure(every)]
    weak = [every[i] for i in np.argsort(answers)[:8]]
    pictures = {image.id: image for image in (*strong, *weak)}

    def trials(images: Sequence[Image]) -> list[Trial]:
        return [Trial(image=image.id, activation=0.0) for image in images]

    evidence = EvidenceRecord(kind="confirmation", positives=trials(strong), controls=trials(weak))
    record = await RoleFinder(RoleSettings()).find(subject, evidence, pictures.__getitem__)
    faithful = role_of(record).faithful
    assert faithful is not None
    assert (faithful.name, faithful.comes) == ("class 1", "with the label")
    assert faithful.with_label > faithful.without_label
    other_way = EvidenceRecord(kind="confirmation", positives=trials(weak), controls=trials(strong))
    record = await RoleFinder(RoleSettings()).find(subject, other_way, pictures.__getitem__)
    faithful = role_of(record).faithful
    assert faithful is not None
    assert faithful.comes != "with the label"


async def test_recognition_of_exemplars_of_known_class_is_measured(planted: PoolVisionClient) -> None:
    async def classes(indices: Sequence[int]) -> list[int | None]:
        return [1 if index % 2 else None for index in indices]

    found = role_of(await find(planted, Unit("see", 1), classes=classes)).recognition
    assert found is not None
    assert 3 <= found.n < 15
    assert found.after <= found.before
    assert role_of(await find(planted, Unit("see", 1))).recognition is None, "no labels"


async def test_edited_images_are_counted(planted: PoolVisionClient) -> None:
    settings = RoleSettings(controls=19, control_images=2)
    subject = NetworkUnit(planted, Unit("see", 2), DATA)
    record = await RoleFinder(settings).find(subject, None, nothing)
    assert role_of(record).edited == 15 + 2 + 19 * 2
    without = await RoleFinder(RoleSettings(controls=0)).find(subject, None, nothing)
    assert (role_of(without).edited, role_of(without).random) == (17, None)
