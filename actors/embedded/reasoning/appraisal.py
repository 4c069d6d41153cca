"""How the hypotheses about a unit stand, given all that was measured: the judgement behind each next step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from actors.embedded.language.words import Term, Words
from actors.embedded.reasoning.formulas import Explanation, MeasuredTerms, Merit, truth_table
from actors.embedded.reasoning.rebuilding import FEW, MAX_THINGS, Example
from actors.embedded.reasoning.standing import (
    CLEAR_GAP,
    CONFIRMED,
    LEVEL,
    OPEN,
    Forecast,
    Standing,
    adds,
    ranked,
    split,
    surprise,
)
from actors.embedded.reasoning.stimuli import Stimulus, Thing
from actors.embedded.reasoning.study_state import Row, StudyState

CROWDED = 4
"""Things in an image of a survey."""
SUSPECTS = 3
_ENOUGH_ALONE = 3
"""Images of a thing alone that decide whether the first of them was chance."""
_LEFT = 0.25
"""Part of the effect that may be left where an exception holds."""
_EXCEPTION_LEVEL = 1e-4
_NEAR = 0.5
"""Part of the weakest exemplar's activation from which an image comes near it."""
_ALONE = 0.5
"""Part of the best concept's effect that another must have by itself to be named as well."""


class Appraisal:
    """The evidence of one conversation. `context` holds the terms of each exemplar's whole picture, or
    nothing.
    """

    def __init__(self, state: StudyState, words: Words, context: Sequence[frozenset[Term]] = ()) -> None:
        self.state, self._words = state, words
        looked_at = [self._terms_in(exemplar.text) for exemplar in state.exemplars]
        if not any(looked_at) and state.summary:
            looked_at = [self._terms_in(state.summary) for _ in state.exemplars]
        around = list(context) if len(context) == len(looked_at) else [frozenset()] * len(looked_at)
        self._looked_at, self._around = looked_at, around
        active = self._active()
        self._places = [place for place, on in enumerate(active) if on]
        self.exemplar_terms = [
            bright | rest for bright, rest, on in zip(looked_at, around, active, strict=True) if on
        ]
        self._levels = [
            exemplar.activation for exemplar, on in zip(state.exemplars, active, strict=True) if on
        ]

    def _terms_in(self, text: str) -> frozenset[Term]:
        terms: set[Term] = set()
        for term in self._words.find(text):
            terms |= self._words.closure(term)
        return frozenset(terms)

    def _active(self) -> list[bool]:
        """Return which exemplars the unit answered to: those in the upper half of what it ever did."""
        values = [exemplar.activation for exemplar in self.state.exemplars]
        if not values:
            return []
        low = float(np.median([row.activation for row in self.state.rows] or [min(0.0, *values, 0.0)]))
        middle = low + 0.5 * (max(values) - low)
        return [value >= middle for value in values]

    def activations(self) -> list[float]:
        """Return every activation seen, exemplars first."""
        exemplars = [exemplar.activation for exemplar in self.state.exemplars]
        return exemplars + [row.activation for row in self.state.rows]

    def is_flat(self) -> bool:
        """Return whether nothing shown so far made a difference. Exemplars alone may all be as strong
        as can be.
        """
        values = self.activations()
        conclusive = bool(self.state.rows) or not any(values)
        return conclusive and len(values) > 1 and max(values) - min(values) <= 1e-9

    def rare_examples(self) -> list[Example]:
        """Return the exemplars that the unit fires on where these are few and no generated image comes near
        them; else none.
        """
        if not 0 < len(self._places) <= FEW or len(self._places) == len(self.state.exemplars):
            return []
        if any(row.activation > _NEAR * min(self._levels) for row in self.state.rows if row.before is None):
            return []
        examples = []
        for place, activation in zip(self._places, self._levels, strict=True):
            terms = [*sorted(self._looked_at[place]), *sorted(self._around[place] - self._looked_at[place])]
            things = [Thing(term.name) for term in terms if term.kind == "concept"][:MAX_THINGS]
            background = next((term.name for term in terms if term.kind == "background"), "")
            if things:
                examples.append(Example(place, activation, Stimulus(tuple(things), background)))
        return examples

    def standing(self, final: bool = False) -> Standing | None:
        """Return how the leading explanation stands, None if nothing explains anything.

        `final`: a guess that too few images speak for, or that predicted nothing, is worth an experiment but
        no answer.
        """
        evidence = MeasuredTerms(self.state.rows, self.exemplar_terms, self._words, self._levels)
        merits = self._ranked(self.state.rows)
        forecasts = self._forecasts()
        if final:
            merits = [merit for merit in merits if evidence.tested(merit.formula)] or merits
            merits.sort(key=lambda merit: (surprise(forecasts, merit.formula) or 0.0) >= LEVEL)
        if not merits:
            return None
        best, lead = merits[0], merits[0].formula
        # The latest round counts that held images on both sides.
        latest = next((f for f in reversed(forecasts) if min(len(f.split.on), len(f.split.off)) >= 3), None)
        predicted = latest.split.auroc if latest else 0.5
        split_now = split(evidence, lead)
        settled = (
            latest is not None
            and latest.formula == lead
            and predicted >= CONFIRMED
            and best.score - self._best_rival(merits, evidence) >= CLEAR_GAP
            and len(split_now.on) >= 6
            and evidence.tested(lead)
            and len(self.state.measured_rounds) >= 2
        )
        refinements = [
            merit
            for merit in merits[1:]
            if adds(merit.formula, lead)
            and merit.measured > best.measured + OPEN
            and not evidence.tested(merit.formula)
        ]
        return Standing(merits, split_now, predicted, surprise(forecasts, lead), settled, refinements)

    @staticmethod
    def _best_rival(merits: Sequence[Merit], evidence: MeasuredTerms) -> float:
        """Return the score of the best explanation that disagrees on some image, 0 if there is none.

        An exception or addition that next to no image speaks for is no rival yet: a few misses always suggest
        some.
        """
        lead = merits[0].formula
        truth = evidence.truth(lead)
        rivals = (
            merit.score
            for merit in merits[1:]
            if np.abs(evidence.truth(merit.formula) - truth).max(initial=0.0) >= 0.5
            and (not adds(merit.formula, lead) or evidence.tested(merit.formula))
        )
        return next(rivals, 0.0)

    def _forecasts(self) -> list[Forecast]:
        """Return, for every round but the first, what the explanation that led before it predicted."""
        forecasts = []
        rows = self.state.rows
        for number in self.state.measured_rounds[1:]:
            merits = self._ranked([row for row in rows if row.round < number])
            if merits:
                tested = MeasuredTerms([row for row in rows if row.round == number], [], self._words)
                forecasts.append(Forecast(merits[0].formula, split(tested, merits[0].formula)))
        return forecasts

    def _ranked(self, rows: Sequence[Row]) -> list[Merit]:
        return list(ranked(tuple(rows), tuple(self.exemplar_terms), tuple(self._levels), self._words))

    def suspects(self, standing: Standing) -> list[Row]:
        """Return images that are strong although the leading formula says otherwise, strongest first.

        Crowded ones, and those of a single thing, which no neighbor can have caused. Left out are those of
        which every thing has been measured alone often enough since.
        """
        evidence = MeasuredTerms(self.state.rows, [], self._words)
        truth = evidence.truth(standing.lead)
        return self._unexplained(
            [row for row, sure in zip(self.state.rows, truth, strict=True) if sure < 0.4],
            standing.split.middle,
        )

    def hits(self) -> list[Row]:
        """Return generated images that are as strong as exemplars while nothing explains them yet, strongest
        first.
        """
        levels = [exemplar.activation for exemplar in self.state.exemplars]
        values = [row.activation for row in self.state.rows]
        if not levels or not values:
            return []
        return self._unexplained(self.state.rows, 0.5 * (max(levels) + min(values)))

    def _unexplained(self, rows: Sequence[Row], above: float) -> list[Row]:
        """Return the strongest rows above a value of which a part has yet to be shown alone."""
        alone = self._alone()

        def measured_alone(stimulus: Stimulus) -> bool:
            often = _ENOUGH_ALONE if len(stimulus.things) == 1 else 1
            return all(alone[concept] >= often for concept in stimulus.concepts)

        unexplained = [
            row
            for row in rows
            if row.activation > above
            and (len(row.stimulus.things) >= CROWDED or len(row.stimulus.things) == 1)
            and not measured_alone(row.stimulus)
        ]
        return sorted(unexplained, key=lambda row: -row.activation)[:SUSPECTS]

    def _alone(self) -> Counter[str]:
        """Return how many images showed each concept by itself."""
        return Counter(
            row.stimulus.things[0].concept for row in self.state.rows if len(row.stimulus.things) == 1
        )

    def hinted(self) -> list[str]:
        """Return concepts that the strong exemplars' highlighted parts were taken for, then others of their
        kinds: those that no image has shown alone.

        What is rarely recognized is taken for something like it, each time for another.
        """
        seen = Counter(
            term.name
            for terms, active in zip(self._looked_at, self._active(), strict=True)
            for term in sorted(terms)
            if active and term.kind == "concept"
        )
        names = [name for name, _ in seen.most_common()]
        names += [other for name in names for other in self._words.siblings(name)]
        alone = self._alone()
        return [name for name in dict.fromkeys(names) if not alone[name]]

    def disputed(self) -> list[Stimulus]:
        """Return what the critic's objection says no label explains: images as they were made, and of
        exemplars the things that were seen in them.
        """
        made = {row.stimulus.prompt(self._words): row.stimulus for row in self.state.rows}
        stimuli = []
        for origin in self.state.unexplained:
            if isinstance(origin, str):
                stimuli += [stimulus for prompt, stimulus in made.items() if prompt == origin]
            elif origin <= len(self._looked_at):
                seen = self._looked_at[origin - 1] | self._around[origin - 1]
                things = sorted(term.name for term in seen if term.kind == "concept")[:MAX_THINGS]
                stimuli.append(Stimulus(tuple(map(Thing, things))))
        return [stimulus for stimulus in stimuli if stimulus.things]

    def shown_concepts(self) -> set[str]:
        """Return the concepts that some generated image was asked to show."""
        return {concept for row in self.state.rows for concept in row.stimulus.concepts}

    def untried(self, besides: Explanation) -> list[str]:
        """Return the concepts that the formula does not cover and that no image tried, as they are, where it
        was false.

        A thing that was repainted, small, or behind a large one may not have been there to be seen.
        """
        rows = self.state.rows
        truth = MeasuredTerms(rows, [], self._words).truth(besides)
        tried = {
            thing.concept
            for row, sure in zip(rows, truth, strict=True)
            if sure < 0.4
            for place, thing in enumerate(row.stimulus.things)
            if thing.size != "small"
            and not thing.repainted(self._words)
            and not any(other.size == "large" for at, other in enumerate(row.stimulus.things) if at != place)
        }
        left = [name for name in self._words.concepts if name not in tried]
        shown = [Stimulus((Thing(name),)).terms(self._words) for name in left]
        covered = besides.truth(truth_table(shown, besides.terms))
        return [name for name, sure in zip(left, covered, strict=True) if sure < 0.4]

    def looked_at_shares(self) -> dict[Term, float]:
        """Return in which share of the exemplars' highlighted regions each term was seen."""
        counts = Counter(term for terms in self._looked_at for term in terms)
        return {term: count / len(self._looked_at) for term, count in counts.items()}

    def _excepted(self, first: np.ndarray, second: np.ndarray, left: float) -> bool:
        """Return whether an exception is one: next to nothing is `left` of the effect, and that is no luck.

        The level is strict because any of some hundred terms could have been the exception.
        """
        from scipy import stats

        activations = np.array([row.activation for row in self.state.rows])
        among, outside = activations[first * second > 0.6], activations[first * (1 - second) > 0.6]
        if left > _LEFT or np.ptp(np.concatenate([among, outside])) == 0:
            return False
        return bool(stats.mannwhitneyu(among, outside, alternative="less").pvalue < _EXCEPTION_LEVEL)

    def pruned(self, formula: Explanation) -> Explanation:
        """Return the formula without the parts that its own images do not bear out."""
        evidence = MeasuredTerms(self.state.rows, [], self._words)
        if not self.state.rows:
            return formula
        off = split(evidence, formula).off
        base = float(off.mean()) if len(off) else float(evidence.activations.min())
        truths = {term: evidence.truth(Explanation("is", (term,))) for term in formula.terms}

        def effect(present: Sequence[Term], absent: Sequence[Term]) -> float | None:
            sure = np.prod([truths[t] for t in present] + [1 - truths[t] for t in absent], axis=0)
            chosen = evidence.activations[sure > 0.6]
            return float(chosen.mean()) - base if len(chosen) >= 3 else None

        if formula.operator == "or":
            effects = {
                term: effect([term], [other for other in formula.terms if other != term]) or 0.0
                for term in formula.terms
            }
            best = max(effects.values())
            kept = sorted(
                (t for t in formula.terms if effects[t] >= _ALONE * best > 0), key=lambda t: -effects[t]
            )
            return Explanation("or" if len(kept) > 1 else "is", tuple(kept)) if kept else formula
        if formula.operator in ("and", "without"):
            first, second = formula.terms
            both, alone = effect([first, second], []), effect([first], [second])
            on, off_effect = (both, alone) if formula.operator == "and" else (alone, both)
            if on is None or off_effect is None or off_effect > _ALONE * on:
                return Explanation("is", (first,))
            if formula.operator == "without" and not self._excepted(
                truths[first], truths[second], off_effect / on
            ):
                return Explanation("is", (first,))
        return formula
