"""The figures of a label's evidence in words: the same on the page, in the terminal and in a notebook.

A record may be damaged or of an earlier version: a figure that cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from experiments.records import numbers
from experiments.report.records import mapping, number, sequence, text


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what it is called, its value with what is uncertain about it, and what that means."""

    name: str
    value: str
    meaning: str


MEANINGS: dict[str, str] = {
    "AUROC": "The chance that a new image of the label drives the unit more than one of another thing: 0.5 "
    "is chance, 1 is always. Beside it stands its 95% interval.",
    "e-value": "The evidence that this is no chance: what bets on the label have won, from 1. By chance "
    "alone 20 is reached in at most one of twenty tests, whenever one stops. For all its tests: the part "
    "that is left for a study that tested several answers; units of a layer are compared by it.",
    "Margin": "The difference of the two means, in standard deviations of the other things' activations.",
    "Mean activation": "Of the label's new images, against that of other things.",
    "Drawn as asked": "The share of the label's images in which the blind witness finds the label.",
    "AUPRC": "The mean precision of the activation as a detector of the label among the test's images: it "
    "also falls where a label covers too little.",
    "Pearson": "The correlation of the activations with whether an image was asked to show the label.",
    "Above everyday things": "The share of other things, one image each, that drive the unit less than the "
    "label's median image.",
    "Above other units' labels": "The share of the labels of the layer's other units whose images drive this "
    "unit less than those of its own.",
    "Noise ceiling": "How well the activations of two images of one prompt agree: no label can predict them "
    "better than that. It is low where the prompts hardly differ in what they do to the unit.",
    "Exemplars explained": "The share of the strongest images in which the blind witness finds a label.",
    "Calls in doubt": "Requests that broke off after they were sent: the provider may have charged for them.",
}
"""The other figures of a label card, by the name that they have on the page."""


GATES: dict[str, str] = {
    "specific": "Whether new images of the label drive the unit more than other things do: the AUROC "
    "with its 95% interval, and the e-value.",
    "strong": "How far new images of the label get from the data set's mean to its strongest images.",
    "covering": "The share of the data set's strongest images in which a blind witness finds the label.",
    "true on real images": "The AUROC of the label on images of the data set that no agent saw: a blind "
    "witness says which of them show it.",
    "reachable": "How far the best of all images that were made get to the data set's strongest ones: where "
    "that is little, the image maker says little about the unit.",
}
"""The figures that a label must pass, by name."""


def figures_of(evidence: Any) -> list[Figure]:
    """Return the figures that are on record, in the order in which a label must pass them."""
    record = mapping(evidence)
    groups = (_specific(record), _strong(record), _covering(record), _held_out(record), _reach(record))
    return [figure for group in groups for figure in group]


def _specific(evidence: dict[str, Any]) -> Iterator[Figure]:
    auroc, e_value = number(evidence.get("auroc")), number(evidence.get("e_value"))
    if auroc is None:
        return
    means = [number(evidence.get(key)) for key in ("mean_positive", "mean_control")]
    meaning = "the chance that a new image of the label drives the unit more than one of another thing"
    if None not in means:
        meaning += f"; mean activation {means[0]:.2f} against {means[1]:.2f}"
    value = f"AUROC {auroc:.2f}{_interval(evidence.get('auroc_interval'))}"
    bets = f", e-value {numbers.e_value(e_value)}" if e_value is not None else ""
    yield Figure("specific", value + bets, meaning)


def _strong(evidence: dict[str, Any]) -> Iterator[Figure]:
    strength = mapping(evidence.get("strength"))
    share = number(strength.get("share"))
    if share is not None:
        meaning = "how far new images of the label get from the data set's mean to its strongest images"
        yield Figure(
            "strong",
            f"{share:.0%}{_interval(strength.get('interval'), share=True)}",
            meaning + _asked(strength),
        )


def _covering(evidence: dict[str, Any]) -> Iterator[Figure]:
    coverage = mapping(evidence.get("coverage"))
    share, n, shown = (number(coverage.get(key)) for key in ("share", "n", "shown"))
    untold, corrected = number(coverage.get("untold")) or 0, number(coverage.get("corrected"))
    if n is None:
        return
    meaning = (
        f"{shown or 0:.0f} of the {n:.0f} strongest images of the data set show the label, by a blind witness"
    )
    if untold:
        meaning += f"; of {untold:.0f} more it could not tell"
    if corrected is not None and share is not None and abs(corrected - share) >= 0.005:
        meaning += f"; {corrected:.0%} with the witness's errors allowed for"
    value = "not known" if share is None else f"{share:.0%}{_interval(coverage.get('interval'), share=True)}"
    yield Figure("covering", value, meaning + _asked(coverage))


def _held_out(evidence: dict[str, Any]) -> Iterator[Figure]:
    held_back = mapping(evidence.get("held_back"))
    drawn, shown, auroc = (number(held_back.get(key)) for key in ("drawn", "shown", "auroc"))
    if drawn is None:
        return
    untold, corrected = number(held_back.get("untold")) or 0, number(held_back.get("corrected"))
    meaning = f"{shown or 0:.0f} of {drawn:.0f} images of the data set that no agent saw show the label"
    pictures = number(held_back.get("pictures"))
    if pictures is not None and pictures < (shown or 0):
        meaning += f"; they count as {pictures:z.0f}, as parts of one picture count once"
    if untold:
        meaning += f"; of {untold:.0f} the witness could not tell"
    if auroc is None:
        yield Figure(
            "true on real images",
            "not known",
            f"{meaning}: too few to tell; more images, or a larger vision.reserve, would help",
        )
        return
    value = f"AUROC {auroc:.2f}{_interval(held_back.get('auroc_interval'))}"
    if (e_value := number(held_back.get("e_value"))) is not None:
        value += f", e-value {numbers.e_value(e_value)}"
    if corrected is not None and abs(corrected - auroc) >= 0.005:
        meaning += f"; AUROC {corrected:.2f} with the witness's errors allowed for"
    if (precision := number(held_back.get("precision"))) is not None:
        meaning += f"; {precision:.0%} of strong images show it"
    yield Figure("true on real images", value, meaning)


def _reach(evidence: dict[str, Any]) -> Iterator[Figure]:
    reach = mapping(evidence.get("reach"))
    share, n = number(reach.get("share")), number(reach.get("n"))
    if share is not None and n is not None:
        meaning = (
            f"how far the best of all {n:.0f} images that were made get from the data set's mean to its "
            "strongest images"
        )
        yield Figure("reachable", f"{share:.0%}", meaning + _asked(reach))


def _interval(value: Any, *, share: bool = False) -> str:
    ends = [number(end) for end in sequence(value)]
    if len(ends) != 2 or None in ends:
        return ""
    low, high = ends
    return f" ({low:.0%} to {high:.0%})" if share else f" ({low:.2f} to {high:.2f})"


def _asked(record: dict[str, Any]) -> str:
    least = number(record.get("least"))
    return "" if least is None else f"; asked is {least:.0%}"


def reason(evidence: Any) -> str:
    """Return what the verdict rests on, "" where none is on record."""
    return text(mapping(mapping(evidence).get("finding")).get("reason"))
