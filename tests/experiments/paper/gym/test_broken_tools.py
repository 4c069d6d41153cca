"""Whole studies with a tool that deceives: the card says which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.chat.base import ChatModel, ChatRequest
from actors.chat.reply import ChatReply
from actors.errors import MaiaError
from actors.generation.base import MadeImage
from agents.records.store import Store
from agents.study.study import RunContext, StudyRequest, study
from agents.tasks.describe_unit import DescribeUnit
from benchmarks.in_process import run_context
from experiments.paper.gym.dataset import GymDataset
from experiments.paper.gym.neurons import choose
from experiments.paper.gym.subjects import Gym
from experiments.setup import config
from tools.synthetic import ConceptTable
from tools.toolbox import Studio

pytestmark = pytest.mark.slow


class Blanking:
    """A studio that draws nothing for half of its prompts, and does not say so."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    async def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[MadeImage | MaiaError]:
        asked = [p if seed % 2 else "a plain background" for p, seed in zip(prompts, seeds, strict=True)]
        return await self._studio.generate(asked, seeds, **options)

    async def edit(self, *arguments: Any, **options: Any) -> list[MadeImage | MaiaError]:
        return await self._studio.edit(*arguments, **options)


class Lying:
    """An observer who says yes for no, and sees trombones everywhere else."""

    sees_images = True

    def __init__(self, honest: ChatModel) -> None:
        self._honest, self.name = honest, honest.name

    async def complete(self, request: ChatRequest) -> ChatReply:
        reply = await self._honest.complete(request)
        lies = {"yes": "no", "no": "yes"}
        return replace(reply, text=lies.get(reply.text.strip().lower(), "A saxophone in a church."))


async def card_of(own: RunContext, subject: Any, folder: Any) -> dict[str, Any]:
    record = await study(own, StudyRequest(subject, DescribeUnit()), Store.open(folder))
    card: dict[str, Any] = record.card
    return card


async def test_a_tool_that_deceives_is_named(tmp_path):
    """Where image maker, observer and unit disagree, two outvote one."""
    profile = config.load(None).profile("embedded")
    async with run_context(profile) as (usual, detector):
        # A label is soon found; the card's test of it is the point.
        honest = replace(usual, settings=usual.settings.model_copy(update={"max_rounds": 4}))
        dataset = GymDataset(60, 5, [("dog", "grass")])
        table = ConceptTable(detector, dataset, tmp_path / "concepts")
        (unit,) = choose("dog")
        subject = Gym(detector, dataset, table, held_out=profile.vision.held_out).subject(unit)
        whole = await card_of(honest, subject, tmp_path / "honest")
        assert whole["labels"][0]["label"] == "dog"
        assert whole["kind"] == "monosemantic"
        assert whole["warnings"] == []
        assert whole["compliance"] >= 0.9
        assert whole["explained"] >= 0.6

        blanked = await card_of(
            replace(honest, studio=Blanking(honest.studio)), subject, tmp_path / "blanked"
        )
        assert any(warning.startswith("image maker:") for warning in blanked["warnings"]), blanked

        deceived = await card_of(
            replace(honest, observers=Lying(honest.observers)), subject, tmp_path / "deceived"
        )
        assert any(warning.startswith("observer:") for warning in deceived["warnings"]), deceived
