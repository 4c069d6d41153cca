"""What stands above a result: its label, or what was found in place of one.

"Not interpretable" is said of the unit only where the images could have shown an explanation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from agents.evidence.evidence_record import Range
from agents.evidence.verdict import abstained, verdict_of

NO_IMAGE_OF_CLASS = "no label: the data set holds no image of this class"
UNREACHED = "no label: no image that was made drives the unit"


def headline(record: Mapping[str, Any]) -> str:
    """Return the label of a result on record, "" where there is none."""
    label = record.get("label")
    evidence = record.get("evidence")
    if not isinstance(label, str):
        return ""
    if not isinstance(evidence, Mapping) or not abstained(evidence) or verdict_of(record) != "out of reach":
        return label
    return UNREACHED if _in_data(evidence.get("unit")) else NO_IMAGE_OF_CLASS


def _in_data(unit: Any) -> bool:
    """Return whether the data set's images come near what the unit is for; also where that is not known."""
    try:
        return unit is None or Range.model_validate(unit).in_data
    except ValidationError:
        return True
