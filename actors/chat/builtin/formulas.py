"""Hypotheses as formulas over terms, and how well each explains what was measured.

A formula says which images drive a unit: those that show a term, one of several (or), all of two (and), or
one without another (without). Its merit is the gain in log-likelihood of a two-level model of the activations
(formula true or not, Gaussian noise) over a constant, plus the tempered surprise that so many
exemplars satisfy it, minus a price for each term. Everything is in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.chat.builtin.reading import Row
from actors.chat.builtin.words import Term, Words

Operator = Literal["is", "or", "and", "without"]


@dataclass(frozen=True, slots=True)
class Formula:
    """`is`: one term. `or`: any of the terms. `and`: both. `without`: the first and not the second."""

    operator: Operator
    terms: tuple[Term, ...]

    def truth(self, columns: np.ndarray) -> np.ndarray:
        """Return the probability of truth (n,) from that of each of its terms (n, len(terms))."""
        if self.operator == "or":
            return 1 - np.prod(1 - columns, axis=1)
        if self.operator == "without":
            return columns[:, 0] * (1 - columns[:, 1])
        return np.prod(columns, axis=1)

    def __str__(self) -> str:
        join = {"is": "", "or": " or ", "and": " together with ", "without": " without "}[self.operator]
        return join.join(str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Merit:
    """A formula with its score, in nats above "nothing explains it", and the part due to measurements."""

    formula: Formula
    score: float
    measured: float


_NOISE_FLOOR = 0.05
"""Smallest noise believed in, as a share of the activations' range: no fit is perfect for sure."""
_EXEMPLAR_WEIGHT = 0.25
"""Exemplars share the biases of their data set, so their log-odds count for less than an experiment's."""
_TERM_PRICE = 5.0
_LEADS = 6
_MAX_TERMS = 4


def truth_table(shown: Sequence[dict[Term, float]], terms: Sequence[Term]) -> np.ndarray:
    """Return float64 (len(shown), len(terms)): how surely each image shows each term."""
    index = {term: column for column, term in enumerate(terms)}
    table = np.zeros((len(shown), len(terms)))
    for row, each in enumerate(shown):
        for term, sure in each.items():
            if term in index:
                table[row, index[term]] = sure
    return table


class Evidence:
    """Measurements `rows` and the terms seen in each lit exemplar, ready to score formulas."""

    def __init__(self, rows: Sequence[Row], exemplars: Sequence[frozenset[Term]], words: Words) -> None:
        self.rows, self.exemplars, self.words = list(rows), list(exemplars), words
        shown = [row.stimulus.terms(words) for row in rows]
        # A term that two images share at least can explain something; a lone one is luck.
        counts: dict[Term, int] = {}
        for terms in (*shown, *exemplars):
            for term in terms:
                counts[term] = counts.get(term, 0) + 1
        self.terms: list[Term] = sorted(term for term, count in counts.items() if count >= 2)
        self._column = {term: column for column, term in enumerate(self.terms)}
        self.activations = np.array([row.activation for row in rows], dtype=float)
        self._table = truth_table(shown, self.terms)
        self._exemplar_table = truth_table([dict.fromkeys(each, 1.0) for each in exemplars], self.terms)
        self._base = np.array([words.base_rate(term) for term in self.terms])

    def truth(self, formula: Formula) -> np.ndarray:
        """Return how surely each row satisfies the formula, (n rows,)."""
        return formula.truth(truth_table([row.stimulus.terms(self.words) for row in self.rows], formula.terms))

    def ranked(self, limit: int = 40) -> list[Merit]:
        """Return the best formulas, best first, each better than nothing."""
        found = self._score([Formula("is", (term,)) for term in self.terms])
        leads = [merit.formula.terms[0] for merit in found[:_LEADS]]
        pairs: set[Formula] = set()
        for lead in leads:
            for other in self.terms:
                if other == lead or _implied(lead, other, self.words):
                    continue
                first, second = sorted((lead, other))
                pairs.add(Formula("or", (first, second)))
                pairs.add(Formula("and", (first, second)))
                pairs.add(Formula("without", (lead, other)))
        found = _merged(found, self._score(sorted(pairs, key=str)))
        for size in range(3, _MAX_TERMS + 1):
            wider = {
                Formula("or", tuple(sorted({*merit.formula.terms, other})))
                for merit in found[:_LEADS]
                if merit.formula.operator == "or" and len(merit.formula.terms) == size - 1
                for other in self.terms
                if other not in merit.formula.terms
                and not any(_implied(term, other, self.words) for term in merit.formula.terms)
            }
            if not wider:
                break
            found = _merged(found, self._score(sorted(wider, key=str)))
        return [merit for merit in found if merit.score > 0][:limit]

    def merit(self, formula: Formula) -> Merit:
        for term in formula.terms:
            if term not in self._column:
                return Merit(formula, -np.inf, 0.0)
        return self._score([formula])[0]

    def _score(self, formulas: Sequence[Formula]) -> list[Merit]:
        if not formulas:
            return []
        columns = [[self._column[term] for term in formula.terms] for formula in formulas]
        truth = np.stack(
            [f.truth(self._table[:, c]) for f, c in zip(formulas, columns, strict=True)]
        )  # (formulas, rows)
        measured = _two_level_gain(truth, self.activations)
        seen = np.stack(
            [f.truth(self._exemplar_table[:, c]) for f, c in zip(formulas, columns, strict=True)]
        ).sum(axis=1)
        base = np.array(
            [float(f.truth(self._base[c][None])[0]) for f, c in zip(formulas, columns, strict=True)]
        )
        surprise = _EXEMPLAR_WEIGHT * _binomial_gain(seen, len(self.exemplars), base)
        price = _TERM_PRICE * np.array([len(f.terms) for f in formulas])
        merits = [
            Merit(formula, float(score), float(gain))
            for formula, score, gain in zip(formulas, measured + surprise - price, measured, strict=True)
        ]
        return sorted(merits, key=lambda merit: (-merit.score, str(merit.formula)))


def _merged(first: Iterable[Merit], second: Iterable[Merit]) -> list[Merit]:
    return sorted([*first, *second], key=lambda merit: (-merit.score, str(merit.formula)))


def _implied(first: Term, second: Term, words: Words) -> bool:
    """Say whether one term is a kind of the other: "dog or animal" says no more than "animal"."""
    return first in words.closure(second) or second in words.closure(first)


def _two_level_gain(truth: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Return the gain in log-likelihood (f,) of regressing (n,) activations on each row of (f, n) truth.

    Negative where the images of the formula are the weaker ones: a formula names what drives the unit.
    """
    n = len(activations)
    if n < 3 or np.ptp(activations) == 0:
        return np.zeros(len(truth))
    centred = activations - activations.mean()
    total = float(centred @ centred)
    spread = truth - truth.mean(axis=1, keepdims=True)
    variance = (spread**2).sum(axis=1)
    covariance = spread @ centred
    explained = np.divide(covariance**2, variance, out=np.zeros(len(truth)), where=variance > 1e-9)
    floor = n * (_NOISE_FLOOR * float(np.ptp(activations))) ** 2
    gain = 0.5 * n * np.log((total + floor) / (np.maximum(total - explained, 0) + floor))
    return np.where(covariance > 0, gain, -gain)


def _binomial_gain(successes: np.ndarray, trials: int, base: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of the observed share against the base rate; 0 if it is not above it."""
    if trials == 0:
        return np.zeros(len(successes))
    share = np.clip(successes / trials, 1e-6, 1 - 1e-6)
    base = np.clip(base, 1e-6, 1 - 1e-6)
    gain = successes * np.log(share / base) + (trials - successes) * np.log((1 - share) / (1 - base))
    return np.where(share > base, gain, 0.0)


def auroc(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that a value of `above` exceeds one of `below`, ties half; 0.5 if one is empty."""
    if not len(above) or not len(below):
        return 0.5
    difference = above[:, None] - below[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
