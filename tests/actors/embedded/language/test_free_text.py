"""A request without a task is understood by the words of its prompt."""

from __future__ import annotations

import pytest

from actors.chat.base import Message
from actors.chat.tasks import (
    AuditClassTask,
    ChatTask,
    CheckLabelTask,
    DescribeImagesTask,
    DescribeUnitTask,
    SummarizeImagesTask,
)
from actors.embedded.language.free_text import image_task, names_in, study_task
from actors.embedded.language.words import embedded_words
from agents.critic import skeptic, witness
from agents.study import observers
from agents.tasks.bias import AuditClass
from agents.tasks.describe_unit import DescribeUnit
from agents.tasks.selective import JudgeSelectivity

WORDS = embedded_words()
SELECTIVITY = JudgeSelectivity(("corgi", "bulldog"), ("snow", "dog park"))


@pytest.mark.parametrize(
    ("role", "question", "task"),
    [
        (observers.DESCRIBER, "What does this image show?", DescribeImagesTask()),
        (observers.SUMMARIZER, "What do these images have in common?", SummarizeImagesTask()),
        (skeptic._ROLE, "What do the strong images have in common?", SummarizeImagesTask()),
        (witness._ROLE, "Does this image show a red dog? Answer yes or no.", CheckLabelTask("a red dog")),
        ("", "What is this?", DescribeImagesTask()),
    ],
)
def test_the_prompt_says_what_is_asked_of_images(role: str, question: str, task: ChatTask) -> None:
    assert image_task([Message("system", (role,)), Message("user", (question,))]) == task


@pytest.mark.parametrize("task", [DescribeUnit(), AuditClass("go-kart"), SELECTIVITY], ids=lambda t: t.name)
def test_the_opening_says_what_is_asked_of_a_unit(task: DescribeUnit | AuditClass | JudgeSelectivity) -> None:
    opening = Message("user", (task.opening(),))
    assert study_task([opening], WORDS) == task.chat_task(final=False)
    turns = [opening, Message("assistant", ("...",)), Message("user", (task.last_word(),))]
    assert study_task(turns, WORDS) == task.chat_task(final=True)


def test_only_the_last_message_can_demand_the_answer() -> None:
    task = DescribeUnit()
    turns = [Message("user", (task.opening(),))]
    for text in (task.last_word(), "RESULT | 1 | dog @ snow ;"):
        turns += [Message("assistant", ("...",)), Message("user", (text,))]
    assert study_task(turns, WORDS) == DescribeUnitTask(final=False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the probability of the class 'go-kart' [BIAS]", "go-kart"),
        ("the class: flag_pole\n[BIAS]", "flag_pole"),
        ("How does it see a violin? [BIAS]", "violin"),
        ("[BIAS]", ""),
    ],
)
def test_the_class_is_read_from_the_text(text: str, name: str) -> None:
    assert study_task([Message("user", (text,))], WORDS) == AuditClassTask(name)


def test_listed_names_need_not_be_in_the_vocabulary_and_others_must_be() -> None:
    text = "The four breeds: the corgi, dachshund and bulldog. It happens on the beach."
    assert names_in(text, ("classes", "breeds"), "concept", WORDS) == ("corgi", "dachshund", "bulldog")
    assert names_in(text, ("places",), "background", WORDS) == ("beach",)
