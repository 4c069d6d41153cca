"""The critic's review of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Review:
    """`accepted`, or what to send the agent so that it can go on. `evidence` is plain JSON values.

    `labels`: what is accepted in place of the answer's own labels, where the examiner found simpler ones as
    good.
    """

    accepted: bool
    objection: str
    evidence: dict[str, Any]
    labels: Sequence[str] | None = None
    shown: Sequence[str] = ()
    """Ids of the examiner's images that belong to the objection."""
