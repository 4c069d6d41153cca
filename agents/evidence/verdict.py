"""What became of a study, in the words that every record, table, page and export uses.

One list, one word each. The label card's `kind` (monosemantic, polysemantic ...) says what the unit is, and
only of labels that hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal[
    "confirmed",
    "holds on your images",
    "holds for generated images",
    "partial",
    "weak",
    "not confirmed",
    "out of reach",
    "not interpretable",
    "dead",
    "untested",
    "no answer",
    "measured",
    "failed",
    "in progress",
]

MEANINGS: dict[Verdict, str] = {
    "confirmed": "New images of the label drive the unit, strongly and more than other things do; it "
    "explains enough of the "
    "unit's strongest images; and it holds on images of the data set that no agent saw.",
    "holds on your images": "On images of the data set that no agent saw, those that show the label drive "
    "the unit strongly, and it explains enough of the strongest; the image maker cannot draw the label or "
    "does not reach the unit, so nothing was tested by experiment.",
    "holds for generated images": "New images of the label drive the unit, strongly and more than other "
    "things do; the data "
    "set could not tell whether it holds on its own images, too.",
    "partial": "New images of the label drive the unit strongly, but it explains too few of the unit's "
    "strongest images: "
    "something else drives it, too.",
    "weak": "New images of the label drive the unit more than other things do, but reach too small a part "
    "of what its "
    "strongest images reach: it is not all that drives the unit, or the image maker draws it badly.",
    "not confirmed": "The label did not stand its test.",
    "out of reach": "No image that was made reaches what the unit's strongest images reach: this image "
    "maker says nothing "
    "about the unit. Use one that can draw such images.",
    "not interpretable": "Images that were made reach the unit's range, and no explanation of it was found.",
    "dead": "The unit gives the same activation for every image of the data set.",
    "untested": "There is a label, and it was put to no test.",
    "no answer": "The study ended without an answer.",
    "measured": "The unit was measured; no agent was asked.",
    "failed": "A fault ended the study.",
    "in progress": "There is no result yet.",
}
"""Best first, each with a sentence for readers."""

VERDICTS: tuple[Verdict, ...] = tuple(MEANINGS)
HOLDING: tuple[Verdict, ...] = ("confirmed", "holds on your images", "holds for generated images")
"""Of a label that holds, at least where it could be tested."""
TESTED: tuple[Verdict, ...] = (*HOLDING, "partial", "weak", "not confirmed")
"""Of a label that was tested conclusively."""

_ROUNDING = 1e-9


def verdict_of(record: Mapping[str, Any] | None) -> Verdict:
    """Return the verdict of a result or a failure on record; None is a study without either."""
    if record is None:
        return "in progress"
    status = record.get("status", "failed")
    if status == "measured":
        return "out of reach" if finding_of(record.get("evidence")) == "out of reach" else "measured"
    if status != "answered":
        return "failed" if status == "failed" else "no answer"
    if is_dead(record):
        return "dead"
    verdict = finding_of(record.get("evidence"))
    return _earlier(record) if verdict is None else verdict


def is_confirmed(record: Mapping[str, Any] | None) -> bool:
    return verdict_of(record) == "confirmed"


def holds(record: Mapping[str, Any] | None) -> bool:
    """Return whether the label of a result holds, at least where it could be tested."""
    return verdict_of(record) in HOLDING


def finding_of(evidence: Any) -> Verdict | None:
    """Return the verdict of an examination; None if it is not on record, as in earlier versions."""
    finding = evidence.get("finding") if isinstance(evidence, Mapping) else None
    word = finding.get("verdict") if isinstance(finding, Mapping) else None
    return word if word in VERDICTS else None


def reason_of(evidence: Any) -> str:
    """Return what the finding rests on, in figures; "" where none is on record."""
    finding = evidence.get("finding") if isinstance(evidence, Mapping) else None
    reason = finding.get("reason") if isinstance(finding, Mapping) else None
    return reason if isinstance(reason, str) else ""


def abstained(evidence: Any) -> bool:
    """Return whether the evidence is that of an answer which names nothing to test."""
    return isinstance(evidence, Mapping) and evidence.get("kind") == "abstention"


def is_dead(record: Mapping[str, Any]) -> bool:
    """Return whether every image of the data set gives the same activation."""
    background = record.get("background")
    if not isinstance(background, Mapping):
        return False
    values = [background.get(key) for key in ("mean", "maximum", "std", "n_images")]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        return False
    mean, maximum, std, n_images = numbers
    # Equal values do not always have a standard deviation of exactly zero.
    return n_images > 1 and std <= _ROUNDING * max(abs(mean), abs(maximum))


def _earlier(record: Mapping[str, Any]) -> Verdict:
    """Return the verdict of a record that was written when a test knew generated images only."""
    if abstained(record.get("evidence")):
        return "not interpretable"
    confirmed = record.get("confirmed")
    if confirmed is None or not isinstance(confirmed, bool):
        return "untested"
    return "holds for generated images" if confirmed else "not confirmed"
