"""What a study that has no result yet is doing: its hypothesis, its newest images, and its course."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.report.records import mapping, number, sequence, text

NEWEST = 4
"""Images that are shown of the newest round."""


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """Read from the rounds so far; empty before the first."""

    hypothesis: str = ""
    """What the agent put first in its newest list."""
    newest: list[list[str]] = field(default_factory=list)
    """The last images that it was shown: of each the paths of its layers below the run directory."""
    strongest: list[float] = field(default_factory=list)
    """The largest activation so far, after each round with a measurement."""


def progress_of(rounds: list[dict[str, Any]], locate: Callable[[Any], Sequence[str]]) -> StudyProgress:
    """Return how a study stands; `locate` returns the paths of a stored image's layers, none if missing."""
    listed = [sequence(record.get("hypotheses")) for record in rounds]
    first = next((text(hypotheses[0]) for hypotheses in reversed(listed) if hypotheses), "")
    shown: list[list[str]] = []
    for record in reversed(rounds):
        images = [mapping(part).get("image") for part in sequence(record.get("observation"))]
        shown = [list(layers) for image in images if image and (layers := locate(image))]
        if shown:
            break
    strongest: list[float] = []
    for record in rounds:
        measured = mapping(mapping(record.get("toolbox")).get("measured")).values()
        known = [value for value in map(number, measured) if value is not None]
        if known:
            strongest.append(max(strongest[-1] if strongest else -math.inf, *known))
    return StudyProgress(first, shown[-NEWEST:], strongest)
