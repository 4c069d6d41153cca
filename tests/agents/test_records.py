"""Records are read as data: of their type, from regular files of the run, within bounds."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from actors.chat.reply import ChatReply, Usage
from agents.evidence.verdict import verdict_of
from agents.records import record_types
from agents.records.journal import Journal
from agents.records.label_card import label_card
from agents.records.record_types import (
    AnswerRecord,
    CallRecord,
    Manifest,
    PoolingRecord,
    RoundRecord,
    StudyResult,
    encode_record,
    load_record,
)
from agents.records.run_files import RecordError
from agents.records.store import Store


@pytest.mark.parametrize(
    ("record", "built"),
    [
        (record_types.UsageRecord, Usage),
        (record_types.AnswerRecord, ChatReply),
    ],
)
def test_a_record_that_becomes_an_object_has_its_fields(
    record: type[record_types.Record], built: type
) -> None:
    """Otherwise a field that is new in the object would be refused in the records that have it."""
    assert set(record.model_fields) == {each.name for each in fields(built)}


@pytest.mark.parametrize("reply", [ChatReply("a"), ChatReply("b", "length", Usage(3), "m", "hm", ("cut",))])
def test_a_reply_survives_its_record(reply: ChatReply) -> None:
    assert record_types.ReplyRecord.of(reply).reply() == reply


def test_a_record_is_written_as_it_was_read(tmp_path) -> None:
    """Missing fields stay missing; unknown ones, and what the first versions wrote, stay as they are; and a
    whole number does not become a decimal one.
    """
    store = Store.open(tmp_path)
    first = {"unit": {"low": 0, "high": 1}, "explained": None, "parts": {"dog": [0.5]}}
    values = {"unit": "u", "evidence": {"auroc": 1, "later": [1, None], **first}, "new": {"a": 0.5}}
    store.put("done.json", json.dumps(values, sort_keys=True, indent=1).encode())
    record = load_record(store, "done.json", StudyResult)
    assert record is not None
    assert record.evidence is not None
    assert record.evidence.auroc == 1
    assert encode_record(record) == store.get("done.json")


def test_a_round_of_the_first_version_is_read(tmp_path) -> None:
    """It had null for the programs of a round without any, and knew neither `last` nor `demanded`."""
    store = Store.open(tmp_path)
    reply = {"text": "", "finish": "stop", "usage": {"prompt_tokens": 3}, "model": "m"}
    toolbox = {"draws": {}, "images_made": 1, "activation_threshold": None, "log": [], "provenance": {}}
    values = {"round": 1, "reply": reply, "toolbox": toolbox, "sandbox": None, "answered": True}
    store.put("1.json", json.dumps(values).encode())
    record = load_record(store, "1.json", RoundRecord)
    assert record is not None
    assert (record.toolbox.images_made, record.demanded) == (1, False)
    assert record.to_json() == values


SENT_BACK = {"accepted": False, "objection": "no"}


@pytest.mark.parametrize(
    "values",
    [
        {"round": 0, "reply": {"text": ""}},
        {"round": 1, "reply": {"text": "", "finish": "whatever"}},
        {"round": 1, "reply": {"text": ""}, "toolbox": {"measured": {"../x": 1.0}}},
        {"round": 1, "reply": {"text": ""}, "toolbox": {"measured": {"0" * 8: True}}},
        {"round": 1, "reply": {"text": ""}, "toolbox": {"measured": {"0" * 8: 10**400}}},
        {"round": 1, "reply": {"text": ""}, "observation": [{"image": "/etc/passwd"}]},
        {"round": 1, "reply": {"text": ""}, "verdict": {**SENT_BACK, "evidence": {"strength": 7}}},
        {"round": 1, "reply": {"text": ""}, "verdict": {**SENT_BACK, "evidence": {"retest": [[1.0]]}}},
    ],
)
def test_a_round_that_is_not_of_its_type_is_refused(values, tmp_path) -> None:
    store = Store.open(tmp_path)
    store.put("1.json", json.dumps(values).encode())
    with pytest.raises(RecordError, match=r"1\.json is damaged"):
        load_record(store, "1.json", RoundRecord)


EARLIER = Path(__file__).parent / "records" / "earlier_run"
"""Records of a run from before they had types: parts of `maia describe concept-net concepts 3 --repeat 2`."""
KINDS = {
    "manifest.json": Manifest,
    "done.json": StudyResult,
    "pooling.json": PoolingRecord,
    "0001.json": RoundRecord,
    "answer": AnswerRecord,
    "request-1": CallRecord,
}


def test_records_of_an_earlier_run_are_read_and_written_unchanged() -> None:
    store = Store(EARLIER)
    keys = [key for key in store.keys("") if key != "studied.json"]
    read = set()
    for key in keys:
        kind = next(kind for ending, kind in KINDS.items() if key.endswith(ending))
        record = load_record(store, key, kind)
        assert record is not None
        assert record.to_json() == store.read(key), key
        assert json.dumps(record.to_json(), sort_keys=True) == json.dumps(store.read(key), sort_keys=True), (
            key
        )
        read.add(kind)
    assert read == set(KINDS.values())


def test_the_result_of_an_earlier_run_has_its_verdict_and_card() -> None:
    result = Journal(Store(EARLIER), "concept-net/concepts:3").done()
    assert result is not None
    assert [repeat.verdict for repeat in result.repeats] == ["partial", "holds for generated images"]
    assert verdict_of(result.to_json()) == result.verdict
    assert label_card(result)["labels"] == result.card["labels"]
