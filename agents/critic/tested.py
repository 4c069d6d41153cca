"""What the critic's tests on fresh images came to, and the evidence that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agents.evidence.evidence_record import (
    Comparison,
    EvidenceRecord,
    Finding,
    GroupFigures,
    LabelMeaning,
    RivalTest,
)
from agents.evidence.finding import Figures
from agents.evidence.trials import Trials, compare_groups
from agents.tasks.base import FinalAnswer

SAME = 0.1
"""Difference, as a part of the label's effect, up to which two groups of images count as driving a unit
alike.
"""


@dataclass(frozen=True, slots=True)
class Tested:
    """Labels after the test on fresh images. `specific`: whether they passed; None if their images could not
    be made, for the `failures`.

    What follows was looked for in labels that passed only.
    """

    answer: FinalAnswer
    specific: bool | None
    trials: Trials
    share: float = 0.0
    """The part of all evidence that this test may claim."""
    failures: Sequence[str] = ()
    simpler: Sequence[Comparison] | None = None
    meanings: Mapping[str, LabelMeaning] = field(default_factory=dict)
    retest: Sequence[tuple[float, float]] = ()
    rivals: Sequence[RivalTest] = ()

    @property
    def groups(self) -> GroupFigures:
        """The figures of all images of the test; without any where they could not be made."""
        return compare_groups(*self.trials.numbers()) or GroupFigures()

    @property
    def e_value(self) -> float | None:
        """The e-value, discounted by the share; None where nothing was tested."""
        value = self.groups.e_value
        return None if value is None else value * self.share

    @property
    def strongest_rival(self) -> RivalTest | None:
        return max(self.rivals, key=lambda rival: rival.mean, default=None)

    @property
    def beaten_by(self) -> RivalTest | None:
        """The strongest rival, if its images surely drive the unit more."""
        best = self.strongest_rival
        if best is None or best.beats_interval is None or best.beats_interval[0] <= 0.5:
            return None
        positives, controls = map(np.mean, self.trials.numbers())
        return best if best.mean - positives > SAME * (positives - controls) else None

    def evidence(
        self, figures: Figures, finding: Finding, corrected: float | None, made: int
    ) -> EvidenceRecord:
        """Return the evidence, with what else is known of the labels. `corrected`: the e-value that counts;
        `made`: images of the examination.
        """
        trials = self.trials
        complying = sum(trial.complies for trial in trials.positives)
        return EvidenceRecord(
            **dict(self.groups),
            kind="untestable" if self.specific is None else "confirmation",
            failures=list(self.failures),
            images_made=made,
            positives=trials.positives,
            controls=trials.controls,
            finding=finding,
            e_value_corrected=corrected,
            compliant=compare_groups(*trials.numbers(compliant=True)),
            compliance=complying / len(trials.positives) if trials.positives else None,
            simpler=None if self.simpler is None else list(self.simpler),
            meanings=dict(self.meanings),
            retest=[list(pair) for pair in self.retest],
            rival=self.strongest_rival,
            rivals=list(self.rivals) if len(self.rivals) > 1 else [],
            unit=figures.unit,
            reach=figures.reach,
            strength=figures.strength,
            witness=figures.witness,
            coverage=figures.coverage,
            held_out=figures.held_out,
            uncovered=list(figures.uncovered),
        ).without_defaults()
