"""Hypotheses as formulas over terms, and how well each explains what was measured.

A formula says which images drive a unit: those that show a term, one of several (or), all of two (and), or
one without another (without). Its merit is the gain in log-likelihood of a two-level model of the activations
(formula true or not) over a constant, plus the tempered surprise that so many
exemplars satisfy it, minus a price for each term. Everything is in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.study_state import Row

Connective = Literal["is", "or", "and", "without"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`is`: one term. `or`: any of the terms. `and`: both. `without`: the first and not the second."""

    operator: Connective
    terms: tuple[Term, ...]

    def truth(self, columns: np.ndarray) -> np.ndarray:
        """Return the probability of truth (n,) from that of each of its terms (n, len(terms))."""
        if self.operator == "or":
            return 1 - np.prod(1 - columns, axis=1)
        if self.operator == "without":
            return columns[:, 0] * (1 - columns[:, 1])
        return np.prod(columns, axis=1)

    def ordered(self) -> Explanation:
        """Return the formula with its terms in one order where their order says nothing."""
        return self if self.operator == "without" else Explanation(self.operator, tuple(sorted(self.terms)))

    def __str__(self) -> str:
        join = {"is": "", "or": " or ", "and": " together with ", "without": " without "}[self.operator]
        return join.join(str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Merit:
    """A formula with its score, in nats above "nothing explains it", and the part due to measurements."""

    formula: Explanation
    score: float
    measured: float


_NOISE_FLOOR = 0.05
"""Smallest noise believed in, as a share of the activations' range: no fit is perfect for sure."""
_MIN_RATE = 0.02
"""Smallest rate of misses and of false alarms believed in."""
_EXEMPLAR_WEIGHT = 0.25
"""Exemplars share the biases of their data set, so their log-odds count for less than an experiment's."""
_TERM_PRICE = 6.0
_PRICE: dict[Connective, float] = {"is": 5.0, "or": 5.0, "and": 5.0, "without": 9.0}
"""What a formula costs, with `_TERM_PRICE` for every term beyond the first. There are as many `without` as
there are terms to explain a few misses away, and few units are of that kind.
"""
_LEADS = 6
_KEPT = 40
_MAX_TERMS = 4
_PAIRS: tuple[Connective, ...] = ("or", "and", "without")
_SUPPORT = 3
"""Images that a part of a formula must rest on."""


def truth_table(shown: Sequence[dict[Term, float]], terms: Sequence[Term]) -> np.ndarray:
    """Return float64 (len(shown), len(terms)): how surely each image shows each term."""
    index = {term: column for column, term in enumerate(terms)}
    table = np.zeros((len(shown), len(terms)))
    for row, each in enumerate(shown):
        for term in index.keys() & each.keys():
            table[row, index[term]] = each[term]
    return table


class MeasuredTerms:
    """Measured images `rows` and the terms seen in each active exemplar, ready to score formulas.

    `levels` are the exemplars' activations. As long as hardly any generated image came near them, the
    exemplars count as measured images: those that ought to be as strong and are not then speak against a
    formula.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        exemplars: Sequence[frozenset[Term]],
        words: Words,
        levels: Sequence[float] = (),
    ) -> None:
        self.rows, self.exemplars, self.words = list(rows), list(exemplars), words
        self._shown = shown = [row.stimulus.terms(words) for row in rows]
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
        if (
            not rows
            or not levels
            or np.sum(self.activations > 0.5 * (np.mean(levels) + self.activations.min())) >= _SUPPORT
        ):
            levels = ()
        self._measured_table = np.vstack([self._table, self._exemplar_table[: len(levels)]])
        self._measured = np.concatenate([self.activations, np.array(levels, dtype=float)])
        self._base = np.array([words.base_rate(term) for term in self.terms])

    def truth(self, formula: Explanation) -> np.ndarray:
        """Return how surely each row satisfies the formula, (n rows,)."""
        return formula.truth(truth_table(self._shown, formula.terms))

    def ranked(self) -> list[Merit]:
        """Return the best formulas, best first, each better than nothing."""
        columns = np.arange(len(self.terms))
        merits = self._best("is", [()], columns)
        leads = [merit.formula.terms for merit in merits[:_LEADS]]
        for operator in _PAIRS:
            merits += self._best(operator, leads, columns)
        for size in range(3, _MAX_TERMS + 1):
            merits.sort(key=_order)
            narrower = [
                merit.formula.terms
                for merit in merits
                if merit.formula.operator == "or" and len(merit.formula.terms) == size - 1
            ]
            if not narrower:
                break
            merits += self._best("or", narrower[:_LEADS], columns)
        unique = {merit.formula: merit for merit in merits if merit.score > 0}
        return sorted(unique.values(), key=_order)[:_KEPT]

    def tested(self, formula: Explanation) -> bool:
        """Return whether enough images speak for each part of the formula: a combination, and its parts
        apart.
        """
        if not self.rows:
            return False
        columns = [self.truth(Explanation("is", (term,))) > 0.6 for term in formula.terms]
        if formula.operator in ("is", "or"):
            return all(int(column.sum()) >= _SUPPORT for column in columns)
        first, second = columns
        if formula.operator == "without":
            # Many exceptions can be thought of, so that some always fit a few misses.
            return int((first & second).sum()) >= 2 * _SUPPORT and int((first & ~second).sum()) >= _SUPPORT
        cells = (first & second, first & ~second, ~first & second)
        return all(int(cell.sum()) >= _SUPPORT for cell in cells)

    def _best(
        self, operator: Connective, leads: Sequence[tuple[Term, ...]], others: np.ndarray
    ) -> list[Merit]:
        """Return the best formulas that add one term to one of `leads`."""
        merits: list[Merit] = []
        for lead in leads:
            fixed = [self._column[term] for term in lead]
            allowed = np.array(
                [not any(_implied(term, self.terms[c], self.words) for term in lead) for c in others], bool
            )
            candidates = others[allowed]
            if not len(candidates):
                continue
            truth = _extended(operator, self._measured_table, fixed, candidates)
            seen = _extended(operator, self._exemplar_table, fixed, candidates).sum(axis=1)
            base = _extended(operator, self._base[None], fixed, candidates)[:, 0]
            measured = _two_level_gain(truth, self._measured)
            surprise = _EXEMPLAR_WEIGHT * _binomial_gain(seen, len(self.exemplars), base)
            score = measured + surprise - _PRICE[operator] - _TERM_PRICE * len(lead)
            for position in np.argsort(-score, kind="stable")[:_KEPT]:
                formula = Explanation(operator, (*lead, self.terms[candidates[position]])).ordered()
                merits.append(Merit(formula, float(score[position]), float(measured[position])))
        return merits


def _extended(
    operator: Connective, table: np.ndarray, fixed: Sequence[int], candidates: np.ndarray
) -> np.ndarray:
    """Return (candidates, n) truth of the formulas of the `fixed` columns with each candidate column
    added.
    """
    added = table[:, candidates].T
    if not fixed:
        return added
    if operator == "or":
        return 1 - np.prod(1 - table[:, fixed], axis=1) * (1 - added)
    before = np.prod(table[:, fixed], axis=1)
    return before * (1 - added if operator == "without" else added)


def _order(merit: Merit) -> tuple[float, int, str]:
    """Sort the best first; of two that say the same of every image, the more specific."""
    vague = sum(term.kind not in ("concept", "background") for term in merit.formula.terms)
    return (-round(merit.score, 6), vague, str(merit.formula))


def _implied(first: Term, second: Term, words: Words) -> bool:
    """Return whether one term is a kind of the other: "dog or animal" says no more than "animal"."""
    return first in words.closure(second) or second in words.closure(first)


def _two_level_gain(truth: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Return the gain in log-likelihood (f,) that (n,) activations have from each row of (f, n) truth.

    The activations are a high and a low group. Truth may predict the group (two rates, so that a miss is a
    rare event and costs the same however clear the groups are), and the place within a group (a line with
    Gaussian noise). Negative where the images of the formula are the weaker ones: a formula names what drives
    the unit.
    """
    n = len(activations)
    if n < 3 or np.ptp(activations) == 0:
        return np.zeros(len(truth))
    high = activations > _parting(activations)
    gain = _rate_gain(truth, high)
    floor = (_NOISE_FLOOR * float(np.ptp(activations))) ** 2
    for group in (high, ~high):
        gain = gain + _line_gain(truth[:, group], activations[group], floor)
    covariance = truth @ (activations - activations.mean())
    return np.where(covariance > 0, gain, -gain)


def _parting(activations: np.ndarray) -> float:
    """Return the value that parts activations into the two groups with the least spread within (Otsu's
    method).
    """
    ordered = np.sort(activations)
    n = len(ordered)
    below = np.arange(1, n)
    sums = np.cumsum(ordered)[:-1]
    between = (sums / below - (ordered.sum() - sums) / (n - below)) ** 2 * below * (n - below)
    between[ordered[1:] == ordered[:-1]] = -1.0
    place = int(between.argmax())
    return float(ordered[place] + ordered[place + 1]) / 2


def _rate_gain(truth: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the gain (f,) of two rates of high activations, where the formula holds and where not, over one
    rate.
    """
    n_on, total = truth.sum(axis=1), float(high.sum())
    high_on = truth @ high

    def likelihood(successes: np.ndarray, trials: np.ndarray) -> np.ndarray:
        rate = np.divide(successes, trials, out=np.full_like(successes, 0.5), where=trials > 1e-9)
        rate = np.clip(rate, _MIN_RATE, 1 - _MIN_RATE)
        logs: np.ndarray = successes * np.log(rate) + (trials - successes) * np.log(1 - rate)
        return logs

    n = len(high)
    one = likelihood(np.array([total]), np.array([float(n)]))
    return np.maximum(likelihood(high_on, n_on) + likelihood(total - high_on, n - n_on) - one, 0.0)


def _line_gain(truth: np.ndarray, activations: np.ndarray, floor: float) -> np.ndarray:
    """Return the gain (f,) of regressing (n,) activations on each row of (f, n) truth; `floor`: least
    variance.
    """
    n = len(activations)
    centered = activations - activations.mean()
    total = float(centered @ centered)
    spread = truth - truth.mean(axis=1, keepdims=True)
    variance = (spread**2).sum(axis=1)
    covariance = np.maximum(spread @ centered, 0.0)
    explained = np.divide(covariance**2, variance, out=np.zeros(len(truth)), where=variance > 1e-9)
    gain: np.ndarray = 0.5 * n * np.log((total + n * floor) / (np.maximum(total - explained, 0) + n * floor))
    return gain


def _binomial_gain(successes: np.ndarray, trials: int, base: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of the observed share against the base rate; 0 if it is not above
    it.
    """
    if trials == 0:
        return np.zeros(len(successes))
    share = np.clip(successes / trials, 1e-6, 1 - 1e-6)
    base = np.clip(base, 1e-6, 1 - 1e-6)
    gain = successes * np.log(share / base) + (trials - successes) * np.log((1 - share) / (1 - base))
    return np.where(share > base, gain, 0.0)


def auroc(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that a value of `above` exceeds one of `below`, ties half; 0.5 if one is
    empty.
    """
    if not len(above) or not len(below):
        return 0.5
    difference = above[:, None] - below[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
