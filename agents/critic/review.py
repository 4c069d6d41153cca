"""The critic's review of an answer."""

from __future__ import annotations

from pydantic import ConfigDict

from agents.evidence.evidence_record import EvidenceRecord
from agents.evidence.record import ImageId, Record


class Review(Record):
    """What the critic said of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    accepted: bool
    """The answer stands."""
    objection: str
    """What the agent is sent when it may go on."""
    evidence: EvidenceRecord
    """The tests and their figures."""
    labels: list[str] | None = None
    """Labels that are accepted in place of the agent's: the simplest that the numbers could not reject."""
    shown: list[ImageId] = []
    """The critic's images that belong to the objection."""
