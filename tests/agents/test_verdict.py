"""One word for what became of a study."""

from __future__ import annotations

import pytest

from agents.verdict import VERDICTS, verdict_of


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        ({"status": "answered", "confirmed": True, "evidence": {"kind": "confirmation"}}, "confirmed"),
        ({"status": "answered", "confirmed": False, "evidence": {"kind": "confirmation"}}, "not confirmed"),
        ({"status": "answered", "confirmed": None, "evidence": {"kind": "abstention"}}, "abstained"),
        ({"status": "answered", "confirmed": True, "evidence": {"kind": "abstention"}}, "abstained"),
        ({"status": "answered", "confirmed": None, "evidence": None}, "untested"),
        ({"status": "answered"}, "untested"),
        ({"status": "no answer"}, "no answer"),
        ({"status": "refused"}, "no answer"),
        ({"status": "measured"}, "measured"),
        ({"status": "failed"}, "failed"),
        ({"error": {"type": "HostLost"}}, "failed"),
        ({"status": 7, "evidence": "damaged"}, "no answer"),
        (None, "in progress"),
    ],
)
def test_each_ending_has_its_word(record, verdict):
    assert verdict_of(record) == verdict
    assert verdict in VERDICTS
