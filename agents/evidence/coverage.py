"""Which of the unit's strongest images show the label: what a label does not cover, it does not explain."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agents.evidence.evidence_record import Coverage, WitnessedImage
from agents.evidence.statistics import wilson_interval
from agents.evidence.witness import Accuracy

UNCOVERED = 8
"""Strongest images without the label that are kept, of those that agents may see and of those held out."""
_CHANCE = 0.05


def coverage(
    strong: Sequence[WitnessedImage], labels: Sequence[str], witness: Accuracy | None, least: float
) -> Coverage:
    """Return the coverage of the unit's strong images by the labels."""
    clear = [image for image in strong if image.covered is not None]
    shown = sum(image.covered is True for image in clear)
    share = shown / len(clear) if clear else None
    by_label = {}
    for label in labels:
        known = [image.shows[label] for image in strong if image.shows[label] is not None]
        if known:
            by_label[label] = sum(map(bool, known)) / len(known)
    interval = wilson_interval(shown, len(clear))

    def corrected(seen: float | None) -> float | None:
        return None if witness is None or seen is None else witness.share(seen)

    upper = corrected(interval[1])
    return Coverage(
        n=len(clear),
        untold=len(strong) - len(clear),
        shown=shown,
        share=share,
        interval=list(interval),
        corrected=corrected(share),
        labels=by_label,
        least=least,
        upper=interval[1] if upper is None else upper,
    )


def uncovered(images: Sequence[WitnessedImage], above: float) -> list[WitnessedImage]:
    """Return the strongest images above an activation that show no label, strongest first.

    As many of those that agents may see as of those that are held out: an objection shows the former.
    """
    lacking = [image for image in images if image.covered is False and image.activation >= above]
    strongest = sorted(lacking, key=lambda image: -image.activation)
    seen = [image for image in strongest if image.origin != "held back"][:UNCOVERED]
    unseen = [image for image in strongest if image.origin == "held back"][:UNCOVERED]
    return sorted([*seen, *unseen], key=lambda image: -image.activation)


def more_than_missed(images: Sequence[WitnessedImage], above: float, witness: Accuracy | None) -> bool:
    """Return whether more strong images lack the label than a witness of this sensitivity would overlook."""
    seen = [image.covered for image in images if image.covered is not None and image.activation >= above]
    lacking = seen.count(False)
    miss = 0.0 if witness is None else 1 - witness.sensitivity
    n = len(seen)
    at_least = sum(math.comb(n, k) * miss**k * (1 - miss) ** (n - k) for k in range(lacking, n + 1))
    return lacking > 0 and at_least < _CHANCE
