"""Reading what a model wrote, in the many ways that models write it."""

from __future__ import annotations

import pytest

from actors.chat.tasks import DescribeUnitTask
from agents.tasks.base import chat_task_of, read_hypotheses, read_program, read_sections
from agents.tasks.describe_unit import DescribeUnit


def test_several_blocks_are_one_program_in_order():
    reply = "First\n```python\na = 1\n```\nthen\n```py\nprint(a)\n```\n```json\n{}\n```"
    assert read_program(reply) == "a = 1\n\nprint(a)"


@pytest.mark.parametrize("reply", ["", "no code here", "```text\nnot a program\n```", "```python\n\n```"])
def test_a_reply_without_a_program_has_none(reply):
    assert read_program(reply) is None


def test_an_unclosed_block_runs_to_the_end():
    assert read_program("[CODE]:\n```python\nx = 1\n") == "x = 1"


def test_an_indented_fence_and_a_longer_fence_are_read():
    assert read_program("- so:\n  ```python\nx = 1\n  ```") == "x = 1"
    assert read_program('````python\nprint("```")\n````') == 'print("```")'


@pytest.mark.parametrize(
    "reply",
    [
        "[DESCRIPTION]: Dogs on grass.\n[LABEL]: dogs on grass",
        "**[DESCRIPTION]:** Dogs on grass.\n**[LABEL]:** dogs on grass",
        '[DESCRIPTION]\nDogs\non grass.\n\n[LABEL]\n"dogs on grass"',
        "### [Description]: Dogs on grass.\n### [Label]: *dogs on grass*\n",
    ],
)
def test_a_final_answer_is_read_in_any_markdown(reply):
    answer = DescribeUnit().read_answer(reply)
    assert answer is not None
    assert answer.labels == ("dogs on grass",)
    assert answer.description == "Dogs on grass."


def test_numbered_labels_are_labels():
    answer = DescribeUnit().read_answer(
        "[DESCRIPTION]: a OR b\n[LABEL 1]: apples\n[LABEL 2]: blue cars\n[LABEL 2]: apples"
    )
    assert answer is not None
    assert answer.labels == ("apples", "blue cars")
    assert answer.label == "apples OR blue cars"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I think that the label is dogs.",
        "[LABEL]: <final label>",
        "```python\nprint('[LABEL]: dogs')\n```",
        "[LABEL]:",
        "[HYPOTHESIS LIST]:\nHypothesis_1: dogs",
    ],
)
def test_text_without_a_label_is_no_answer(reply):
    assert DescribeUnit().read_answer(reply) is None


def test_hypotheses_are_read_without_their_numbers():
    hypotheses = "Hypothesis_1: dogs\n**Hypothesis 2**: 3 red cars\n- cats\n4. birds"
    reply = f"[HYPOTHESIS LIST]:\n{hypotheses}\n[CODE]:\n```python\n```"
    assert read_hypotheses(reply) == ["dogs", "3 red cars", "cats", "birds"]


def test_sections_stop_at_the_next_marker_and_ignore_programs():
    sections = read_sections("[REASONING]: because\nof this\n[LABEL]: SPURIOUS\n```python\n[BIAS]: no\n```")
    assert sections == {"REASONING": ["because\nof this"], "LABEL": ["SPURIOUS"]}


def test_a_task_of_words_alone_has_no_data():
    class Words:
        name, names_concept = "words", False

        def opening(self) -> str:
            return "What is it?"

        def last_word(self) -> str:
            return "Answer now."

        def read_answer(self, reply: str) -> None:
            return None

    assert chat_task_of(Words(), final=True) is None
    assert chat_task_of(DescribeUnit(), final=True) == DescribeUnitTask(final=True)


def test_an_agent_is_told_the_labels_of_another_method_as_hypotheses():
    task = DescribeUnit(["dog", "dog  with\ngrass"])
    assert task.opening().startswith(DescribeUnit().opening())
    assert task.opening().endswith("- dog\n- dog with grass\n")
    assert "proposes" not in DescribeUnit().opening()
    assert task.chat_task(True) == DescribeUnitTask(True, ("dog", "dog with grass"))


@pytest.mark.parametrize("hypotheses", ["dog", [1], ["dog"] * 9, ["d" * 201], None])
def test_labels_that_an_agent_cannot_be_told_are_refused(hypotheses):
    with pytest.raises((TypeError, ValueError)):
        DescribeUnit(hypotheses)
