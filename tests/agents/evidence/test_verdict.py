"""One word for what became of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.evidence.verdict import HOLDING, MEANINGS, TESTED, VERDICTS, holds, is_confirmed, verdict_of


def found(word):
    return {"status": "answered", "evidence": {"kind": "confirmation", "finding": {"verdict": word}}}


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        *((found(word), word) for word in (*TESTED, "out of reach", "not interpretable", "untested")),
        ({"status": "answered", "confirmed": None, "evidence": None}, "untested"),
        ({"status": "answered"}, "untested"),
        ({"status": "no answer"}, "no answer"),
        ({"status": "refused"}, "no answer"),
        ({"status": "measured"}, "measured"),
        (found("out of reach") | {"status": "measured"}, "out of reach"),
        (found("confirmed") | {"status": "measured"}, "measured"),
        ({"status": "failed"}, "failed"),
        ({"error": {"type": "HostLost"}}, "failed"),
        ({"status": 7, "evidence": "damaged"}, "no answer"),
        ({"status": "answered", "evidence": {"finding": {"verdict": "splendid"}}}, "untested"),
        (None, "in progress"),
        (
            found("confirmed") | {"background": {"mean": 0.37, "maximum": 0.37, "std": 1e-17, "n_images": 9}},
            "dead",
        ),
    ],
)
def test_each_status_has_its_verdict(record, verdict):
    assert verdict_of(record) == verdict
    assert verdict in VERDICTS


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        ({"confirmed": True, "evidence": {"kind": "confirmation"}}, "holds for generated images"),
        ({"confirmed": False, "evidence": {"kind": "confirmation"}}, "not confirmed"),
        ({"confirmed": None, "evidence": {"kind": "abstention"}}, "not interpretable"),
        ({"confirmed": True, "evidence": {"kind": "abstention"}}, "not interpretable"),
    ],
)
def test_a_record_of_an_earlier_version_claims_no_more_than_was_tested_then(record, verdict):
    assert verdict_of({"status": "answered", **record}) == verdict


def test_each_verdict_has_a_sentence():
    assert set(MEANINGS) == set(VERDICTS)
    assert all(sentence.endswith(".") for sentence in MEANINGS.values())


def test_only_one_verdict_is_confirmed_and_three_hold():
    assert [word for word in VERDICTS if is_confirmed(found(word))] == ["confirmed"]
    assert tuple(word for word in VERDICTS if holds(found(word))) == HOLDING


def test_the_documentation_lists_every_verdict_with_its_sentence():
    page = (Path(__file__).parents[3] / "docs" / "evidence.md").read_text()
    assert [word for word, sentence in MEANINGS.items() if f"| `{word}` | {sentence} |" not in page] == []
