"""How strongly a unit answers to a data set, its label and other things: all on one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from experiments.report import plots
from experiments.report.evidence import EvidenceSection
from experiments.report.gallery import Picture
from experiments.report.records import mapping, number, sequence


@dataclass(frozen=True, slots=True)
class Looked:
    """The images that a page shows of a result. `evidence` is None where nothing was tested."""

    exemplars: list[Picture]
    uncovered: list[Picture]
    evidence: EvidenceSection | None


def density(background: Any, looked_at: Looked, threshold: float | None) -> Markup:
    """Return the histogram of activations over the data set above rows of marks: exemplars, images of the
    label, of other things, and strong images that the label misses; nothing where no activation is known.

    The `threshold` is that of masks.

    The heights of bars are square roots of counts, so that single strong images stay visible.
    """
    histogram = mapping(mapping(background).get("histogram"))
    counts = [number(count) for count in sequence(histogram.get("counts"))]
    low, high = number(histogram.get("low")), number(histogram.get("high"))
    bars = None
    if counts and low is not None and high is not None and high > low:
        known = [count for count in counts if count is not None and count >= 0]
        bars = plots.PlotHistogram(known, low, high) if len(known) == len(counts) else None
    evidence = looked_at.evidence
    groups = (
        ("exemplars", "exemplar", looked_at.exemplars),
        ("label", "positive", evidence.positives if evidence else ()),
        ("others", "control", evidence.controls if evidence else ()),
        ("missed", "missed", looked_at.uncovered),
    )
    rows = [
        plots.Strip(
            name,
            style,
            [
                plots.Dot(p.activation, f"{p.caption}: {p.activation:.2f}", p.anchor)
                for p in pictures
                if p.activation is not None
            ],
        )
        for name, style, pictures in groups
    ]
    return plots.density(bars, [row for row in rows if row.dots], threshold)
