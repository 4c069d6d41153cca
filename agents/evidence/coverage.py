"""Which of the unit's strongest images show the label: what a label does not cover, it does not explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agents.evidence.statistics import wilson_interval
from agents.evidence.witness import Accuracy

Origin = Literal["exemplar", "held back", "generated", "edited"]
UNCOVERED = 8
"""Strongest images without the label that are kept, of those that agents may see and of those held back."""
_CHANCE = 0.05
_MOST = 0.8
"""A label that surely covers less than this share of the strongest images explains the unit in part only."""


@dataclass(frozen=True, slots=True)
class WitnessedImage:
    """An image, what it does to the unit, and for each label whether the witness sees it there; None: its
    answer was unclear.
    """

    image: str
    activation: float
    origin: Origin
    shows: dict[str, bool | None]
    prompt: str = ""
    """What was asked for; of an exemplar, its rank."""

    @property
    def covered(self) -> bool | None:
        """Whether it shows any label."""
        if any(self.shows.values()):
            return True
        return None if None in self.shows.values() else False


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of `n` strong images of the data set for which the witness gave a clear answer, how many show a label;
    `untold`: images without a clear answer.

    `interval` is Wilson's, of the share as seen; `corrected` allows for the witness's errors, None if these
    are unknown, and `upper` is the interval's upper end with the same allowance.
    """

    n: int
    untold: int
    shown: int
    share: float | None
    interval: tuple[float, float]
    corrected: float | None
    labels: dict[str, float]
    least: float
    upper: float = 1.0

    @property
    def incomplete(self) -> bool:
        """Whether the label surely leaves more than a fifth of them unexplained."""
        return self.upper < _MOST

    @property
    def covers(self) -> bool | None:
        """Whether the label explains enough of them; None where too many answers are unclear."""
        whole = self.n + self.untold
        if not whole:
            return None
        if self.n >= self.untold:
            best = self.share if self.corrected is None else self.corrected
            return best is not None and best >= self.least
        if self.shown >= self.least * whole:
            return True
        return False if self.shown + self.untold < self.least * whole else None


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
        len(clear),
        len(strong) - len(clear),
        shown,
        share,
        interval,
        corrected(share),
        by_label,
        least,
        interval[1] if upper is None else upper,
    )


def uncovered(images: Sequence[WitnessedImage], above: float) -> list[WitnessedImage]:
    """Return the strongest images above an activation that show no label, strongest first.

    As many of those that agents may see as of those that are held back: an objection shows the former.
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
