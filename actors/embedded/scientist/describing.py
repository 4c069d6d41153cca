"""The neuron-description study: what to do next, given all that was measured so far.

Exemplars and blind eyes suggest terms; formulas over terms compete on every measurement; each next
program holds the images on which the leading formulas disagree, repeats of the leader in new contexts, and
controls. A formula is accepted only after it predicted a later round that it was not fitted to.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from actors.embedded.drawing.vocabulary import with_article
from actors.embedded.language.words import Words
from actors.embedded.reasoning.appraisal import CROWDED, Appraisal
from actors.embedded.reasoning.design import Designer
from actors.embedded.reasoning.edits import causal_edits
from actors.embedded.reasoning.formulas import Merit
from actors.embedded.reasoning.programs import edit_program, exemplar_program, reply, trial_program
from actors.embedded.reasoning.rebuilding import Example, example_edits, rebuilt
from actors.embedded.reasoning.standing import Standing
from actors.embedded.reasoning.stimuli import Stimulus
from actors.embedded.reasoning.study_state import Row
from actors.embedded.scientist.answers import claim
from actors.embedded.scientist.conclusion import conclude

MAX_MEASURED_ROUNDS = 12
BATCH = 26
FIRST_BATCH = 32
SINGLING_ROUNDS = 5
"""Measured rounds in which strong images are taken apart while no guess predicts anything."""
HOPELESS_ROUNDS = 8
"""Rounds after which a study ends if its best guess still predicts nothing."""
CHANGES = 6
SURVEY = 44
REFINING_ROUNDS = 10
"""Measured rounds after which no further addition to a formula that stands is looked into."""
_REBUILDING = 2
"""Rounds at most that draw the few images again that drive a unit."""
_UNTRIED_SHARE = 0.05
"""Share of the vocabulary that may stay unseen when the search for further concepts ends."""


class UnitStudy:
    """One decision in the study of one unit. `proposed` are labels that another method proposes."""

    def __init__(
        self, appraisal: Appraisal, words: Words, rng: random.Random, proposed: Sequence[str] = ()
    ) -> None:
        self._appraisal, self._state, self._words = appraisal, appraisal.state, words
        self._proposed = sorted({term for label in proposed for term in words.find(label)})
        self._designer, self._rng = Designer(words, rng), rng

    def next_turn(self) -> str:
        """Return the next assistant turn: a program, or the final answer."""
        state = self._state
        if state.final:
            return conclude(self._appraisal, self._words)
        if not state.exemplars and not state.rows and state.failures_in_a_row < 2:
            return self._look_at_exemplars()
        if state.failures_in_a_row >= 4:
            return conclude(self._appraisal, self._words)
        if self._appraisal.is_flat():
            return (
                conclude(self._appraisal, self._words) if len(state.measured_rounds) >= 2 else self._survey()
            )
        if len(state.measured_rounds) < _REBUILDING and (examples := self._appraisal.rare_examples()):
            return self._rebuild(examples)
        standing = self._appraisal.standing()
        rounds = state.measured_rounds
        since_rejection = [r for r in rounds if not state.rejected or r > state.rejected[-1]]
        if (standing is None or not standing.promising) and len(rounds) < SINGLING_ROUNDS:
            hits = self._appraisal.hits() if standing is None else self._appraisal.suspects(standing)
            if hits:
                return self._single_out([row.stimulus for row in hits])
        if standing is None:
            return (
                conclude(self._appraisal, self._words)
                if len(rounds) >= MAX_MEASURED_ROUNDS
                else self._survey()
            )
        if state.rejected and not since_rejection and (left := self._appraisal.disputed()):
            return self._single_out(left)
        if len(since_rejection) >= (2 if state.rejected else MAX_MEASURED_ROUNDS):
            return conclude(self._appraisal, self._words)
        if len(since_rejection) >= HOPELESS_ROUNDS and not standing.promising:
            return conclude(self._appraisal, self._words)
        changed = any(row.before is not None for row in state.rows)
        if not (standing.settled and changed and since_rejection):
            return self._experiment(standing)
        if standing.refinements and len(rounds) < REFINING_ROUNDS:
            return self._experiment(standing, [standing.merits[0], *standing.refinements])
        suspects = self._appraisal.suspects(standing)
        if suspects:
            return self._single_out([row.stimulus for row in suspects])
        untried = self._appraisal.untried(standing.lead)
        if len(untried) > _UNTRIED_SHARE * len(self._words.concepts):
            return self._search(standing, untried)
        return conclude(self._appraisal, self._words)

    def _look_at_exemplars(self) -> str:
        observed = self._state.failures_in_a_row == 0
        hypotheses = [
            "the unit is driven by one specific thing",
            "the unit is driven by a broad kind of thing, a color, or a background",
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
        thoughts = self._observations() + " Nothing stands out yet, so I look far and wide."
        hinted = [*self._untried_of_proposed(), *self._appraisal.hinted()]
        if hinted := list(dict.fromkeys(hinted))[:BATCH]:
            survey, purpose = self._designer.each_alone(hinted), "What the exemplars may show, and its like."
        else:
            untried = set(self._words.concepts) - self._appraisal.shown_concepts()
            survey = self._designer.survey(BATCH, CROWDED, untried)
            purpose = "Many different things and backgrounds."
        program = trial_program(purpose, survey, self._words)
        return reply(thoughts, hypotheses, program)

    def _rebuild(self, examples: Sequence[Example]) -> str:
        """Draw the few images again that drive the unit, whole and in parts, and edit them."""
        stimuli = rebuilt(examples[:1], self._words, self._rng)
        edits = [] if self._state.failures_in_a_row else example_edits(examples, self._words, self._rng)
        hypotheses = [
            f"the unit is driven by {example.content.prompt(self._words)}, all of it" for example in examples
        ]
        hypotheses += [
            "the unit is driven by one part of that",
            "the unit is driven by two parts of that together",
        ]
        thoughts = (
            self._observations()
            + f" Only {len(examples)} of the exemplars drive it, so I draw them again, take them "
            "apart, and edit them."
        )
        program = trial_program("The few strong images, whole and in parts.", stimuli, self._words)
        return reply(thoughts, hypotheses, program + ("\n" + edit_program(edits) if edits else ""))

    def _search(self, standing: Standing, untried: Sequence[str]) -> str:
        """Look for a further, unrelated concept among everything not shown yet."""
        stimuli = self._designer.survey(SURVEY, CROWDED, untried, standing.lead)
        hypotheses = [
            claim(standing.lead, self._words) + ", and nothing else",
            claim(standing.lead, self._words) + ", OR something unrelated that no image has shown yet",
        ]
        purpose = "Crowded images without the concept found: does anything else drive the unit?"
        thoughts = self._observations() + " One explanation stands; I look for a second, unrelated concept."
        return reply(thoughts, hypotheses, trial_program(purpose, stimuli, self._words))

    def _single_out(self, suspects: Sequence[Stimulus]) -> str:
        stimuli = self._designer.one_by_one(suspects, copies=2)
        names = sorted({name for stimulus in suspects for name in stimulus.concepts})
        hypotheses = [f"the unit is also driven by {with_article(name)}" for name in names]
        hypotheses.append("the unit is driven by none of these: they were chance")
        thoughts = (
            self._observations() + " Some images are strong without a reason: I show their parts alone."
        )
        return reply(thoughts, hypotheses, trial_program("Which part was it?", stimuli, self._words))

    def _experiment(self, standing: Standing, between: Sequence[Merit] = ()) -> str:
        """Return images that separate the explanations `between`; by default all that are in question."""
        rounds = len(self._state.measured_rounds)
        count = FIRST_BATCH if rounds == 0 else BATCH
        if self._state.failures_in_a_row:
            count //= 2
        changes = []
        if rounds >= 1 and self._state.failures_in_a_row < 2:
            changes = causal_edits(standing.lead, self._words, self._rng, CHANGES)
            count -= len(changes)
        merits = between or standing.merits
        proposed = self._designer.each_alone(2 * self._untried_of_proposed()) if rounds == 0 else []
        count -= len(proposed)
        stimuli = proposed + self._designer.telling(merits, count, repeats=count // 4, controls=count // 5)
        hypotheses = [claim(merit.formula, self._words) for merit in merits[:5]]
        hypotheses.append("the unit is driven by nothing that words can name")
        purpose = "Images on which the hypotheses disagree, repeats in new contexts, and controls."
        return reply(self._observations(), hypotheses, trial_program(purpose, stimuli, self._words, changes))

    def _untried_of_proposed(self) -> list[str]:
        """Return the things among the proposed labels that no image has shown yet."""
        shown = self._appraisal.shown_concepts()
        return [term.name for term in self._proposed if term.kind == "concept" and term.name not in shown]

    def _observations(self) -> str:
        """Return what the numbers say so far, in words."""
        state = self._state
        said = []
        if state.failures_in_a_row:
            said.append("The last program brought no measurements, so I ask for less.")
        if not state.rows and state.exemplars:
            values = [exemplar.activation for exemplar in state.exemplars]
            said.append(f"The exemplars reach {min(values):.2f} to {max(values):.2f}.")
            counts = Counter(term for terms in self._appraisal.exemplar_terms for term in sorted(terms))
            common = counts.most_common(4)
            if common:
                listed = ", ".join(f"{term} in {count}" for term, count in common)
                said.append(
                    f"Of {len(self._appraisal.exemplar_terms)} that drive it well, there is {listed}."
                )
        latest = [row for row in state.rows if row.round == max(state.measured_rounds)] if state.rows else []
        if latest:
            ordered = sorted(latest, key=lambda row: -row.activation)
            said.append("In the latest round the strongest were " + _listed(ordered[:3], self._words) + ";")
            said.append("the weakest " + _listed(ordered[-3:], self._words) + ".")
        return " ".join(said)


def _listed(rows: Sequence[Row], words: Words) -> str:
    return ", ".join(f'"{row.stimulus.prompt(words)}" ({row.activation:.2f})' for row in rows)
