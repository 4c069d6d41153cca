"""Several studies of one unit: resumable, with shared images, and an answer from what they measured."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.chat.base import ChatRequest
from actors.chat.reply import ChatReply
from actors.images import Image
from actors.vision.readout.edits import Edit
from actors.vision.readout.units import Readout
from agents.critic.critic import ConfirmationSettings
from agents.evidence.verdict import HOLDING
from agents.records.journal import Journal, repeats_of
from agents.records.store import Store
from agents.repeats.repeated_study import study_repeatedly
from agents.study.agent import StudyPausedError
from agents.study.settings import InterpreterSettings
from agents.study.study import RunContext, StudyRequest, Supervision
from agents.study.unit_role import RoleFinder, RoleSettings
from agents.tasks.describe_unit import DescribeUnit
from tests.agents.fakes import FakeSandbox
from tests.tools.fakes import FakeStudio, FakeSubject, darken
from tools.subject import NamedOutputs

CODE = "[HYPOTHESIS LIST]:\nHypothesis_1: fruit\n[CODE]:\n```python\nlook\n```"


async def look(host: Any) -> str:
    made = await host.call("text2image", {"prompts": ["a banana on a plate", "a car"]})
    measured = await host.call("measure", {"images": made["images"]})
    return str(measured["activations"])


class Agents:
    """Studies answer "banana", "car" and "yellow banana" in turn of their seeds; the aggregator says
    "banana".
    """

    name, sees_images = "agents", True

    def __init__(self) -> None:
        self.labels: dict[int | None, str] = {}
        self.pooled: list[str] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        opening = request.messages[1].text
        if "CONCEPTS PROPOSED" in opening:
            self.pooled.append(opening)
            return ChatReply("[DESCRIPTION]: Bananas.\n[LABEL]: banana")
        if len(request.messages) == 2:
            return ChatReply(CODE)
        names = ("banana", "car", "yellow banana")
        label = self.labels.setdefault(request.seed, names[len(self.labels) % 3])
        return ChatReply(f"[DESCRIPTION]: It is {label}.\n[LABEL]: {label}")


class Witness:
    """Sees what the studio says an image shows."""

    name, sees_images = "witness", True

    def __init__(self, studio: FakeStudio) -> None:
        self.asked = 0
        self._studio = studio

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked += 1
        question = re.search(r"Does this image show (.+)\? Answer", request.messages[-1].text)
        shown = [self._studio.shows.get(image.id, "") for image in request.messages[-1].images]
        if question is None:
            return ChatReply("Something.")
        return ChatReply("yes" if question[1] in shown[0] else "no")


class Sandboxes:
    dialect = "maia2"

    tier = "fake"

    async def open(self, *, seed: int) -> FakeSandbox:
        return FakeSandbox({"look": look})


class Paused:
    def paused(self) -> bool:
        return True

    def conclude(self) -> str:
        return ""


class World:
    def __init__(self, root: Path) -> None:
        self.store, self.studio, self.agents = Store.open(root), FakeStudio(), Agents()
        self.witness = Witness(self.studio)
        self.subject = FakeSubject(
            self.studio, lambda shown: 4.0 + len(shown) % 3 if "banana" in shown else 0.1, dataset="banana"
        )
        self.context = RunContext(
            interpreter=self.agents,
            observers=self.witness,
            studio=self.studio,
            sandboxes=Sandboxes(),  # type: ignore[arg-type]
            paint=darken,
            settings=InterpreterSettings(),
            confirmation=ConfirmationSettings(min_images=10, max_images=10, probe=0),
            rates={},
            facts={},
        )

    async def study(self, repeats: int = 3, **more: Any) -> dict[str, Any]:
        request = StudyRequest(self.subject, DescribeUnit(), seed=7)
        result = await study_repeatedly(self.context, request, self.store, repeats=repeats, **more)
        return result.to_json()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.slow
async def test_a_pooled_result_lists_the_labels_and_verdicts_of_its_studies(world: World) -> None:
    record = await world.study()
    assert (record["label"], record["seed"]) == ("banana", 7)
    assert record["verdict"] in HOLDING
    assert [each["labels"] for each in record["repeats"]] == [["banana"], ["car"], ["yellow banana"]]
    assert [each["verdict"] in HOLDING for each in record["repeats"]] == [True, False, False]
    pairs = {(p["label_of"], p["images_of"]): p["predicted"] for p in record["agreement"]["pairs"]}
    assert pairs[1, 3] == 1.0
    assert pairs[2, 3] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
async def test_a_repeated_study_counts_what_all_of_it_took(world: World) -> None:
    record = await world.study()
    each = [journal.done().to_json() for journal in repeats_of(world.store, "fake/unit")]
    assert record["images_made"] == sum(one["images_made"] for one in each) == 6
    assert record["images_tested"] > sum(one["images_tested"] for one in each)


@pytest.mark.slow
async def test_studies_share_the_images_of_equal_prompts_and_no_test_does(world: World) -> None:
    await world.study()
    explored = [seed for prompt, seed in world.studio.made if prompt == "a car"]
    tests = [seed for prompt, seed in world.studio.made if prompt.endswith("banana")]
    assert len(set(explored[:1])) == 1
    assert sum(seed == explored[0] for seed in explored) == 3
    assert len(set(tests)) == len(tests)


@pytest.mark.slow
async def test_the_aggregator_reads_figures_and_no_verdict_or_vote(world: World) -> None:
    await world.study()
    (opening,) = world.agents.pooled
    evidence = opening.split("Find the concepts")[0]
    assert "CONCEPT 1 | banana | mean " in evidence
    assert "SEEN | concept 1 in 10 of 10 images of concept 3" in evidence
    assert " | a banana on a plate" in evidence
    assert not re.search(r"confirm|study|AUROC", evidence)


@pytest.mark.slow
async def test_a_finished_repetition_is_read_and_not_made_again(world: World) -> None:
    first = await world.study()
    made, asked = len(world.studio.made), world.witness.asked
    assert await world.study() == json.loads(json.dumps(first))
    assert (len(world.studio.made), world.witness.asked) == (made, asked)


@pytest.mark.slow
async def test_a_pooling_that_was_cut_off_goes_on_from_what_is_on_disk(world: World, tmp_path: Path) -> None:
    first = await world.study()
    folder = tmp_path / Journal(world.store, "fake/unit").folder
    (folder / "done.json").unlink()
    (folder / "rounds" / "0001.json").unlink()
    asked, pooled = world.witness.asked, len(world.agents.pooled)
    again = await world.study()
    assert (again["label"], again["agreement"]) == (first["label"], first["agreement"])
    assert len(world.agents.pooled) == pooled, "the answer of the call is on record"
    assert world.witness.asked == asked


@pytest.mark.slow
async def test_studies_that_are_paused_can_be_taken_up(world: World) -> None:
    with pytest.raises(StudyPausedError):
        await world.study(supervision=Supervision(steering=Paused()))
    assert Journal(world.store, "fake/unit").done() is None
    assert (await world.study())["label"] == "banana"


async def test_a_unit_that_is_studied_once_has_no_repeats(world: World) -> None:
    record = await world.study(repeats=1)
    assert "repeats" not in record
    assert repeats_of(world.store, "fake/unit") == []


class Removable(FakeSubject):
    """A part of a network of three outputs, the first of which it raises by two where it is not ablated."""

    asked = 0

    @property
    def ablation(self) -> Edit:
        return Edit(Readout("layer"), 3, "set", 0.0)

    async def named_outputs(self) -> NamedOutputs:
        return NamedOutputs(["snowplow", "ski", "beach"], softmax=True)

    async def outputs(self, images: Sequence[Image], edits: tuple[Edit, ...] = ()) -> np.ndarray:
        self.asked += bool(edits)
        ablated = bool(edits) and edits[0].how == "set" and edits[0].turned is None
        base = np.array([[int(image.id[:2], 16) / 100, 0.0, 0.0] for image in images])
        return base + np.array([0.0 if ablated else 2.0, 0.0, 0.0])

    async def exemplar_classes(self, k: int) -> list[int | None]:
        return [None] * k


@pytest.mark.slow
async def test_the_role_is_measured_once_for_all_studies_and_not_again_when_one_is_resumed(
    world: World, tmp_path: Path
) -> None:
    world.subject = Removable(
        world.studio, lambda shown: 4.0 + len(shown) % 3 if "banana" in shown else 0.1, dataset="banana"
    )
    world.context = replace(world.context, roles=RoleFinder(RoleSettings(controls=0)))
    record = await world.study()
    assert [effect["name"] for effect in record["role"]["found"]["raised"]] == ["snowplow"]
    assert record["card"]["writes"]["raises"] == ["snowplow"]
    assert record["role"]["found"]["faithful"]["comes"] == "with and without the label"
    assert all(journal.done().role is None for journal in repeats_of(world.store, "fake/unit"))
    asked = world.subject.asked
    assert asked == 2, "ablated, and the placebo"
    # As if it had ended between the role and the result.
    (tmp_path / Journal(world.store, "fake/unit").folder / "done.json").unlink()
    again = await world.study()
    assert world.subject.asked == asked
    assert (again["role"], again["card"]["writes"]) == (record["role"], record["card"]["writes"])
