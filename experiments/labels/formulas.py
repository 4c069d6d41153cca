"""Concepts and formulas of them (AND, OR, AND NOT) as labels of units, found by a beam search as in INVERT
(Bykov et al. 2023).

A search looks at one half of the images, and the label that it chooses is scored on the other: the best of
many looks better than it is on the images that it was chosen on. One choice is left to the other half: the
label loses a concept there if it fits as well without (`pruned`). So it is the best of up to four there, and
its figures are a little better than on further images. A part of the first half in its place would do away
with that, and costs more: fewer images to search on find fewer right labels.

Shapes: n images of a half, U units of a tile, K concepts, B formulas of a beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from experiments.labels.scores import Ordered, auroc_of_sums, centered_ranks, null_deviation

OPERATORS = (" AND ", " OR ", " AND NOT ")
_AND, _OR, _WITHOUT = range(3)
BEAM = 3
_SINGLE = 5
"""Single concepts that are compared with the formulas of the beam."""
FEWEST = 3
"""Images of a half that must show a label, and as many that must not."""
_GAIN = 0.03
"""Share of its correlation by which each further concept must improve a label."""
_NOISE = 0.5
"""Standard errors of a correlation (1 / sqrt n) that it must add besides: the best of many always add some.
"""
_FEW = 4096
"""Concepts of which all pairs are counted beforehand."""
_CLIPPED = 0.995
"""Quantile at which activations are clipped for correlations: a single outlier would decide them."""


@dataclass(frozen=True, slots=True)
class LabelFormula:
    """Concepts by number, joined from left to right: `operators` has one less than `concepts`."""

    concepts: tuple[int, ...]
    operators: tuple[int, ...] = ()

    def text(self, words: Sequence[str]) -> str:
        """Return the formula in words, such as "(dog OR cat) AND NOT grass"."""
        said = words[self.concepts[0]]
        for place, (operator, concept) in enumerate(zip(self.operators, self.concepts[1:], strict=True)):
            said = f"({said})" if place and operator != self.operators[place - 1] else said
            said += OPERATORS[operator] + words[concept]
        return said


@dataclass(frozen=True, slots=True)
class Formulas:
    """Formulas of many units: `concepts` int64 (U, B, 3), -1 beyond a formula's length; `operators` int64
    (U, B, 2).
    """

    concepts: torch.Tensor
    operators: torch.Tensor

    @classmethod
    def single(cls, concepts: torch.Tensor) -> Formulas:
        """Return formulas of one concept each, int64 (U, B)."""
        whole = torch.full((*concepts.shape, 3), -1, dtype=torch.int64, device=concepts.device)
        whole[:, :, 0] = concepts
        return cls(whole, torch.zeros((*concepts.shape, 2), dtype=torch.int64, device=concepts.device))

    def at(self, place: torch.Tensor) -> Formulas:
        """Return the formulas at `place`, int64 (U, B), of each unit."""
        index = place[:, :, None]
        return Formulas(
            self.concepts.gather(1, index.expand(-1, -1, 3)),
            self.operators.gather(1, index.expand(-1, -1, 2)),
        )

    def joined(self, length: int, operator: torch.Tensor, concept: torch.Tensor) -> Formulas:
        """Return the formulas, of `length` concepts, with one more each."""
        concepts, operators = self.concepts.clone(), self.operators.clone()
        concepts[:, :, length], operators[:, :, length - 1] = concept, operator
        return Formulas(concepts, operators)

    def lengths(self) -> torch.Tensor:
        return (self.concepts >= 0).sum(2)

    def shown(self, presence: torch.Tensor, place: int) -> torch.Tensor:
        """Return which images show the formula at `place` of each unit, bool (U, n), from what shows each
        concept, bool (K, n).
        """
        found = presence[self.concepts[:, place, 0]]
        for at in (1, 2):
            concept = self.concepts[:, place, at]
            more = concept >= 0
            if not more.any():
                break
            other = presence[concept.clamp(min=0)]
            operator = self.operators[:, place, at - 1, None]
            both = torch.where(operator == _OR, found | other, found & (other ^ (operator == _WITHOUT)))
            found = torch.where(more[:, None], both, found)
        return found

    def of(self, unit: int, place: int = 0) -> LabelFormula:
        concepts = [each for each in self.concepts[unit, place].tolist() if each >= 0]
        return LabelFormula(tuple(concepts), tuple(self.operators[unit, place, : len(concepts) - 1].tolist()))

    @staticmethod
    def together(parts: Sequence[Formulas]) -> Formulas:
        return Formulas(
            torch.cat([part.concepts for part in parts], 1), torch.cat([part.operators for part in parts], 1)
        )


@dataclass(frozen=True, slots=True)
class Search:
    """A beam of formulas with the centered rank sums and the numbers of images of each, float32 (U, B)."""

    formulas: Formulas
    sums: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, slots=True)
class Presence:
    """Which images of a half show which concepts: `shown` bool (K, n)."""

    shown: torch.Tensor
    numbers: torch.Tensor
    """The same as float32 (n, K)."""
    counts: torch.Tensor
    """Images that show each, float32 (K,)."""

    @classmethod
    def of(cls, shown: torch.Tensor) -> Presence:
        numbers = shown.T.float()
        return cls(shown, numbers.contiguous(), numbers.sum(0))


class Finder:
    """Finds the formulas that fit units best, on one half of the images."""

    def __init__(self, presence: Presence, length: int = 3) -> None:
        self._presence, self._length = presence, length
        self._n = presence.shown.shape[1]
        few = len(presence.shown) <= _FEW
        self._together = presence.numbers.T @ presence.numbers if few else None
        """Images that show two concepts, float32 (K, K)."""

    def find(self, values: torch.Tensor) -> tuple[Formulas, torch.Tensor]:
        """Return the candidates of each unit, best first, and their correlations, float32 (U, candidates),
        from activations (U, n).

        Candidates are the concepts and formulas of largest AUROC less two standard errors. They are ordered
        by Pearson's correlation with the activations, which reacts to images that a label leaves out and to
        those that it should not have (NeuronEval, Oikarinen et al. 2025).
        """
        ranks = centered_ranks(values)
        sums = ranks @ self._presence.numbers
        sure = self._sure(sums, self._presence.counts.expand_as(sums))
        place = sure.topk(min(_SINGLE, sums.shape[1]), dim=1).indices
        beam = Search(Formulas.single(place), sums.gather(1, place), self._presence.counts[place])
        found = [beam.formulas]
        beam = _first(beam, BEAM)
        for length in range(1, self._length):
            beam = self._longer(beam, length, ranks, sums)
            found.append(beam.formulas)
        return self._ordered(Formulas.together(found), values)

    def _sure(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return AUROC less two standard errors; none for too few images, or more than half (INVERT)."""
        sure = auroc_of_sums(sums, counts, self._n) - 2 * null_deviation(counts, self._n)
        return sure.masked_fill((counts < FEWEST) | (counts > self._n / 2), -torch.inf)

    def _longer(self, beam: Search, length: int, ranks: torch.Tensor, sums: torch.Tensor) -> Search:
        """Return the best formulas of one concept more than those of the beam have."""
        alone = self._presence.counts
        candidates: list[Search] = []
        values: list[torch.Tensor] = []
        for at in range(beam.sums.shape[1]):
            shown = beam.formulas.shown(self._presence.shown, at).float()
            both = (ranks * shown) @ self._presence.numbers
            if length == 1 and self._together is not None:
                n_both = self._together[beam.formulas.concepts[:, at, 0]]
            else:
                n_both = shown @ self._presence.numbers
            own, n_own = beam.sums[:, at, None], beam.counts[:, at, None]
            ways = ((both, n_both), (own + sums - both, n_own + alone - n_both), (own - both, n_own - n_both))
            for operator, (total, count) in enumerate(ways):
                # One that shows the same images as a part of it says nothing more.
                same = (count == n_own) | ((operator != _WITHOUT) & (count == alone))
                sure = self._sure(total, count).masked_fill(same, -torch.inf)
                value, concept = sure.topk(min(BEAM, sure.shape[1]), dim=1)
                part = beam.formulas.at(torch.full_like(concept, at))
                joined = part.joined(length, torch.full_like(concept, operator), concept)
                candidates.append(Search(joined, total.gather(1, concept), count.gather(1, concept)))
                values.append(value)
        whole = Search(
            Formulas.together([each.formulas for each in candidates]),
            torch.cat([each.sums for each in candidates], 1),
            torch.cat([each.counts for each in candidates], 1),
        )
        return _chosen(whole, torch.cat(values, 1).topk(BEAM, dim=1).indices)

    def _ordered(self, formulas: Formulas, values: torch.Tensor) -> tuple[Formulas, torch.Tensor]:
        standard = standardized(values)
        columns = []
        for place in range(formulas.concepts.shape[1]):
            shown = formulas.shown(self._presence.shown, place)
            count = shown.sum(1)
            few = (count < FEWEST) | (count > self._n / 2)
            columns.append(_correlation(standard, shown).masked_fill(few, -1.0))
        correlation = torch.stack(columns, 1)
        worth = _worth(correlation, formulas, self._n)
        order = worth.sort(dim=1, descending=True, stable=True).indices
        return formulas.at(order), correlation.gather(1, order)


def _worth(correlation: torch.Tensor, formulas: Formulas, n: int) -> torch.Tensor:
    """Return correlations, float32 (U, B), less what further concepts must add, on n images."""
    more = formulas.lengths() - 1
    return correlation * (1 - _GAIN * more) - _NOISE / n**0.5 * more


def pruned(formulas: Formulas, values: torch.Tensor, presence: torch.Tensor) -> Formulas:
    """Return the first formula of each unit, (U, 1), without a concept that adds nothing on images that it
    was not searched on: activations (U, n), and `presence` bool (K, n).

    Of many concepts that could be added, the best fits some noise.
    """
    ways = Formulas.together(
        [formulas.at(torch.zeros_like(formulas.concepts[:, :1, 0])), *_shorter(formulas)]
    )
    standard, columns = standardized(values), []
    for place in range(ways.concepts.shape[1]):
        shown = ways.shown(presence, place)
        count = shown.sum(1)
        few = (count < FEWEST) | (count > shown.shape[1] - FEWEST)
        columns.append(_correlation(standard, shown).masked_fill(few, -1.0))
    worth = _worth(torch.stack(columns, 1), ways, values.shape[1])
    return ways.at(worth.argmax(1, keepdim=True))


def _shorter(formulas: Formulas) -> list[Formulas]:
    """Return the first formula of each unit without its last concept, its middle one and its first; the
    formula itself where it has none, or where its second concept is one that must be absent.
    """
    concepts, operators = formulas.concepts[:, :1], formulas.operators[:, :1]
    length = formulas.lengths()[:, :1]
    none, zero = torch.full_like(concepts[..., 0], -1), torch.zeros_like(operators[..., 0])
    a, b, c = concepts.unbind(2)
    first, second = operators.unbind(2)
    last = (torch.stack([a, torch.where(length > 2, b, none), none], 2), torch.stack([first, zero], 2))
    middle = (torch.stack([a, c, none], 2), torch.stack([second, zero], 2))
    rest = (torch.stack([b, c, none], 2), torch.stack([second, zero], 2))
    allowed = (length > 1, length > 2, (length > 1) & (first != _WITHOUT))
    return [
        Formulas(
            torch.where(may[..., None], way[0], concepts), torch.where(may[..., None], way[1], operators)
        )
        for way, may in zip((last, middle, rest), allowed, strict=True)
    ]


def standardized(values: torch.Tensor) -> torch.Tensor:
    """Return clipped activations (U, n) less their mean, of length 1."""
    limit = values.kthvalue(max(1, int(_CLIPPED * values.shape[1])), dim=1, keepdim=True).values
    clipped = torch.minimum(values, limit)
    centered = clipped - clipped.mean(1, keepdim=True)
    return centered / centered.norm(dim=1, keepdim=True).clamp(min=1e-30)


def _correlation(standard: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation, float32 (U,), of standardized activations with labels, bool (U, n)."""
    n, count = shown.shape[1], shown.sum(1).float()
    return (standard * shown).sum(1) / (count * (n - count) / n).sqrt().clamp(min=1e-9)


def _first(beam: Search, n: int) -> Search:
    first = torch.arange(min(n, beam.sums.shape[1]), device=beam.sums.device)
    return _chosen(beam, first.expand(len(beam.sums), -1))


def _chosen(search: Search, place: torch.Tensor) -> Search:
    return replace(
        search,
        formulas=search.formulas.at(place),
        sums=search.sums.gather(1, place),
        counts=search.counts.gather(1, place),
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a label of each unit fits on images that it was not searched on, float64 (U,) each.

    A label that was `pruned` on the same images is the best of up to four there.
    `z` is the AUROC in standard errors of a label that has nothing to do with the unit, ties counted. It is
    0, as are `correlation` and `auprc`, and `auroc` 0.5, where fewer than `FEWEST` images show the label or
    do not. `coverage` is the share of strong images that show it: those that reach half of the way from the
    mean activation to the greatest.
    """

    correlation: np.ndarray
    auroc: np.ndarray
    auprc: np.ndarray
    z: np.ndarray
    positives: np.ndarray
    coverage: np.ndarray


def fit(values: torch.Tensor, shown: torch.Tensor) -> Fit:
    """Return how well labels fit activations (U, n): `shown` bool (U, n) has the images of each label."""
    n = values.shape[1]
    ordered = Ordered.of(values)
    hits = shown.gather(1, ordered.order)
    count = shown.sum(1).double()
    sums = (ordered.ranks() * hits).sum(1, dtype=torch.float64)
    tested = (count >= FEWEST) & (n - count >= FEWEST)
    auroc = torch.where(tested, 0.5 + sums * n / (count * (n - count)).clamp(min=1), 0.5)
    left = ordered.variance_left().clamp(min=1e-12)
    deviation = ((n + 1) * left / (12 * count * (n - count)).clamp(min=1)).sqrt()
    z = torch.where(tested, (auroc - 0.5) / deviation, 0.0)
    precision = torch.where(tested, _average_precision(ordered, hits), 0.0)
    top = strong(values)
    coverage = (top & shown).sum(1).double() / top.sum(1).clamp(min=1)
    found = (correlations(values, shown), auroc, precision, z, count, coverage)
    return Fit(*(each.cpu().numpy() for each in found))


def strong(values: torch.Tensor) -> torch.Tensor:
    """Return which images reach half of the way from a unit's mean activation to its greatest, (U, n)."""
    return values >= (values.mean(1, keepdim=True) + values.amax(1, keepdim=True)) / 2


def correlations(values: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Return the correlations of a `Fit` alone, float64 (U,)."""
    count = shown.sum(1)
    tested = (count >= FEWEST) & (shown.shape[1] - count >= FEWEST)
    return torch.where(tested, _correlation(standardized(values), shown).double(), 0.0)


def _average_precision(ordered: Ordered, hits: torch.Tensor) -> torch.Tensor:
    """Return the area under the precision-recall curve, float64 (U,); equal values are taken together.

    `hits` bool (U, n): which images show the label, in ascending order of the values.
    """
    n = hits.shape[1]
    before = hits.cumsum(1) - hits.long()
    total = hits.sum(1, keepdim=True)
    at_least = total - before.gather(1, ordered.first.long())
    precision = at_least.float() / (n - ordered.first)
    return (precision * hits).sum(1, dtype=torch.float64) / total[:, 0].clamp(min=1)
