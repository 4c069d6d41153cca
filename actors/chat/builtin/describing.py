"""The neuron-description study: what to do next, given all that was measured so far.

Exemplars and blind eyes suggest terms; formulas over terms compete on every measurement; each next
program holds the images on which the leading formulas disagree, repeats of the leader in new contexts, and
controls. A formula is accepted only after it predicted a later round that it was not fitted to.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.chat.builtin.answers import (
    NOT_INTERPRETABLE,
    claim,
    final_description,
    headed,
    labels_of,
)
from actors.chat.builtin.design import Designer
from actors.chat.builtin.edits import causal_changes
from actors.chat.builtin.formulas import Evidence, Formula, Merit, auroc
from actors.chat.builtin.programs import exemplar_program, reply, trial_program
from actors.chat.builtin.reading import Reading, Row
from actors.chat.builtin.words import Term, Words, with_article

MAX_MEASURED_ROUNDS = 10
BATCH = 26
FIRST_BATCH = 32
HOPELESS_ROUNDS = 5
"""Rounds after which a study ends if its best guess still foretells nothing."""
CHANGES = 6
SURVEY = 44
SURVEYED_THINGS = 4
SUSPECTS = 3
_KNOWN_SHARE = 0.8
"""Share of the vocabulary that must have been shown before a search for further concepts ends."""

_CLEAR_GAP = 6.0
"""Nats by which a formula must lead its rivals to be taken as settled."""
_MIN_GAIN = 15.0
"""Nats of measured gain below which even the best of thousands of formulas is no explanation."""
_CONFIRMED = 0.85
_ACCEPTABLE = 0.7


@dataclass(frozen=True, slots=True)
class Standing:
    """How well the leading formula stands. AUROC: of images that satisfy it over those that do not."""

    merits: list[Merit]
    auroc: float
    foretold: float
    """AUROC on the latest round of the formula that led before it; 0.5 while there is none."""
    settled: bool
    mean_on: float
    mean_off: float
    n_on: int
    n_off: int

    @property
    def lead(self) -> Formula:
        return self.merits[0].formula

    @property
    def promising(self) -> bool:
        return self.merits[0].measured >= _MIN_GAIN or self.foretold >= _ACCEPTABLE

    @property
    def acceptable(self) -> bool:
        return (
            self.merits[0].measured >= _MIN_GAIN
            and self.auroc >= _ACCEPTABLE
            and self.foretold >= 0.6
            and self.n_on >= 3
        )


class UnitStudy:
    """One decision in the study of one unit. `context` holds the terms of each exemplar's whole picture."""

    def __init__(
        self, reading: Reading, words: Words, rng: random.Random, context: Sequence[frozenset[Term]] = ()
    ) -> None:
        self._reading, self._words = reading, words
        self._designer = Designer(words, rng)
        self._rng = rng
        self._looked_at = [self._terms_in(each.text) for each in reading.exemplars]
        if not any(self._looked_at) and reading.summary:
            self._looked_at = [self._terms_in(reading.summary) for _ in reading.exemplars]
        pictured = (
            list(context) if len(context) == len(self._looked_at) else [frozenset()] * len(self._looked_at)
        )
        lit = self._lit()
        self._exemplar_terms = [
            bright | around for bright, around, on in zip(self._looked_at, pictured, lit, strict=True) if on
        ]

    def next_turn(self) -> str:
        """Return the next assistant turn: a program, or the final answer."""
        reading = self._reading
        if reading.final_demanded:
            return self._conclude()
        if not reading.exemplars and not reading.rows and reading.failures_in_a_row < 2:
            return self._look_at_exemplars()
        if reading.failures_in_a_row >= 4:
            return self._conclude()
        if self._flat():
            return self._conclude() if len(reading.measured_rounds) >= 2 else self._survey()
        standing = self._standing()
        rounds = reading.measured_rounds
        since_rejection = [r for r in rounds if not reading.rejected or r > reading.rejected[-1]]
        if standing is None:
            return self._conclude() if len(rounds) >= MAX_MEASURED_ROUNDS else self._survey()
        if len(since_rejection) >= (2 if reading.rejected else MAX_MEASURED_ROUNDS):
            return self._conclude()
        if len(since_rejection) >= HOPELESS_ROUNDS and not standing.promising:
            return self._conclude()
        changed = any(row.before is not None for row in reading.rows)
        if not (standing.settled and changed and since_rejection):
            return self._experiment(standing)
        suspects = self._suspects(standing)
        if suspects:
            return self._single_out(suspects)
        if self._shown_share() < _KNOWN_SHARE:
            return self._search(standing)
        return self._conclude()

    # Reading the evidence

    def _terms_in(self, text: str) -> frozenset[Term]:
        found: set[Term] = set()
        for term in self._words.find(text):
            found |= self._words.closure(term)
        return frozenset(found)

    def _lit(self) -> list[bool]:
        """Say which exemplars the unit answered to: those in the upper half of what it ever did."""
        values = [each.activation for each in self._reading.exemplars]
        if not values:
            return []
        low = float(np.median([row.activation for row in self._reading.rows] or [min(0.0, *values, 0.0)]))
        middle = low + 0.5 * (max(values) - low)
        return [value >= middle for value in values]

    def _activations(self) -> list[float]:
        exemplars = [each.activation for each in self._reading.exemplars]
        return exemplars + [row.activation for row in self._reading.rows]

    def _flat(self) -> bool:
        """Say whether nothing shown so far made a difference."""
        values = self._activations()
        return bool(values) and max(values) - min(values) <= 1e-9 and len(values) > 1

    def _standing(self, final: bool = False) -> Standing | None:
        rows = self._reading.rows
        evidence = Evidence(rows, self._exemplar_terms, self._words)
        merits = evidence.ranked()
        if final:
            # A guess that too few images speak for is worth a further experiment, but no answer.
            merits = [merit for merit in merits if evidence.tested(merit.formula)] or merits
        if not merits:
            return None
        lead = merits[0].formula
        on, off = _split(evidence, lead, rows)
        foretold, agreed = self._foretold(lead)
        truth = evidence.truth(lead)
        rivals = [m for m in merits[1:] if np.abs(evidence.truth(m.formula) - truth).max(initial=0.0) >= 0.5]
        gap = merits[0].score - (rivals[0].score if rivals else 0.0)
        settled = (
            agreed
            and foretold >= _CONFIRMED
            and gap >= _CLEAR_GAP
            and len(on) >= 6
            and evidence.tested(lead)
            and len(self._reading.measured_rounds) >= 2
        )
        return Standing(
            merits,
            auroc(on, off),
            foretold,
            settled,
            float(on.mean()) if len(on) else 0.0,
            float(off.mean()) if len(off) else 0.0,
            len(on),
            len(off),
        )

    def _foretold(self, lead: Formula) -> tuple[float, bool]:
        """Return how well an earlier leader predicted a round it was not fitted to, and whether it is `lead`.

        The latest round counts that held images on both sides.
        """
        rows = self._reading.rows
        for number in reversed(self._reading.measured_rounds[1:]):
            merits = Evidence(
                [row for row in rows if row.round < number], self._exemplar_terms, self._words
            ).ranked(limit=1)
            if not merits:
                break
            earlier = merits[0].formula
            tested = [row for row in rows if row.round == number]
            on, off = _split(Evidence(tested, [], self._words), earlier, tested)
            if len(on) >= 3 and len(off) >= 3:
                same = set(earlier.terms) == set(lead.terms) and earlier.operator == lead.operator
                return auroc(on, off), same
        return 0.5, False

    def _suspects(self, standing: Standing) -> list[Row]:
        """Return crowded images that are strong although the leading formula says otherwise, strongest first.

        Those of which every thing has been measured alone since are left out.
        """
        evidence = Evidence(self._reading.rows, [], self._words)
        truth = evidence.truth(standing.lead)
        alone = {
            row.stimulus.things[0].concept for row in self._reading.rows if len(row.stimulus.things) == 1
        }
        middle = 0.5 * (standing.mean_on + standing.mean_off)
        found = [
            row
            for row, sure in zip(self._reading.rows, truth, strict=True)
            if sure < 0.4
            and row.activation > middle
            and len(row.stimulus.things) >= SURVEYED_THINGS
            and not alone.issuperset(_names(row.stimulus))
        ]
        return sorted(found, key=lambda row: -row.activation)[:SUSPECTS]

    def _shown_share(self) -> float:
        return len(self._shown_concepts()) / max(1, len(self._words.concepts))

    # Turns

    def _look_at_exemplars(self) -> str:
        observed = self._reading.failures_in_a_row == 0
        hypotheses = [
            "the unit is driven by one specific thing",
            "the unit is driven by a broad kind of thing, a colour, or a background",
            "the unit is driven by several unrelated things, or by one only beside another",
            "the unit is driven by nothing that words can name",
        ]
        thoughts = (
            "I begin with the images of the data set that drive the unit most, seen through blind eyes."
        )
        return reply(thoughts, hypotheses, exemplar_program(observed))

    def _survey(self) -> str:
        hypotheses = ["the unit is driven by something that its exemplars do not show clearly"]
        hypotheses.append("the unit is driven by nothing that words can name")
        thoughts = (
            self._observations() + " Nothing stands out yet, so I look far and wide: many things at once."
        )
        survey = self._designer.survey(BATCH, SURVEYED_THINGS, self._shown_concepts())
        program = trial_program("Many different things and backgrounds.", survey, self._words)
        return reply(thoughts, hypotheses, program)

    def _shown_concepts(self) -> set[str]:
        return {thing.concept for row in self._reading.rows for thing in row.stimulus.things}

    def _search(self, standing: Standing) -> str:
        """Look for a further, unrelated concept among everything not shown yet."""
        stimuli = self._designer.survey(SURVEY, SURVEYED_THINGS, self._shown_concepts(), standing.lead)
        hypotheses = [
            claim(standing.lead, self._words) + ", and nothing else",
            claim(standing.lead, self._words) + ", OR something unrelated that no image has shown yet",
        ]
        purpose = "Crowded images without the concept found: does anything else drive the unit?"
        thoughts = self._observations() + " One explanation stands; I look for a second, unrelated concept."
        return reply(thoughts, hypotheses, trial_program(purpose, stimuli, self._words))

    def _single_out(self, suspects: Sequence[Row]) -> str:
        stimuli = self._designer.one_by_one([row.stimulus for row in suspects], each=2)
        names = sorted({name for row in suspects for name in _names(row.stimulus)})
        hypotheses = [f"the unit is also driven by {with_article(name)}" for name in names]
        hypotheses.append("the unit is driven by none of these: they were chance")
        thoughts = (
            self._observations()
            + " Some crowded images are strong without a reason: I show their parts alone."
        )
        return reply(thoughts, hypotheses, trial_program("Which part was it?", stimuli, self._words))

    def _experiment(self, standing: Standing) -> str:
        rounds = len(self._reading.measured_rounds)
        count = FIRST_BATCH if rounds == 0 else BATCH
        if self._reading.failures_in_a_row:
            count //= 2
        changes = []
        if rounds >= 1 and self._reading.failures_in_a_row < 2:
            changes = causal_changes(standing.lead, self._words, self._rng, CHANGES)
            count -= len(changes)
        stimuli = self._designer.telling(standing.merits, count, repeats=count // 4, controls=count // 5)
        hypotheses = [claim(merit.formula, self._words) for merit in standing.merits[:5]]
        hypotheses.append("the unit is driven by nothing that words can name")
        purpose = "Images on which the hypotheses disagree, repeats in new contexts, and controls."
        return reply(self._observations(), hypotheses, trial_program(purpose, stimuli, self._words, changes))

    def _observations(self) -> str:
        """Return what the numbers say so far, in words."""
        reading = self._reading
        said = []
        if reading.failures_in_a_row:
            said.append("The last program brought no measurements, so I ask for less.")
        if not reading.rows and reading.exemplars:
            values = [each.activation for each in reading.exemplars]
            said.append(f"The exemplars reach {min(values):.2f} to {max(values):.2f}.")
            common = Counter(term for terms in self._exemplar_terms for term in terms).most_common(4)
            if common:
                listed = ", ".join(f"{term} in {count}" for term, count in common)
                said.append(f"Of {len(self._exemplar_terms)} that drive it well, there is {listed}.")
        latest = (
            [row for row in reading.rows if row.round == max(reading.measured_rounds)] if reading.rows else []
        )
        if latest:
            ordered = sorted(latest, key=lambda row: -row.activation)
            said.append("In the latest round the strongest were " + _listed(ordered[:3], self._words) + ";")
            said.append("the weakest " + _listed(ordered[-3:], self._words) + ".")
        return " ".join(said)

    # The answer

    def _conclude(self) -> str:
        reading = self._reading
        values = self._activations()
        if self._flat() or not values:
            return self._nothing(values)
        standing = self._standing(final=True)
        if standing is None or not (standing.acceptable or (not reading.rows and standing.merits)):
            return self._unexplained(standing)
        formula = headed(self._pruned(standing.lead), self._shares())
        labels = labels_of(formula, self._words)
        parts = [claim(formula, self._words)[:1].upper() + claim(formula, self._words)[1:] + "."]
        if reading.rows:
            parts.append(
                f"Images that show it reached a mean activation of {standing.mean_on:.2f} ({standing.n_on} images), "
                f"others {standing.mean_off:.2f} ({standing.n_off} images); one of the former exceeds one of the latter "
                f"with probability {standing.auroc:.2f}."
            )
        else:
            parts.append("No experiment on generated images was possible: this rests on the exemplars alone.")
        parts += self._changes_told()
        parts += self._ruled_out(standing)
        return final_description(" ".join(parts), labels)

    def _nothing(self, values: Sequence[float]) -> str:
        if not values:
            text = "No experiment brought a measurement, so nothing can be said about this unit."
        elif values[0] == 0:
            text = f"The unit stayed at zero on all {len(values)} images: it looks dead and is not interpretable."
        else:
            text = (
                f"The unit gave the same activation, {values[0]:.2f}, on all {len(values)} images whatever they showed: "
                "it is constant and not interpretable."
            )
        return final_description(text, [NOT_INTERPRETABLE])

    def _unexplained(self, standing: Standing | None) -> str:
        values = [row.activation for row in self._reading.rows]
        text = "Nothing that was tried explains the activations: the unit is not interpretable."
        if values:
            text += f" {len(values)} images ranged from {min(values):.2f} to {max(values):.2f} (mean {np.mean(values):.2f})."
        if standing is not None and self._reading.rows:
            text += (
                f" The best guess, that {claim(standing.lead, self._words)}, separated images with probability "
                f"{standing.auroc:.2f} where it was fitted and {standing.foretold:.2f} where it was put to the test."
            )
        return final_description(text, [NOT_INTERPRETABLE])

    def _pruned(self, formula: Formula) -> Formula:
        """Return an `or` without the terms that, alone in an image, do little of what the best one does."""
        if formula.operator != "or":
            return formula
        rows = self._reading.rows
        evidence = Evidence(rows, [], self._words)
        _, off = _split(evidence, formula, rows)
        base = float(off.mean()) if len(off) else 0.0
        effects = {}
        for term in formula.terms:
            others = [evidence.truth(Formula("is", (other,))) for other in formula.terms if other != term]
            alone = evidence.truth(Formula("is", (term,))) * np.prod([1 - each for each in others], axis=0)
            chosen = evidence.activations[alone > 0.8]
            effects[term] = float(chosen.mean()) - base if len(chosen) >= 2 else 0.0
        best = max(effects.values())
        kept = tuple(term for term in formula.terms if effects[term] >= 0.35 * best)
        if not kept or best <= 0:
            return formula
        kept = tuple(sorted(kept, key=lambda term: -effects[term]))
        return Formula("or" if len(kept) > 1 else "is", kept)

    def _shares(self) -> dict[Term, float]:
        """Return in which share of the exemplars' highlighted regions each term was seen."""
        counts = Counter(term for terms in self._looked_at for term in terms)
        return {term: count / len(self._looked_at) for term, count in counts.items()}

    def _changes_told(self) -> list[str]:
        changed = [row for row in self._reading.rows if row.before is not None]
        told = []
        kinds = {
            "replacing the thing": [
                r for r in changed if r.before and _names(r.before) != _names(r.stimulus)
            ],
            "changing only the background": [
                r
                for r in changed
                if r.before
                and r.before.background != r.stimulus.background
                and r.before.things == r.stimulus.things
            ],
            "changing only the colour": [
                r
                for r in changed
                if r.before
                and r.before.background == r.stimulus.background
                and _names(r.before) == _names(r.stimulus)
            ],
        }
        for what, rows in kinds.items():
            if rows:
                old = float(np.mean([row.before_activation for row in rows]))
                new = float(np.mean([row.activation for row in rows]))
                told.append(
                    f"In edits of the same picture, {what} took the mean from {old:.2f} to {new:.2f} (n={len(rows)})."
                )
        return told

    def _ruled_out(self, standing: Standing) -> list[str]:
        taken = set(standing.lead.terms)
        weaker = [
            m.formula
            for m in standing.merits[1:12]
            if m.formula.operator == "is" and not taken & set(m.formula.terms)
        ]
        if not weaker:
            return []
        return ["Tested and less fitting: " + "; ".join(str(formula) for formula in weaker[:4]) + "."]


def _names(stimulus: object) -> list[str]:
    return [thing.concept for thing in stimulus.things]  # type: ignore[attr-defined]


def _listed(rows: Sequence[Row], words: Words) -> str:
    return ", ".join(f'"{row.stimulus.prompt(words)}" ({row.activation:.2f})' for row in rows)


def _split(evidence: Evidence, formula: Formula, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return the activations of the rows that satisfy the formula and of those that do not; unsure ones count not."""
    truth = evidence.truth(formula)
    values = np.array([row.activation for row in rows], dtype=float)
    return values[truth > 0.6], values[truth < 0.4]
