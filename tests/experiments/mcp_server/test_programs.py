"""What a client writes becomes a reply that is read as it was written, or is refused."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from actors.errors import UsageError
from actors.images import Image
from agents.tasks.base import read_hypotheses, read_program
from agents.tasks.describe_unit import DescribeUnit
from experiments.mcp_server import programs

QUOTES = 'a sign that says "it\'s\\n" {name}'


@pytest.mark.parametrize(
    "program",
    [
        programs.exemplars("top", 15),
        programs.exemplars("near", 3),
        programs.measure(["i1", "i20"]),
        programs.generate([QUOTES, "b"], 2, True),
        programs.generate([QUOTES], 1, False),
        programs.edit(["i1", "i2"], [QUOTES], True),
        programs.describe(["i1"]),
        programs.summarize(["i1", "i2"]),
        programs.intervene(["i1"], "clamp", [0.0, 1.5], 0.5),
    ],
)
def test_every_program_of_a_tool_is_python_and_is_read_back_whole(program):
    ast.parse(program)
    assert read_program(programs.experiment(program, ())) == program.rstrip()


def test_words_of_a_client_are_literals_of_the_program():
    (assigned,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(programs.generate([QUOTES], 1, True)).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "prompts"
    ]
    assert assigned == [QUOTES]


def test_a_program_may_hold_fences_and_hypotheses_markers_inside_a_line():
    program = 'text = """\n```\n[LABEL]: x\n```\n"""\nprint(text)'
    reply = programs.experiment(program, ("bananas [LABEL]: cars",))
    assert read_program(reply) == program
    assert read_hypotheses(reply) == ["bananas [LABEL]: cars"]
    assert DescribeUnit().read_answer(reply) is None


@pytest.mark.parametrize("program", ["print(1)\n</think>\nprint(2)", '"""\n<think>\n"""\nprint(2)'])
def test_a_program_that_would_lose_a_part_is_refused(program):
    with pytest.raises(UsageError, match="read as something else"):
        programs.experiment(program, ())


@pytest.mark.parametrize("hypothesis", ["", " \n", "x" * 3000])
def test_hypotheses_that_are_empty_or_too_long_are_refused(hypothesis):
    with pytest.raises(UsageError):
        programs.checked_hypotheses([hypothesis])


def test_an_answer_is_read_as_it_was_given():
    reply = programs.answer(["red  cars", "dogs", "dogs"], "Red\ncars, or dogs.", DescribeUnit())
    answer = DescribeUnit().read_answer(reply)
    assert answer is not None
    assert (answer.labels, answer.description) == (("red cars", "dogs"), "Red cars, or dogs.")


def test_images_are_known_by_the_line_before_them():
    image = Image.from_pixels(np.zeros((4, 4, 3), np.uint8))
    parts = (
        "text\ni3 | 1.50 | a car",
        image,
        "i4 | not measured | a | b",
        image,
        "i5 of no kind",
        image,
    )
    seen = [about for about, _ in programs.seen_images(parts)]
    assert [(each.name, each.activation, each.note) for each in seen] == [
        ("i3", 1.5, "a car"),
        ("i4", None, "a | b"),
    ]
    assert programs.names_in(parts) == ["i3", "i4"]
