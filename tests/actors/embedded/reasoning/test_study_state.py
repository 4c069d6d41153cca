"""A conversation is read as evidence, whatever state its observations are in."""

from __future__ import annotations

import pytest

from actors.chat.base import Message
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.reasoning.study_state import read_study
from tests.actors.embedded.language.test_words import SMALL

OPENING = Message("user", ("Study the unit: [HYPOTHESIS LIST], [CODE], then [DESCRIPTION] and [LABEL].",))
PROGRAM = Message("assistant", ("[CODE]:\n```python\ntools.dataset_exemplars(system)\n```",))


def conversation(*observations: str) -> list[Message]:
    turns = [Message("system", ("the API",)), OPENING]
    for text in observations:
        turns += [PROGRAM, Message("user", (text,))]
    return turns


def test_each_printed_line_is_a_measurement_of_its_round() -> None:
    state = read_study(
        conversation("RESULT | 0.91 | dog @ snow ;\nnoise", "RESULT | -1.5e-2 | dog(brown,,2) @  ;"), SMALL
    )
    assert [(row.round, row.activation) for row in state.rows] == [(0, 0.91), (1, -0.015)]
    assert state.rows[1].stimulus == Stimulus((Thing("dog", "brown", 2),))


def test_an_edit_keeps_what_it_was_made_from() -> None:
    (row,) = read_study(conversation("CHANGE | 0.9 -> 0.1 | dog @ snow => sheep @ snow ;"), SMALL).rows
    assert row.before == Stimulus((Thing("dog"),), "snow")
    assert (row.before_activation, row.activation) == (0.9, 0.1)


@pytest.mark.parametrize(
    "cut",
    [
        "RESULT | 0.9",
        "RESULT | 0.91 | dog @ sn",
        "RESULT | nan | dog @ snow ;",
        "EXEMPLAR 1 | 0.",
        "Traceback (most recent call last)\nValueError: boom",
        "",
        "\x00\x1b[31m RESULT RESULT | | ;",
    ],
)
def test_truncated_lines_are_no_measurements(cut: str) -> None:
    state = read_study(conversation(cut), SMALL)
    assert state.rows == []
    assert state.exemplars == []
    assert state.failed_rounds == [0]


def test_exemplars_get_their_own_descriptions() -> None:
    text = (
        "EXEMPLAR 1 | 0.9 ;\nEXEMPLAR 2 | 0.8 ;\nSUMMARY BEGINS\ndogs\nSUMMARY ENDS\n"
        'DESCRIPTIONS BEGIN\n"exemplar 1": A dog.\n"exemplar 2": A sheep.\nDESCRIPTIONS END'
    )
    state = read_study(conversation(text), SMALL)
    assert [each.activation for each in state.exemplars] == [0.9, 0.8]
    assert "dog" in state.exemplars[0].text
    assert "sheep" in state.exemplars[1].text
    assert state.summary == "dogs\n"


def test_an_answer_that_was_sent_back_is_no_failed_program() -> None:
    answer = Message("assistant", ("[DESCRIPTION]: dogs\n[LABEL]: dog",))
    turns = [*conversation("RESULT | 1 | dog @ snow ;"), answer, Message("user", ("It was not confirmed.",))]
    state = read_study(turns, SMALL)
    assert state.rejected == [1]
    assert state.failed_rounds == []
