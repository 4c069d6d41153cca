"""The verdict that follows from the figures, and the reason for it in words."""

from __future__ import annotations

from dataclasses import dataclass

from agents.evidence.evidence_record import (
    Coverage,
    Finding,
    HeldOutTest,
    Range,
    Reach,
    Strength,
    WitnessedImage,
)
from agents.evidence.witness import Accuracy


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is known of an answer's labels apart from the test on fresh images; None is what could not be
    measured.
    """

    unit: Range | None
    reach: Reach | None
    strength: Strength | None = None
    witness: Accuracy | None = None
    coverage: Coverage | None = None
    held_out: HeldOutTest | None = None
    uncovered: tuple[WitnessedImage, ...] = ()
    """The strongest images without the label."""
    witnessed: tuple[WitnessedImage, ...] = ()
    """All strong images of which the witness was asked. Not written down."""


def of_label(specific: bool | None, figures: Figures, *, beaten_by: str = "") -> Finding:
    """Return the finding on labels. `specific`: the test on fresh images, None if there could be none."""
    unit, held = figures.unit, figures.held_out
    covers = figures.coverage.covers if figures.coverage is not None else None
    incomplete = figures.coverage is not None and figures.coverage.incomplete
    strong = figures.strength is None or figures.strength.strong
    reached = figures.reach is not None and figures.reach.reached
    blind = figures.witness is not None and not figures.witness.tells
    if unit is None:
        return Finding(
            verdict="not confirmed", reason="No image of the data set drives the unit more than another."
        )
    if held is not None and held.status == "holds" and covers and not blind:
        if specific and strong and reached and not beaten_by and not incomplete:
            return Finding(verdict="confirmed", reason=f"{_covers(figures)}; {_on_data(held)}.")
        strongly = held.share is not None and held.share >= _least(figures)
        if (specific is None or not reached) and unit.in_data and strongly:
            untried = _reach(figures) if not reached else "No image of the label could be made."
            return Finding(
                verdict="holds on your images", reason=f"{_covers(figures)}; {_on_data(held)}. {untried}"
            )
    if specific is None and not (figures.reach and figures.reach.n):
        return Finding(verdict="untested", reason="No image of the label could be made.")
    if not reached:
        reason = _reach(figures)
        if figures.witness is not None and blind:
            reason = f"{reason} {_blind(figures.witness)}"
        elif held is not None and held.dependent:
            reason = f"{reason} {_not_shown_on_data(figures)}"
        return Finding(verdict="out of reach", reason=reason)
    if specific is None:
        return Finding(verdict="untested", reason="No image of the label could be made.")
    if not specific:
        return Finding(
            verdict="not confirmed",
            reason="Images of the label do not drive the unit more than other things, surely.",
        )
    if beaten_by:
        return Finding(verdict="not confirmed", reason=f'Images of "{beaten_by}" drive the unit more.')
    if figures.witness is not None and blind:
        return Finding(verdict="not confirmed", reason=_blind(figures.witness))
    if held is not None and held.status == "contradicted":
        return Finding(verdict="not confirmed", reason=f"On real images it does not hold: {_on_data(held)}.")
    if not strong and figures.strength is not None:
        share = figures.strength.share
        return Finding(
            verdict="weak", reason=f"Its images reach {share:.0%} of what the unit's strongest images reach."
        )
    if covers is False or incomplete:
        return Finding(verdict="partial", reason=f"{_covers(figures)}.")
    return Finding(verdict="holds for generated images", reason=_not_shown_on_data(figures))


def of_abstention(figures: Figures) -> Finding:
    """Return the finding on the answer that nothing explains the unit."""
    if figures.unit is None or (figures.reach is not None and figures.reach.reached):
        return Finding(
            verdict="not interpretable", reason=_reach(figures) if figures.unit else "The unit does not vary."
        )
    return Finding(verdict="out of reach", reason=_reach(figures))


def _least(figures: Figures) -> float:
    return (
        figures.strength.least
        if figures.strength is not None
        else figures.reach.least
        if figures.reach
        else 0.0
    )


def _reach(figures: Figures) -> str:
    reach, unit = figures.reach, figures.unit
    if reach is None or reach.mean is None or reach.share is None or unit is None:
        return "No image was made."
    of = "images of a class that wins" if unit.anchor == unit.high else "the strongest of the data set"
    text = (
        f"The best of {reach.n} images that were made reach {reach.mean:z.2f}, and {of} {unit.high:z.2f}: "
        f"{max(0.0, reach.share):.0%} of the way from the data set's mean, {unit.low:z.2f}."
    )
    if unit.in_data or unit.data is None:
        return text
    return f"{text} The data set's own strongest images reach {unit.data:z.2f}: it holds none of the class."


def _covers(figures: Figures) -> str:
    coverage = figures.coverage
    if coverage is None:
        return "No witness was asked which images show the label"
    unclear = f", and of {coverage.untold} the witness could not tell" if coverage.untold else ""
    return f"{coverage.shown} of the {coverage.n} strongest images of the data set show the label{unclear}"


def _blind(witness: Accuracy) -> str:
    """Return that what a witness says of the data set's images means nothing."""
    if not min(witness.n_with, witness.n_without):
        return (
            "The witness could not tell of any image whether it shows the label, though some were made of it."
        )
    return (
        f"The witness finds the label in {witness.sensitivity:z.0%} of the images that were made of it and "
        f"in {1 - witness.specificity:z.0%} of others: nothing is known of what the data set's images show."
    )


def _on_data(held: HeldOutTest) -> str:
    if held.auroc is None:
        return _shown(held, "it")
    return f"{_shown(held, 'it')}, and one of these exceeds another image with probability {held.auroc:z.2f}"


def _shown(held: HeldOutTest, what: str) -> str:
    """Return how many images of the test show a label, and for how many they count."""
    text = f"{held.shown} of {held.drawn} images that no agent saw show {what}"
    if not held.dependent:
        return text
    return (
        f"{text}, which count as {held.pictures} since parts of one picture are no images of their own, "
        "nor are parts of a picture that is among the exemplars"
    )


def _not_shown_on_data(figures: Figures) -> str:
    held = figures.held_out
    if held is None:
        return "The label was looked for in no image of the data set that no agent saw."
    text = _shown(held, "the label")
    if held.untold:
        text += f", and of {held.untold} the witness could not tell"
    if held.status == "holds":
        return f"{text}; {_covers(figures)}."
    return f"{text}: {'too few to tell' if held.status == 'too few' else 'not enough to be sure'}."
