"""Records are read as data: of their type, from regular files of the run, within bounds."""

from __future__ import annotations

from dataclasses import fields

import pytest

from actors.chat.base import ChatReply, Usage
from agents.critic.review import Review
from agents.records import record_types


@pytest.mark.parametrize(
    ("record", "built"),
    [
        (record_types.UsageRecord, Usage),
        (record_types.AnswerRecord, ChatReply),
        (record_types.ReviewRecord, Review),
    ],
)
def test_a_record_that_becomes_an_object_has_its_fields(
    record: type[record_types.Record], built: type
) -> None:
    """Otherwise a field that is new in the object would be refused in the records that have it."""
    assert set(record.model_fields) == {each.name for each in fields(built)}
