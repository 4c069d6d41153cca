"""An outside agent's study, from the first tool call to the verdict, is recorded as a built-in one."""

from __future__ import annotations

import asyncio
import json

import anyio
import pytest
from mcp.shared.exceptions import MCPError

from actors.errors import MaiaError
from agents.records.journal import Journal
from agents.records.store import Store
from agents.study.replay import RecordedStudy, replay
from agents.study.settings import InterpreterSettings
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.evaluation.run_labels import gather
from experiments.records.exports.export import export
from experiments.records.headline import UNREACHED
from tests.experiments.mcp_server.conftest import words
from tests.tools.fakes import FakeStudio
from tools.sandbox import api_page


async def investigate(place) -> None:
    """Study a unit as a client would, up to an answer that is sent back."""
    await place.call("open_study", layer="layer", unit="1")
    await place.call("exemplars", study="s1")
    await place.call("log_hypotheses", study="s1", hypotheses=["bananas", "yellow things"])
    await place.call("generate", study="s1", prompts=["a banana", "a car"], per_prompt=2)
    await place.call("edit", study="s1", images=["i16"], instructions=["make it blue"])
    await place.call("run_program", study="s1", program="print(len(images))")
    await place.call("answer", study="s1", labels=["car"], description="Cars.")


def left(rounds: int, images: int) -> dict[str, int]:
    return {"rounds": rounds, "images": images, "descriptions": 1000, "interventions": 1000}


def journal(tmp_path) -> Journal:
    return Journal(Store(tmp_path / "run"), "fake/layer:1")


async def test_a_study_is_recorded_sent_back_and_judged_as_a_built_in_one(connect, tmp_path):
    async with connect() as place:
        await investigate(place)
        done = await place.call("answer", study="s1", labels=["banana"], description="Bananas.")
    assert done.structured_content["state"] == "ended"
    assert done.structured_content["outcome"]["verdict"] == "holds for generated images"
    rounds = journal(tmp_path).rounds()
    assert [record.program is not None for record in rounds] == [True] * 4 + [False] * 2
    assert rounds[1].hypotheses == ["bananas", "yellow things"]
    assert rounds[3].observation == ["20"], "15 exemplars, 4 images and an edit have names"
    assert rounds[4].review is not None
    assert not rounds[4].review.accepted
    assert rounds[5].answered
    result = journal(tmp_path).done()
    assert result is not None
    assert (result.label, result.rounds, result.images_made) == ("banana", 6, 5)
    assert result.in_doubt == []


async def test_results_have_numbers_as_text_and_as_data_beside_the_images(connect):
    async with connect() as place:
        await place.call("open_study", layer="layer", unit="1")
        made = await place.call("generate", study="s1", prompts=["a banana", "a car"])
    assert [part.type for part in made.content] == ["text", "text", "image", "text", "image"]
    assert made.structured_content["images"] == [
        {"name": "i1", "activation": 6.0, "note": "a banana"},
        {"name": "i2", "activation": 0.1, "note": "a car"},
    ]
    assert "i1 | 6.00 | a banana" in words(made)
    assert made.structured_content["left"]["images"] == 38


async def test_who_studied_is_on_record_and_on_the_page_as_untrusted_text(connect, tmp_path):
    async with connect() as place:
        await investigate(place)
        done = await place.call("answer", study="s1", labels=["banana"], description="Bananas.")
        found = await place.call("find_labels", words="BANANA")
    assert journal(tmp_path).done().facts["interpreter"] == "mcp:scripted b client /b 1.0"
    assert found.structured_content["labels"][0]["interpreter"] == "mcp:scripted b client /b 1.0"
    page = (tmp_path / "run" / "report").glob("units/*.html").__next__().read_text()
    assert done.structured_content["outcome"]["report"].endswith(".html")
    assert "An agent from outside studied this unit. It calls itself scripted b client" in page
    exported = export(tmp_path / "run", "jsonl")
    row = json.loads((tmp_path / "run" / exported.path.rpartition("/")[2]).read_text())
    assert row["label"] == "banana"
    (labeled,) = gather(tmp_path / "run", {"again": tmp_path / "run"})
    assert labeled.labels == {"maia": "banana", "again": "banana"}, "as evaluations read it"


async def test_a_recorded_study_comes_out_the_same_when_it_is_played_again(connect, tmp_path, sandboxes):
    async with connect() as place:
        await investigate(place)
    settings = InterpreterSettings(max_rounds=12, max_images=40)
    recorded = RecordedStudy(
        journal(tmp_path), DescribeUnit(), sandboxes, api_page("maia2"), settings, seed=0
    )
    (tmp_path / "scratch").mkdir()
    again = await replay(recorded, tmp_path / "scratch")
    assert (again.rounds, again.divergence, again.reworded) == (5, "", False)


async def test_budgets_refuse_in_the_words_of_the_built_in_loop(connect):
    async with connect(max_images=3) as place:
        await place.call("open_study", layer="layer", unit="1")
        await place.call("generate", study="s1", prompts=["a banana"], per_prompt=2)
        refused = await place.call("generate", study="s1", prompts=["a banana", "a car"])
    assert "This study may make 3 images and 1 are left, but 2 were asked for." in words(refused)
    assert refused.structured_content["left"] == {
        "rounds": 10,
        "images": 1,
        "descriptions": 1000,
        "interventions": 1000,
    }


async def test_the_last_round_takes_nothing_but_the_answer(connect):
    async with connect(max_rounds=2) as place:
        await place.call("open_study", layer="layer", unit="1")
        last = await place.call("exemplars", study="s1")
        refused = await place.call("exemplars", study="s1")
        done = await place.call("answer", study="s1", labels=["car"], description="Cars.")
        again = await place.call("answer", study="s1", labels=["banana"], description="Bananas.")
    assert last.structured_content["must_answer"]
    assert refused.is_error
    assert "no experiments left" in words(refused)
    assert done.structured_content["outcome"]["verdict"] == "out of reach"
    assert again.is_error
    assert "has its answer" in words(again)


async def test_a_unit_that_no_image_reached_is_not_called_uninterpretable(connect):
    async with connect(max_rounds=2) as place:
        await place.call("open_study", layer="layer", unit="1")
        await place.call("exemplars", study="s1")
        done = await place.call("answer", study="s1", labels=["not interpretable"], description="Nothing.")
    outcome = done.structured_content["outcome"]
    assert (outcome["label"], outcome["headline"]) == ("not interpretable", UNREACHED)
    assert "not interpretable" not in words(done)
    assert UNREACHED in words(done)


async def test_no_second_study_of_a_unit_gives_it_another_answer(connect):
    async with connect() as place:
        await investigate(place)
        await place.call("answer", study="s1", labels=["boat"], description="Boats.")
        reopened = await place.call("open_study", layer="layer", unit="1")
    assert reopened.structured_content["study"] == "s2"
    assert reopened.structured_content["state"] == "ended"
    assert reopened.structured_content["outcome"]["label"] == "boat"


async def test_an_objection_shows_what_the_agent_may_see_and_none_of_the_evidence(connect):
    async with connect() as place:
        await investigate(place)
        told = await place.client.read_resource("maia://studies/s1/journal")
        early = await place.client.read_resource("maia://studies/s1/report")
    text = told.contents[0].text
    assert "was not confirmed" in text
    assert "auroc" not in text.lower()
    assert early.contents[0].text == "This study has no result yet."


class StuckOnce(FakeStudio):
    """Does not answer the first request before it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def generate(self, *args, **kwargs):
        if not self.asked.is_set():
            self.asked.set()
            await asyncio.Event().wait()
        return await super().generate(*args, **kwargs)


async def test_a_cancelled_call_ends_its_program_and_costs_no_images(connect, tmp_path):
    async with connect(studio := StuckOnce()) as place:
        await place.call("open_study", layer="layer", unit="1")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: place.call("generate", study="s1", prompts=["a banana"]))
            await studio.asked.wait()
            group.cancel_scope.cancel()
        ready = await place.call("wait", study="s1")
        next_one = await place.call("generate", study="s1", prompts=["a banana"])
    assert "The client cancelled this call" in words(ready)
    assert ready.structured_content["left"] == {
        "rounds": 11,
        "images": 40,
        "descriptions": 1000,
        "interventions": 1000,
    }
    assert next_one.structured_content["left"]["images"] == 39
    assert journal(tmp_path).rounds()[0].outcome.status == "died"


async def test_the_tool_cancel_ends_a_program_while_another_call_waits_for_it(connect):
    async with connect(studio := StuckOnce()) as place:
        await place.call("open_study", layer="layer", unit="1")
        results = []

        async def generate() -> None:
            results.append(await place.call("generate", study="s1", prompts=["a banana"]))

        async with anyio.create_task_group() as group:
            group.start_soon(generate)
            await studio.asked.wait()
            busy = await place.call("exemplars", study="s1")
            await place.call("cancel", study="s1")
    assert "the study is at work" in words(busy)
    assert "The client cancelled this call" in words(results[0])


async def test_a_client_that_left_finds_its_study_as_it_was(connect):
    async with connect() as place:
        await investigate(place)
    async with connect() as place:
        reopened = await place.call("open_study", layer="layer", unit="1")
        measured = await place.call("measure", study="s1", images=["i16"])
        closed = await place.call("close_study", study="s1")
        refused = await place.call("exemplars", study="s1")
    assert reopened.structured_content["rounds"] == 5
    assert "was not confirmed" in words(reopened), "the last observation is shown again"
    assert measured.structured_content["images"][0]["note"] == "i16 again"
    assert not closed.is_error
    assert "this study is closed" in words(refused)


async def test_nothing_starts_before_a_study_and_a_failed_start_is_tried_again(connect, tmp_path):
    async with connect(faults=(MaiaError("the device is busy.", "Wait."),)) as place:
        await place.client.list_tools()
        await place.call("status")
        assert place.starts == []
        failed = await place.call("open_study", layer="layer", unit="1")
        opened = await place.call("open_study", layer="layer", unit="1")
    assert failed.is_error
    assert "the device is busy. Wait." in words(failed)
    assert opened.structured_content["state"] == "ready"


async def test_a_mistyped_unit_leaves_no_run_behind(connect, tmp_path):
    async with connect() as place:
        refused = await place.call("open_study", layer="layers", unit="1")
    assert "has no layer 'layers'" in words(refused)
    assert not (tmp_path / "run").exists()


HOSTILE = {
    "a path as an image": ("measure", {"images": ["/etc/passwd"]}, "no image is called"),
    "an image that was not shown": ("measure", {"images": ["i7"]}, "no image is called 'i7'"),
    "code in a name": ("measure", {"images": ["i1']; import os; ['"]}, "no image is called"),
    "a million prompts": ("generate", {"prompts": ["a"] * 1_000_000}, "1 to 64 items, got 1000000"),
    "a million images": ("generate", {"prompts": ["a"], "per_prompt": 1_000_000}, "from 1 to 64"),
    "a huge prompt": ("generate", {"prompts": ["a" * 1_000_000]}, "1000000 characters"),
    "a huge program": ("run_program", {"program": "#" * 1_000_000}, "1000000 characters"),
    "an empty program": ("run_program", {"program": " \n"}, "the program is empty"),
    "no label": ("answer", {"labels": [], "description": ""}, "1 to 6 labels"),
    "a marker in a label": ("answer", {"labels": ["<x>"], "description": ""}, "marks"),
    "another way to choose": ("exemplars", {"which": "held back"}, "which must be one of"),
    "another kind of intervention": ("intervene", {"images": ["i1"], "kind": "delete"}, "kind must be"),
    "too long a wait": ("wait", {"seconds": 86_400}, "from 0 to 30"),
}


async def test_hostile_arguments_are_refused_in_words_and_cost_nothing(connect):
    async with connect() as place:
        await place.call("open_study", layer="layer", unit="1")
        for tool, arguments, expected in HOSTILE.values():
            refused = await place.call(tool, study="s1", **arguments)
            assert refused.is_error, tool
            assert expected in words(refused)
            assert len(words(refused)) < 2000
        after = await place.call("wait", study="s1", seconds=0)
    assert after.structured_content["left"] == {
        "rounds": 12,
        "images": 40,
        "descriptions": 1000,
        "interventions": 1000,
    }


@pytest.mark.parametrize(
    ("layer", "unit", "expected"),
    [
        ("layer", "latent:/etc/passwd:3", "clients name no files"),
        ("a\x00b", "1", "printable"),
        ("l" * 1000, "1", "1 to 200"),
        ("../../etc", "1", "has no layer"),
    ],
)
async def test_a_study_is_opened_of_units_alone(connect, layer, unit, expected):
    async with connect() as place:
        assert expected in words(await place.call("open_study", layer=layer, unit=unit))


@pytest.mark.parametrize("id", ["s1/../s2", "../manifest.json", "s9", ""])
async def test_an_id_is_none_of_a_path(connect, id):
    async with connect() as place:
        refused = await place.call("exemplars", study=id)
        assert "there is no study" in words(refused)
        with pytest.raises(MCPError):
            await place.client.read_resource(f"maia://studies/{id}/journal")


async def test_descriptions_and_instructions_fit_where_clients_cut_them(connect):
    async with connect() as place:
        tools = (await place.client.list_tools()).tools
        instructions = place.client.instructions
    assert len(instructions.encode()) < 2048
    assert all(0 < len(tool.description.encode()) < 2048 for tool in tools)
    assert all(tool.output_schema for tool in tools)
