"""The labels of one layer's units, from activations and embeddings of the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtr

from actors.vision.readout.units import Readout
from agents.evidence.statistics import benjamini_hochberg
from experiments.labels.formulas import (
    FEWEST,
    Finder,
    Fit,
    Formulas,
    LabelFormula,
    Presence,
    correlations,
    fit,
    pruned,
    strong,
)
from experiments.labels.record import AMBIGUOUS, DEAD, NOTHING_FITS, PART, UnitLabel
from experiments.labels.scores import TOP, BestConcepts, ExemplarMeaning, exemplar_meaning, soft_wpmi
from experiments.labels.vocabulary import EmbeddedVocabulary
from experiments.labels.wholeness import Half, Likeness, left_over

RANDOM_UNITS = 500
_MOST_RANDOM = 4
"""Times as many random units that are drawn at most."""
RATE = 0.05
"""False-discovery rate at which a layer's labels are accepted."""
MOST_LEFT = 0.1
"""Share of what is explained of a unit that an accepted label leaves to something else (`left_over`)."""
ALIKE = 3.0
"""Standard errors from which images are more alike than chance makes them (`Likeness`)."""
LEAST_MARGIN = 0.05
"""Part of a label's correlation by which its rival must fall behind."""
_EXEMPLARS = 30
_NUMBERS = 1 << 24
"""Numbers of a tile of units by images or concepts: 64 MB in single precision."""
_NEAR = 0.9
"""Cosine from which two words are too much alike for one to be the other's rival."""


@dataclass(frozen=True)
class LabelSettings:
    """How labels are found."""

    length: int = 3
    """Concepts of a formula at most."""
    share: float = 0.05
    """Images that count as showing a word, the most similar ones, where cosines are not calibrated."""
    random_units: int = RANDOM_UNITS
    seed: int = 0
    device: str = "cpu"


class EmbeddedImages:
    """A data set's embeddings beside a vocabulary's, in halves: what is the same for all layers."""

    def __init__(
        self,
        vectors: np.ndarray,
        vocabulary: EmbeddedVocabulary,
        present_above: float | None,
        settings: LabelSettings,
    ) -> None:
        """`vectors` float32 (n, d), unit-norm. `present_above` as in `EmbedderFacts`."""
        self.settings, self.device = settings, torch.device(settings.device)
        self.vectors = torch.from_numpy(np.ascontiguousarray(vectors)).to(self.device)
        self._all_words = torch.from_numpy(np.ascontiguousarray(vocabulary.vectors)).to(self.device)
        self.all_names = vocabulary.words
        n = len(vectors)
        order = np.random.default_rng(settings.seed).permutation(n)
        self.halves = np.sort(order[: n // 2]), np.sort(order[n // 2 :])
        self.half_vectors = [self.vectors[torch.from_numpy(half).to(self.device)] for half in self.halves]
        shown = self._shown(present_above)
        first, second = (shown[:, torch.from_numpy(half).to(self.device)] for half in self.halves)
        usable = torch.ones(len(shown), dtype=torch.bool, device=self.device)
        for half in (first, second):
            count = half.sum(1)
            usable &= (count >= FEWEST) & (count <= half.shape[1] / 2)
        self.names = tuple(np.array(vocabulary.words, object)[usable.cpu().numpy()].tolist())
        self.words = self._all_words[usable]
        self.chosen_on = Presence.of(first[usable])
        self.scored_on = second[usable]
        self.presence = self.chosen_on.shown, self.scored_on
        """Which images of each half show which words, bool (K, n)."""

    def _shown(self, present_above: float | None) -> torch.Tensor:
        """Return which images show each word, bool (K, n)."""
        n = len(self.vectors)
        shown = torch.empty((len(self._all_words), n), dtype=torch.bool, device=self.device)
        rows = max(1, _NUMBERS // n)
        for start in range(0, len(shown), rows):
            likeness = self._all_words[start : start + rows] @ self.vectors.T
            least: float | torch.Tensor
            if present_above is None:
                kth = max(1, n - max(1, round(self.settings.share * n)) + 1)
                least = likeness.kthvalue(kth, dim=1, keepdim=True).values
            else:
                least = present_above
            shown[start : start + rows] = likeness >= least
        return shown

    def wpmi(self, top: torch.Tensor) -> BestConcepts:
        """Return the best of all words by soft WPMI."""
        return soft_wpmi(top, self.vectors, self._all_words, 1)

    @cached_property
    def likeness(self) -> Likeness:
        return Likeness.of(self.vectors)

    @cached_property
    def finder(self) -> Finder:
        return Finder(self.chosen_on, self.settings.length)


@dataclass(frozen=True, slots=True)
class _Whole:
    """Whether labels explain units whole, (U,) each: the share `left` to something else (`left_over`), and
    how much more alike than by chance (`Likeness`) strong images are, in `common`; and those of them without
    the label, `uncovered`, the label's concepts aside.
    """

    left: np.ndarray
    common: np.ndarray
    uncovered: np.ndarray


@dataclass(frozen=True, slots=True)
class _Found:
    """The chosen formulas of units with their fit, and their rivals."""

    formulas: list[LabelFormula]
    fit: Fit
    rivals: list[LabelFormula | None]
    margin: np.ndarray
    whole: _Whole

    @classmethod
    def joined(cls, parts: list[_Found]) -> _Found:
        def each(name: str) -> np.ndarray:
            return np.concatenate([getattr(part.fit, name) for part in parts])

        return cls(
            [formula for part in parts for formula in part.formulas],
            Fit(*(each(field.name) for field in fields(Fit))),
            [rival for part in parts for rival in part.rivals],
            np.concatenate([part.margin for part in parts]),
            _Whole(
                *(
                    np.concatenate([getattr(part.whole, field.name) for part in parts])
                    for field in fields(_Whole)
                )
            ),
        )


@dataclass(frozen=True, slots=True)
class _LayerEvidence:
    """All that is known of a layer's units that are not dead, which are `places`, int64 (U,)."""

    found: _Found
    p: np.ndarray
    q: np.ndarray
    best: BestConcepts
    meaning: ExemplarMeaning
    places: np.ndarray


class LayerLabeler:
    """Labels the units of one layer: `values` (n, U), in any memory, of the images that `rows` (n,) selects,
    in the order of the labeled images.
    """

    def __init__(
        self, images: EmbeddedImages, readout: Readout, values: np.ndarray, rows: np.ndarray
    ) -> None:
        self._images, self._readout, self._values, self._rows = images, readout, values, rows
        self._tile = max(1, min(2048, _NUMBERS // max(len(rows), len(images.names))))

    def label(self) -> list[UnitLabel]:
        """Return the label of each unit, in order."""
        alive = np.concatenate([self._alive(block) for _, block in self._blocks()])
        if not alive.any():
            return [self._dead(index) for index in range(len(alive))]
        places = np.flatnonzero(alive)
        found = _Found.joined([self._found(block[self._alive(block)]) for _, block in self._blocks()])
        p = self._p_values(found.fit)
        q = benjamini_hochberg(p.tolist())
        top = torch.cat([self._top(block[self._alive(block)]) for _, block in self._blocks()])
        best = self._images.wpmi(top)
        meaning = exemplar_meaning(top[:, :_EXEMPLARS], self._images.vectors)
        evidence = _LayerEvidence(found, p, q, best, meaning, places)
        labels = {int(index): self._record(int(index), at, evidence) for at, index in enumerate(places)}
        return [labels.get(index) or self._dead(index) for index in range(len(alive))]

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield activations, float32 (units, n), a tile at a time, each with its first unit."""
        for start in range(0, self._values.shape[1], self._tile):
            block = np.asarray(self._values[self._rows, start : start + self._tile], np.float32)
            yield start, torch.from_numpy(np.ascontiguousarray(block.T)).to(self._images.device)

    @staticmethod
    def _alive(block: torch.Tensor) -> np.ndarray:
        """Return which units differ between images, and are finite."""
        low, high = block.amin(1), block.amax(1)
        alive: np.ndarray = ((high > low) & low.isfinite() & high.isfinite()).cpu().numpy()
        return alive

    def _half(self, block: torch.Tensor, half: int) -> torch.Tensor:
        return block[:, torch.from_numpy(self._images.halves[half]).to(block.device)]

    def _found(self, block: torch.Tensor) -> _Found:
        candidates, correlation = self._images.finder.find(self._half(block, 0))
        chosen = pruned(candidates, self._half(block, 1), self._images.scored_on)
        shown = [chosen.shown(presence, 0) for presence in self._images.presence]
        rival = self._rival(chosen, candidates)
        own = correlations(self._half(block, 0), shown[0])
        margin = own - correlation.gather(1, rival.clamp(min=0)[:, None])[:, 0]
        return _Found(
            [chosen.of(unit) for unit in range(len(block))],
            fit(self._half(block, 1), shown[1]),
            [candidates.of(unit, at) if at >= 0 else None for unit, at in enumerate(rival.tolist())],
            margin.cpu().numpy(),
            self._whole(block, chosen, shown),
        )

    def _whole(self, block: torch.Tensor, chosen: Formulas, shown: Sequence[torch.Tensor]) -> _Whole:
        """Return whether formulas explain units whole; `shown` are the images of each half that show them."""
        images, own = self._images, self._vectors_of(chosen)[:, 0]
        halves = [Half(self._half(block, half), images.half_vectors[half], shown[half]) for half in (0, 1)]
        top, without = strong(block), torch.ones_like(block, dtype=torch.bool)
        for half, each in zip(images.halves, shown, strict=True):
            without[:, torch.from_numpy(half).to(block.device)] = ~each
        found = (
            left_over(halves, own),
            images.likeness.of_members(top),
            images.likeness.of_members(top & without, own),
        )
        return _Whole(*(each.cpu().numpy() for each in found))

    def _rival(self, chosen: Formulas, candidates: Formulas) -> torch.Tensor:
        """Return the place of the best candidate that shares no concept, nor a synonym, with what is chosen,
        int64 (U,); -1 if there is none.
        """
        own, others = self._vectors_of(chosen), self._vectors_of(candidates)
        near = torch.einsum("uad,ubcd->ubac", own[:, 0], others) > _NEAR
        other = ~near.flatten(2).any(2)
        return torch.where(other.any(1), other.float().argmax(1), -1)

    def _vectors_of(self, formulas: Formulas) -> torch.Tensor:
        """Return the vectors of the formulas' concepts, float32 (U, B, 3, d), zeros for none."""
        concepts = formulas.concepts
        vectors: torch.Tensor = self._images.words[concepts.clamp(min=0)] * (concepts >= 0)[..., None]
        return vectors

    def p_values(self, values: np.ndarray) -> np.ndarray:
        """Return the p-values of further units, float32 (n, units), by the layer's random units."""
        block = torch.from_numpy(np.ascontiguousarray(values.T)).to(self._images.device)
        return self._p_values(self._found(block).fit)

    def _p_values(self, found: Fit) -> np.ndarray:
        """Return the larger of two p-values, float64 (U,): that among random units, by the correlation, and
        that of a permuted unit, whose label was searched on other images. Random units' labels are `pruned`
        as real ones are, so that the first p allows for that choice; the second does not.

        Of B random units none may reach a real unit's correlation: p is 1 / (B + 1) then, which may be too
        coarse for the false-discovery rate. So more are drawn until it accepts all such units.
        """
        settings, n_units = self._images.settings, len(found.correlation)
        chance = np.empty(0)
        wanted = settings.random_units
        while len(chance) < wanted:
            most = max(1, _NUMBERS // len(self._rows))  # at a time: memory is bounded
            more = self._chance(min(wanted - len(chance), most), len(chance))
            chance = np.sort(np.r_[chance, more])
            if len(chance) < wanted:
                continue
            reached = len(chance) - np.searchsorted(chance, found.correlation, "left")
            beyond = int((reached == 0).sum())
            enough = int(n_units / (RATE * beyond)) + 1 if beyond else 0
            wanted = min(enough, _MOST_RANDOM * settings.random_units)
        return np.maximum((1 + reached) / (1 + len(chance)), ndtr(-found.z))

    def _chance(self, n_random: int, seed: int) -> np.ndarray:
        """Return the correlations that random units of the layer reach in the same way, float64 (n_random,).

        They are Gaussian combinations of the layer's standardized units, each as often silent as some unit.
        """
        generator = torch.Generator().manual_seed(self._images.settings.seed + seed)
        total = torch.zeros((n_random, len(self._rows)), device=self._images.device)
        silent: list[torch.Tensor] = []
        for _, block in self._blocks():
            units = block[self._alive(block)]
            silent.append((units <= units.amin(1, keepdim=True)).float().mean(1))
            standard = units - units.mean(1, keepdim=True)
            standard /= standard.norm(dim=1, keepdim=True).clamp(min=1e-30)
            weights = torch.randn((n_random, len(units)), generator=generator)
            total += weights.to(units.device) @ standard
        shares = torch.cat(silent)
        drawn = torch.randint(len(shares), (n_random,), generator=generator).to(shares.device)
        kth = (shares[drawn] * total.shape[1]).long().clamp(0, total.shape[1] - 1)
        floor = total.sort(dim=1).values.gather(1, kth[:, None])
        random = torch.maximum(total, floor)
        return np.concatenate([self._chance_correlation(block) for block in random.split(self._tile)])

    def _chance_correlation(self, block: torch.Tensor) -> np.ndarray:
        candidates, _ = self._images.finder.find(self._half(block, 0))
        chosen = pruned(candidates, self._half(block, 1), self._images.scored_on)
        shown = chosen.shown(self._images.scored_on, 0)
        found: np.ndarray = correlations(self._half(block, 1), shown).cpu().numpy()
        return found

    def _top(self, block: torch.Tensor) -> torch.Tensor:
        return block.topk(min(TOP, block.shape[1]), dim=1).indices

    def _dead(self, index: int) -> UnitLabel:
        unit = self._readout.unit(index)
        return UnitLabel(str(unit), self._readout.layer, index, None, DEAD)

    def _record(self, index: int, at: int, known: _LayerEvidence) -> UnitLabel:
        names, found = self._images.names, known.found
        formula, rival, alike = found.formulas[at], found.rivals[at], int(known.meaning.alike[at])
        text = formula.text(names)
        reason = self._refused(at, known)
        return UnitLabel(
            str(self._readout.unit(index)),
            self._readout.layer,
            index,
            None if reason else text,
            reason,
            text,
            tuple(names[concept] for concept in formula.concepts),
            float(found.fit.correlation[at]),
            float(found.fit.auroc[at]),
            float(found.fit.auprc[at]),
            int(found.fit.positives[at]),
            float(known.p[at]),
            float(known.q[at]),
            None if rival is None else rival.text(names),
            None if rival is None else float(found.margin[at]),
            self._images.all_names[int(known.best.concepts[at, 0])],
            float(known.best.scores[at, 0]),
            float(known.meaning.clarity[at]),
            float(known.meaning.polysemanticity[at]),
            int(known.places[alike]) if alike >= 0 else None,
            float(known.meaning.redundancy[at]) if alike >= 0 else None,
            float(found.fit.coverage[at]),
            float(found.whole.left[at]),
            float(found.whole.common[at]),
            float(found.whole.uncovered[at]),
        )

    @staticmethod
    def _refused(at: int, known: _LayerEvidence) -> str:
        """Return why a unit's label is not accepted, "" if it is."""
        found = known.found
        if known.q[at] > RATE:
            return NOTHING_FITS
        if found.whole.left[at] > MOST_LEFT or found.whole.uncovered[at] > ALIKE:
            return PART
        near = found.rivals[at] is not None and found.margin[at] < LEAST_MARGIN * found.fit.correlation[at]
        return AMBIGUOUS if near else ""
