"""How well concepts fit units: soft WPMI of CLIP-Dissect, AUROC by ranks, and what exemplars have in common.

Shapes: n images, U units, K concepts. All is tiled: nothing of U x K numbers is ever in memory at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

TOP = 100
"""Strongest images of a unit that soft WPMI looks at."""
_TEMPERATURE = 10.0
_TILE = 1 << 25
"""Numbers of one tile: 128 MB in single precision."""
_FACTORS = 8
"""Factors that are multiplied before a logarithm is taken: each is at least 0.002."""


@dataclass(frozen=True, slots=True)
class BestConcepts:
    """The best concepts of each unit, best first: `concepts` int64 and `scores` float32, (U, best) each."""

    concepts: np.ndarray
    scores: np.ndarray


def soft_wpmi(
    top: torch.Tensor, images: torch.Tensor, words: torch.Tensor, best: int = 5, tile: int = _TILE
) -> BestConcepts:
    """Return each unit's best concepts by soft WPMI (Oikarinen and Weng 2023, CLIP-Dissect, with lambda 1).

    With P the softmax over concepts of 10 times the cosine of image and word, and p_i = 0.998 - 0.028 i / 100
    for a unit's i-th strongest image: S = sum_i log(1 + p_i (P_ik - 1) + 1e-7), less the logarithm of the
    mean over units of exp S. So a score depends on which units are given: always those of a whole layer.

    `top` int64 (U, at most 100), strongest first, indexes `images` float32 (n, d); `words` float32 (K, d);
    both unit-norm. `tile` numbers are in memory at a time.
    """
    n, n_units, n_words = len(images), len(top), len(words)
    best = min(best, n_words)
    width = max(1, tile // max(n, n_units))
    spread = torch.full((n,), -torch.inf, device=images.device)
    for start in range(0, n_words, width):
        likeness = _TEMPERATURE * images @ words[start : start + width].T
        spread = torch.logaddexp(spread, likeness.logsumexp(1))
    scores = torch.empty((n_units, 0), device=images.device)
    concepts = torch.empty((n_units, 0), dtype=torch.int64, device=images.device)
    for start in range(0, n_words, width):
        chosen = words[start : start + width]
        probability = (_TEMPERATURE * images @ chosen.T - spread[:, None]).exp_()
        found = _log_sums(top, probability, tile // 8)
        found -= found.logsumexp(0) - np.log(n_units)
        number = torch.arange(start, start + len(chosen), device=images.device).expand(n_units, -1)
        scores, place = torch.cat([scores, found], 1).topk(min(best, scores.shape[1] + len(chosen)), dim=1)
        concepts = torch.cat([concepts, number], 1).gather(1, place)
    return BestConcepts(concepts.cpu().numpy(), scores.cpu().numpy())


def _log_sums(top: torch.Tensor, probability: torch.Tensor, tile: int) -> torch.Tensor:
    """Return S, float32 (U, K), from the concepts' probabilities (n, K)."""
    n_words = probability.shape[1]
    sums = torch.zeros((len(top), n_words), device=probability.device)
    rows = max(1, tile // n_words)
    for start in range(0, len(top), rows):
        some = top[start : start + rows]
        total = sums[start : start + rows]
        product = torch.ones_like(total)
        for i in range(some.shape[1]):
            weight = 0.998 - 0.028 * i / 100
            factor = probability[some[:, i]].mul_(weight).add_(1 - weight + 1e-7)
            product.mul_(factor)
            if (i + 1) % _FACTORS == 0:
                total += product.log_()
                product = torch.ones_like(total)
        total += product.log_()
    return sums


@dataclass(frozen=True, slots=True)
class Ordered:
    """Values (U, n) in ascending order: `order` int64 (U, n), and of each place the `first` and `last` place
    with an equal value, int32 (U, n).
    """

    order: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> Ordered:
        n = values.shape[1]
        ordered, order = values.sort(dim=1)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        place = torch.arange(n, device=values.device, dtype=torch.int32).expand_as(order)
        first = torch.where(new, place, 0).cummax(1).values
        last = torch.where(new.roll(-1, 1), place, n - 1)
        last[:, -1] = n - 1
        return cls(order, first, last.flip(1).cummin(1).values.flip(1))

    def ranks(self) -> torch.Tensor:
        """Return mid-ranks less their mean, divided by n, float32 (U, n), in ascending order.

        The mean is taken off first: plain sums of ranks pass 2^24, where single precision stops counting.
        """
        n = self.order.shape[1]
        return (self.first + self.last).float().mul_(0.5).sub_((n - 1) / 2).div_(n)

    def variance_left(self) -> torch.Tensor:
        """Return the share of the ranks' variance that ties leave, float64 (U,)."""
        n = self.order.shape[1]
        size = (self.last - self.first + 1).double()
        return 1 - (size.square() - 1).sum(1) / (n * (n * n - 1.0))


def centered_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the `ranks` of values (U, n) in the values' own order."""
    ordered = Ordered.of(values)
    ranks = ordered.ranks()
    return torch.empty_like(ranks).scatter_(1, ordered.order, ranks)


def auroc_of_sums(sums: torch.Tensor, positives: torch.Tensor, n: int) -> torch.Tensor:
    """Return the AUROC from sums of centered ranks / n over `positives` images of `n`; ties count half."""
    controls = n - positives
    return 0.5 + sums * n / (positives * controls).clamp(min=1)


def null_deviation(positives: torch.Tensor, n: int) -> torch.Tensor:
    """Return the standard deviation of the AUROC of a label that has nothing to do with the unit, without
    ties (Mann and Whitney 1947).
    """
    return ((n + 1) / (12 * positives * (n - positives)).clamp(min=1)).sqrt()


@dataclass(frozen=True, slots=True)
class ExemplarMeaning:
    """What the exemplars of each unit have in common, float32 (U,) each.

    `clarity` is the mean cosine of two exemplars' embeddings; `polysemanticity` 1 less the cosine of the
    means of their two halves; `alike` the unit whose mean embedding is nearest, with its cosine `redundancy`
    (SemanticLens, Dreyer et al. 2025).
    """

    clarity: np.ndarray
    polysemanticity: np.ndarray
    alike: np.ndarray
    redundancy: np.ndarray


def exemplar_meaning(top: torch.Tensor, images: torch.Tensor) -> ExemplarMeaning:
    """Return what exemplars have in common: `top` int64 (U, m) indexes `images` float32 (n, d), unit-norm.

    The halves are those of two-means in its relaxed form: the sides of the first principal direction (Ding
    and He 2004).
    """
    n_units, m = top.shape
    rows = max(1, _TILE // (m * images.shape[1] * 4))
    means = torch.empty((n_units, images.shape[1]), device=images.device)
    clarity = torch.empty(n_units, device=images.device)
    poly = torch.empty(n_units, device=images.device)
    for start in range(0, n_units, rows):
        shown = images[top[start : start + rows]]
        mean = shown.mean(1)
        means[start : start + rows] = mean
        clarity[start : start + rows] = (mean.square().sum(1) - 1 / m) * m / (m - 1)
        centered = shown - mean[:, None]
        gram = centered @ centered.transpose(1, 2)
        side = (torch.linalg.eigh(gram).eigenvectors[:, :, -1] > 0).float()
        one, other = (_unit(torch.einsum("um,umd->ud", each, shown)) for each in (side, 1 - side))
        cosine = (one * other).sum(1)
        poly[start : start + rows] = torch.where(gram.diagonal(0, 1, 2).sum(1) > 1e-6, 1 - cosine, 0.0)
    alike, redundancy = _nearest(_unit(means))
    return ExemplarMeaning(clarity.cpu().numpy(), poly.cpu().numpy(), alike, redundancy)


def _nearest(means: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    n_units = len(means)
    place = torch.full((n_units,), -1, dtype=torch.int64, device=means.device)
    value = torch.zeros(n_units, device=means.device)
    rows = max(1, _TILE // n_units)
    for start in range(0, n_units if n_units > 1 else 0, rows):
        cosines = means[start : start + rows] @ means.T
        own = torch.arange(len(cosines), device=means.device)
        cosines[own, own + start] = -torch.inf
        value[start : start + rows], place[start : start + rows] = cosines.max(1)
    return place.cpu().numpy(), value.cpu().numpy()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
