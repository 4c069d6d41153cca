"""How well the leading explanation of a unit stands against its rivals, and on what it predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.formulas import Explanation, MeasuredTerms, Merit, auroc
from actors.embedded.reasoning.study_state import Row

CLEAR_GAP = 6.0
"""Nats by which an explanation must lead its rivals to be taken as settled."""
CONFIRMED = 0.85
"""AUROC of an explanation that is confirmed."""
OPEN = 3.5
"""Nats of measured gain from which a condition, an exception or an addition is worth a test of its own."""
LEVEL = 0.001
"""Significance level of what was predicted."""
_ACCEPTABLE = 0.6
_MIN_GAIN = 11.0
"""Nats of measured gain below which even the best of thousands of explanations is none."""
_HASTY = 12.0
"""Nats by which an untested addition must be better to lead all the same."""


@dataclass(frozen=True, slots=True)
class Split:
    """Activations of the images that satisfy an explanation (`on`) and of those that do not (`off`)."""

    on: np.ndarray
    off: np.ndarray

    @property
    def auroc(self) -> float:
        return auroc(self.on, self.off)

    @property
    def middle(self) -> float:
        """Return the value halfway between the two means; the mean of no images is 0."""
        return 0.5 * (mean(self.on) + mean(self.off))


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an explanation, while it led, predicted of a later round's images."""

    formula: Explanation
    split: Split


@dataclass(frozen=True, slots=True)
class Standing:
    """How well the leading explanation stands."""

    merits: list[Merit]
    split: Split
    predicted_auroc: float
    """AUROC on the latest round of the explanation that led before it; 0.5 while there is none."""
    p_predicted: float | None
    """One-sided p-value that what the explanation predicted, while it led, was chance; None before the second
    round.
    """
    settled: bool
    refinements: list[Merit]
    """Explanations that add to the leading one, fit better so far, and rest on too few images."""

    @property
    def lead(self) -> Explanation:
        return self.merits[0].formula

    @property
    def promising(self) -> bool:
        return self.merits[0].measured >= _MIN_GAIN or (
            self.p_predicted is not None and self.p_predicted < LEVEL
        )

    @property
    def acceptable(self) -> bool:
        """Whether it may be the answer. Before anything could be predicted, it must fit the better."""
        if self.merits[0].measured < _MIN_GAIN or len(self.split.on) < 3:
            return False
        if self.p_predicted is None:
            return self.split.auroc >= CONFIRMED
        return self.p_predicted < LEVEL and self.split.auroc >= _ACCEPTABLE


def surprise(forecasts: Sequence[Forecast], formula: Explanation) -> float | None:
    """Return the one-sided Mann-Whitney p-value of all that the explanation predicted while it led; 1 if it
    never did on both sides, None if there was nothing to predict.
    """
    from scipy import stats

    if not forecasts:
        return None
    own = [forecast.split for forecast in forecasts if forecast.formula == formula]
    on = np.concatenate([split.on for split in own]) if own else np.zeros(0)
    off = np.concatenate([split.off for split in own]) if own else np.zeros(0)
    if not len(on) or not len(off) or np.ptp(np.concatenate([on, off])) == 0:
        return 1.0
    return float(stats.mannwhitneyu(on, off, alternative="greater").pvalue)


def led(evidence: MeasuredTerms) -> list[Merit]:
    """Return the best formulas, first the one to act on: an exception or a further concept leads only once it
    was tested.

    A few misses always suggest some exception, and the next few another.
    """
    merits = evidence.ranked()
    for place, merit in enumerate(merits):
        if evidence.tested(merit.formula):
            if all(_hasty(better, merit) for better in merits[:place]):
                return [merit, *merits[:place], *merits[place + 1 :]]
            break
    return merits


@lru_cache(maxsize=96)
def ranked(
    rows: tuple[Row, ...], exemplars: tuple[frozenset[Term], ...], levels: tuple[float, ...], words: Words
) -> tuple[Merit, ...]:
    """As `led`; kept, because each turn of a conversation asks again of all earlier rounds."""
    return tuple(led(MeasuredTerms(rows, exemplars, words, levels)))


def _hasty(better: Merit, simpler: Merit) -> bool:
    return (
        better.formula.operator != "and"
        and adds(better.formula, simpler.formula)
        and better.score < simpler.score + _HASTY
    )


def adds(formula: Explanation, simpler: Explanation) -> bool:
    return set(simpler.terms) < set(formula.terms)


def split(evidence: MeasuredTerms, formula: Explanation) -> Split:
    """Return the rows' activations by whether they satisfy the explanation; unsure ones are left out."""
    truth = evidence.truth(formula)
    return Split(evidence.activations[truth > 0.6], evidence.activations[truth < 0.4])
