"""The loop ends for certain, survives every kind of reply, and can be taken up from its journal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.chat.reply import ChatReply
from actors.chat.tasks import DescribeUnitTask
from actors.endpoint.faults import ContextLengthError
from actors.errors import UsageError
from actors.images import Image
from agents.critic.review import Review
from agents.records.journal import Journal, images_tested
from agents.records.record_types import ShownImage
from agents.records.recorded_chat import RecordedChat
from agents.records.store import Store
from agents.study.agent import Agent, AgentParts, StudyOutcome, StudyPausedError
from agents.study.notes import leave_note
from agents.study.settings import InterpreterSettings
from agents.tasks.base import FinalAnswer
from agents.tasks.describe_unit import DescribeUnit
from tests.agents.fakes import FakeSandbox, ScriptedChat, outcome
from tests.tools.fakes import FakeObservers, FakeStudio, FakeSubject, darken
from tools.system import SubjectSystem
from tools.toolbox import Toolbox

ANSWER = "[DESCRIPTION]: Dogs.\n[LABEL]: dogs"
CODE = "[HYPOTHESIS LIST]:\nHypothesis_1: dogs\n[CODE]:\n```python\nlook\n```"


async def look(host: Any) -> str:
    made = await host.call("text2image", {"prompts": ["a dog", "a cat"]})
    measured = await host.call("measure", {"images": made["images"]})
    await host.call("display", {"items": ["dog and cat", *measured["images"]]})
    return f"activations {measured['activations']}"


def reviewed(accepted: bool, objection: str, evidence: dict[str, Any], **known: list[str]) -> Review:
    return Review.model_validate(
        {"accepted": accepted, "objection": objection, "evidence": evidence, **known}
    )


class ScriptedExaminer:
    def __init__(self, *reviews: Review) -> None:
        self._reviews = list(reviews)
        self.examined: list[tuple[FinalAnswer, int]] = []
        self.images: dict[str, Image] = {}

    async def examine(self, answer: FinalAnswer, attempt: int) -> Review:
        self.examined.append((answer, attempt))
        return self._reviews.pop(0)


class Bench:
    """One unit's study with everything scripted but the loop, the tools and the journal."""

    def __init__(self, root: Any) -> None:
        self.store = Store.open(root)
        self.studio = FakeStudio()
        self.subject = FakeSubject(self.studio, lambda shown: 2.0 if "dog" in shown else 0.5)
        self.sandbox = FakeSandbox({"look": look})

    def agent(
        self, chat: ScriptedChat, *, examiner: Any = None, steering: Any = None, **settings: Any
    ) -> Agent:
        toolbox = Toolbox(SubjectSystem(self.subject, darken), self.studio, FakeObservers(), seed=0)
        journal = Journal(self.store, self.subject.id)
        parts = AgentParts(
            chat, self.sandbox, toolbox, DescribeUnit(), journal, "THE API", examiner, journal.notes
        )
        return Agent(parts, InterpreterSettings(**settings), steering=steering)

    async def study(self, *replies: str | ChatReply, **options: Any) -> tuple[StudyOutcome, ScriptedChat]:
        chat = ScriptedChat(replies)
        return await self.agent(chat, **options).run(), chat


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


async def test_a_study_goes_from_experiment_to_answer(bench):
    study, chat = await bench.study(CODE, ANSWER)
    assert study.status == "answered"
    assert study.answer == FinalAnswer(("dogs",), "Dogs.")
    first, second = chat.requests
    assert first.messages[0].text == "THE API"
    observation = second.messages[-1]
    assert observation.text.splitlines() == ["dog and cat", "activations [2.0, 0.5]"]
    assert len(observation.images) == 2
    assert [record.hypotheses for record in study.rounds] == [["dogs"], []]


async def test_the_unit_is_never_named_to_the_model(bench):
    _, chat = await bench.study(CODE, ANSWER)
    assert all("fake/unit" not in message.text for message in chat.requests[-1].messages)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", "empty"),
        ("I wonder.", "neither a program"),
        (ChatReply("```python\nlook", "length"), "cut off"),
        (ChatReply("", "refused"), "declined"),
        (ChatReply("", "filtered"), "filtered"),
    ],
)
async def test_a_reply_without_program_or_answer_gets_a_message(bench, reply, expected):
    study, chat = await bench.study(reply, ANSWER)
    assert study.status == "answered"
    assert expected in chat.requests[1].messages[-1].text
    assert bench.sandbox.ran == []


async def test_a_reply_with_a_program_and_an_answer_runs_the_program_first(bench):
    study, chat = await bench.study(f"{CODE}\n{ANSWER}", ANSWER)
    assert bench.sandbox.ran == ["look"]
    assert "the answer was not taken" in chat.requests[1].messages[-1].text
    assert len(study.rounds) == 2


async def test_a_programs_error_goes_back_as_text_and_what_it_showed_is_kept(bench):
    async def shows(host: Any) -> str:
        await host.call("display", {"items": ["shown before"]})
        return ""

    def fails(host: Any) -> Any:
        host.screen.show(["shown before"])
        return outcome(
            status="error", error="NameError: name 'x' is not defined (line 3)", output="printed\n"
        )

    bench.sandbox = FakeSandbox({"look": fails})
    _, chat = await bench.study(CODE, ANSWER)
    text = chat.requests[1].messages[-1].text
    assert text.splitlines() == [
        "shown before",
        "printed",
        "The program ended with: NameError: name 'x' is not defined (line 3)",
    ]


async def test_before_the_last_reply_a_final_answer_is_demanded_and_then_it_ends(bench):
    study, chat = await bench.study(CODE, CODE, CODE, max_rounds=3)
    assert study.status == "no_answer"
    assert study.answer is None
    assert "final answer now" not in chat.requests[1].messages[-1].text
    assert "final answer now" in chat.requests[2].messages[-1].text
    tasks = [request.task for request in chat.requests]
    assert tasks == [DescribeUnitTask(), DescribeUnitTask(), DescribeUnitTask(final=True)]
    assert bench.sandbox.ran == ["look", "look"], "the last reply's program is not run"


async def test_the_last_reply_answers_and_its_program_is_not_run(bench):
    study, _ = await bench.study(CODE, f"{CODE}\n{ANSWER}", max_rounds=2)
    assert study.status == "answered"


async def test_one_round_alone_demands_the_answer_at_once(bench):
    study, chat = await bench.study(ANSWER, max_rounds=1)
    assert study.status == "answered"
    assert "final answer now" in chat.requests[0].messages[-1].text


async def test_a_model_that_keeps_refusing_ends_the_study_with_a_type(bench):
    refusals = [ChatReply("", "refused"), ChatReply("", "filtered"), ChatReply("", "refused")]
    study, _ = await bench.study(*refusals)
    assert study.status == "refused"


async def test_an_answer_that_fails_its_test_goes_back_as_an_observation(bench):
    examiner = ScriptedExaminer(
        reviewed(False, "not confirmed: go on", {"n": 1}), reviewed(True, "", {"n": 2})
    )
    study, chat = await bench.study(ANSWER, CODE, ANSWER, examiner=examiner)
    assert [attempt for _, attempt in examiner.examined] == [1, 2]
    assert "go on" in chat.requests[1].messages[-1].text
    assert study.review == reviewed(True, "", {"n": 2})
    assert study.status == "answered"


async def test_images_of_an_examination_are_on_disk_with_its_round(bench):
    """A study that is taken up again has the verdict, and would not make its images a second time."""
    examiner = ScriptedExaminer(reviewed(True, "", {}))
    tested = Image.from_pixels(np.full((8, 8, 3), 77, np.uint8))
    examiner.images[tested.id] = tested
    await bench.study(ANSWER, examiner=examiner)
    assert Journal(bench.store, "unit").blobs.get(tested.id) == tested


async def test_the_images_that_examinations_made_are_counted(bench):
    examiner = ScriptedExaminer(
        reviewed(False, "no", {"images_made": 3}), reviewed(True, "", {"images_made": 6})
    )
    study, _ = await bench.study(ANSWER, ANSWER, examiner=examiner)
    assert images_tested(study.rounds) == 9


async def test_an_objection_comes_with_the_images_that_it_speaks_of(bench):
    unexplained, other = (Image.from_pixels(np.full((4, 5, 3), value, np.uint8)) for value in (7, 9))
    examiner = ScriptedExaminer(
        reviewed(False, "and these?", {}, shown=[unexplained.id]), reviewed(True, "", {})
    )
    examiner.images = {unexplained.id: unexplained, other.id: other}
    study, chat = await bench.study(ANSWER, ANSWER, examiner=examiner)
    assert chat.requests[-1].messages[-1].parts == ("and these?", unexplained)
    first, last = study.rounds
    assert first.observation == ["and these?", ShownImage(image=unexplained.id)]
    assert first.review.shown == [unexplained.id]
    assert "shown" not in last.to_json()["verdict"], "as in records of earlier versions"


@pytest.mark.parametrize("worse", [ANSWER.replace("dogs", "cats"), "I cannot tell."])
async def test_an_answer_that_held_stands_where_a_later_one_does_not_hold_or_there_is_none(bench, worse):
    held = {"finding": {"verdict": "confirmed", "reason": ""}}
    lost = {"finding": {"verdict": "not confirmed", "reason": ""}}
    examiner = ScriptedExaminer(
        reviewed(False, "and these?", held, labels=["first"]), reviewed(False, "no", lost)
    )
    study, _ = await bench.study(ANSWER, worse, examiner=examiner, max_examinations=2, max_rounds=2)
    assert (study.status, study.review) == ("answered", reviewed(True, "", held, labels=["first"]))
    assert study.answer == FinalAnswer(("dogs",), "Dogs.")


async def test_after_the_last_examination_the_answer_stands_marked_unconfirmed(bench):
    examiner = ScriptedExaminer(reviewed(False, "no", {}), reviewed(False, "no", {}))
    study, _ = await bench.study(ANSWER, ANSWER, examiner=examiner, max_examinations=2)
    assert study.status == "answered"
    assert study.review is not None
    assert not study.review.accepted


async def test_too_many_images_are_counted_and_not_sent(bench):
    _, chat = await bench.study(CODE, ANSWER, max_images_shown=1)
    observation = chat.requests[1].messages[-1]
    assert len(observation.images) == 1
    assert "first 1 of 2 images" in observation.text


class Steered:
    def __init__(self, *, pause_after: int = 99, conclude_after: int = 99) -> None:
        self._pause_after, self._conclude_after = pause_after, conclude_after
        self.rounds = 0

    def paused(self) -> bool:
        return self.rounds >= self._pause_after

    def conclude(self) -> str:
        self.rounds += 1
        return "The budget is spent." if self.rounds >= self._conclude_after else ""


async def test_a_spent_budget_asks_for_the_answer_and_the_next_reply_is_the_last(bench):
    study, chat = await bench.study(CODE, CODE, CODE, steering=Steered(conclude_after=2))
    assert study.status == "no_answer"
    text = chat.requests[2].messages[-1].text
    assert "The budget is spent." in text
    assert "final answer now" in text
    assert bench.sandbox.ran == ["look", "look"]


async def test_a_paused_study_stops_between_rounds_and_goes_on_later(bench):
    with pytest.raises(StudyPausedError, match="after round 1"):
        await bench.study(CODE, steering=Steered(pause_after=1))
    study, _ = await bench.study(ANSWER)
    assert study.status == "answered"
    assert len(study.rounds) == 2


async def test_a_note_is_read_before_the_next_round_once_and_recorded_in_it(bench):
    """Whoever leaves it, and whichever process goes on: a resumed study reads it in the same place."""
    journal = Journal(bench.store, bench.subject.id)
    leave_note(journal, "look at cats\nRESULT | 9.0 | a cat ;", "ada")
    with pytest.raises(StudyPausedError):
        await bench.study(CODE, steering=Steered(pause_after=1))
    leave_note(journal, "and at night", "ada")
    study, chat = await bench.study(ANSWER)
    _, opening, _, observation = chat.requests[0].messages
    assert opening.text.endswith("> look at cats\n> RESULT | 9.0 | a cat ;")
    assert observation.text.endswith("> and at night")
    assert [[note.number for note in record.notes] for record in study.rounds] == [[1], [2]]
    done = await bench.agent(ScriptedChat([])).run()
    assert done.rounds == study.rounds


async def test_a_note_that_comes_after_a_paid_reply_waits_and_the_reply_is_not_paid_for_again(bench):
    """A run that was cut off between a reply and its round asks what it asked, whatever was written since."""
    journal = Journal(bench.store, bench.subject.id)
    paid = ScriptedChat([CODE, ANSWER])
    chat = RecordedChat(paid, journal, "interpreter")
    leave_note(journal, "look at cats", "ada")
    torn = Steered()
    torn.conclude = {}.popitem  # fails after the program of the round, before the round is written down
    with pytest.raises(KeyError):
        await bench.agent(chat, steering=torn).run()
    leave_note(journal, "and at night", "ada")
    study = await bench.agent(chat).run()
    assert [[note.number for note in record.notes] for record in study.rounds] == [[1], [2]]
    assert len(paid.requests) == 2


@pytest.mark.parametrize("text", ["", " \n ", "x" * 4001])
async def test_a_note_that_says_nothing_or_too_much_is_refused(bench, text):
    with pytest.raises(UsageError, match="1 to 4,000 characters"):
        leave_note(Journal(bench.store, bench.subject.id), text, "ada")


@pytest.mark.parametrize("finished", [1, 2, 3])
async def test_a_study_that_was_cut_off_goes_on_after_its_last_round(bench, tmp_path, finished):
    """Whatever round it was cut off after, the result and the conversation are those of an unbroken run."""
    replies = [CODE, CODE, ANSWER]
    whole_bench = Bench(tmp_path / "whole")
    whole, chat = await whole_bench.study(*replies)

    class CutOff(Exception):
        pass

    first = ScriptedChat(replies)
    agent = bench.agent(first)

    def cut(round_: Any) -> None:
        if round_.number == finished:
            raise CutOff

    agent._on_round = cut
    with pytest.raises(CutOff):
        await agent.run()
    rest = ScriptedChat(replies[finished:])
    bench.sandbox = FakeSandbox({"look": look})
    study = await bench.agent(rest).run()
    assert study == whole or (study.status, study.answer) == (whole.status, whole.answer)
    assert len(first.requests) + len(rest.requests) == len(replies), "no finished round is played again"
    if rest.requests:
        assert rest.requests[-1].messages == chat.requests[-1].messages
        assert len(bench.sandbox.restored) == 1


async def test_images_of_a_resumed_study_are_on_disk(bench):
    study, _ = await bench.study(CODE, ANSWER)
    shown = [part.image for part in study.rounds[0].observation if isinstance(part, ShownImage)]
    blobs = Journal(bench.store, bench.subject.id).blobs
    assert all(isinstance(blobs.get(image_id), Image) for image_id in shown)


async def test_a_conversation_too_long_for_the_model_goes_on_without_its_old_images(bench):
    class ShortMemory(ScriptedChat):
        async def complete(self, request):
            images = sum(len(message.images) for message in request.messages)
            if images > 2:
                raise ContextLengthError("too long")
            self.requests.clear()  # what is sent is no longer append-only
            self.sent = request
            self._replies, reply = self._replies[1:], self._replies[0]
            return reply

    chat = ShortMemory([CODE, CODE, ANSWER])
    study = await bench.agent(chat).run()
    assert study.status == "answered"
    assert [len(message.images) for message in chat.sent.messages] == [0, 0, 0, 0, 0, 2]


async def test_a_filtered_observation_is_left_out_and_the_study_continues(bench):
    """The newest observation goes, not the whole study; a study taken up again leaves out the same."""
    study, chat = await bench.study(CODE, ChatReply("declined by a filter", "filtered"), CODE, ANSWER)
    assert study.status == "answered"
    left_out, filtered = chat.requests[2].messages[3], chat.requests[2].messages[4]
    assert "left out: the model's provider filtered it" in left_out.text
    assert left_out.images == ()
    assert filtered.text == "(filtered)"
    assert chat.requests[3].messages[7].images, "later observations are whole"
    again = bench.agent(ScriptedChat([]))
    await again.run()
    assert tuple(again._messages)[: len(chat.requests[3].messages)] == chat.requests[3].messages


async def test_three_filtered_replies_in_a_row_end_the_study(bench):
    """Each leaves out one more observation, and the third is the last."""
    replies = [CODE, CODE, *[ChatReply("", "filtered")] * 3]
    study, chat = await bench.study(*replies)
    assert study.status == "refused"
    assert [message.images for message in chat.requests[-1].messages] == [()] * len(
        chat.requests[-1].messages
    )


async def test_thoughts_are_on_record_and_are_neither_run_nor_read(bench):
    """A draft in the thoughts is no program, and a label there no answer."""
    thinking = ChatReply(CODE, thoughts=f"{CODE.replace('look', 'draft')}\n{ANSWER}")
    study, chat = await bench.study(thinking, f"<think>{CODE}</think>\n{ANSWER}")
    assert bench.sandbox.ran == ["look"]
    assert study.status == "answered"
    assert "draft" in study.rounds[0].reply.thoughts
    assert "thoughts" not in study.rounds[1].to_json()["reply"]
    assert "draft" not in chat.requests[1].messages[2].text


async def test_a_reply_of_thoughts_alone_gets_a_message(bench):
    """The model learns that its answer did not come through."""
    _, chat = await bench.study(ChatReply("", thoughts="hm"), ANSWER)
    assert "thoughts only" in chat.requests[1].messages[-1].text
