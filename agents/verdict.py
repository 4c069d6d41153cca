"""What became of a study, in the words that every record, table, page and export uses.

The label card's `kind` (monosemantic, polysemantic ...) says what the unit is; the verdict, how its label stood the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Verdict = Literal[
    "confirmed", "not confirmed", "abstained", "untested", "no answer", "measured", "failed", "in progress"
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""Best first. `abstained`: the agent found no meaning, which no image can confirm; `untested`: the set-up puts no label to
a test; `measured`: no agent was asked; `in progress`: there is no result yet."""


def verdict_of(record: Mapping[str, Any] | None) -> Verdict:
    """Return the verdict of a result or a failure on record; None is a study without either."""
    if record is None:
        return "in progress"
    status = record.get("status", "failed")
    if status == "measured":
        return "measured"
    if status != "answered":
        return "failed" if status == "failed" else "no answer"
    if abstained(record.get("evidence")):
        return "abstained"
    confirmed = record.get("confirmed")
    return "confirmed" if confirmed is True else "not confirmed" if confirmed is False else "untested"


def abstained(evidence: Any) -> bool:
    """Say whether the evidence is that of an answer which names nothing to test."""
    return isinstance(evidence, Mapping) and evidence.get("kind") == "abstention"
