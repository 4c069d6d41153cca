"""The evidence of an answer, as pages show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from experiments.report import pages, plots
from experiments.report.gallery import Gallery, Picture
from experiments.report.records import mapping, number, sequence, text


@dataclass(frozen=True, slots=True)
class EvidenceSection:
    """The test of an answer on fresh images. Numbers are None where the record has none."""

    kind: str
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    e_value: float | None = None
    corrected: float | None = None
    """The e-value for what the study says, however many tests it took; to compare units."""
    margin: float | None = None
    mean_positive: float | None = None
    mean_control: float | None = None
    n_positive: float | None = None
    n_control: float | None = None
    compliance: float | None = None
    compliant_auroc: float | None = None
    failures: tuple[str, ...] = ()
    positives: tuple[Picture, ...] = ()
    controls: tuple[Picture, ...] = ()
    plot: Markup | None = None


def numbers(value: Any) -> EvidenceSection:
    """Return the numbers of an evidence record."""
    evidence = mapping(value)
    interval = [number(end) for end in sequence(evidence.get("auroc_interval"))]
    low, high = interval if len(interval) == 2 else (None, None)
    return EvidenceSection(
        kind=text(evidence.get("kind")),
        auroc=number(evidence.get("auroc")),
        low=low,
        high=high,
        e_value=number(evidence.get("e_value")),
        corrected=number(evidence.get("e_value_corrected", evidence.get("e_value"))),
        margin=number(evidence.get("margin")),
        mean_positive=number(evidence.get("mean_positive")),
        mean_control=number(evidence.get("mean_control")),
        n_positive=number(evidence.get("n_positive")),
        n_control=number(evidence.get("n_control")),
        compliance=number(evidence.get("compliance")),
        compliant_auroc=number(mapping(evidence.get("compliant")).get("auroc")),
        failures=tuple(failure for failure in sequence(evidence.get("failures")) if isinstance(failure, str)),
    )


def evidence_of(value: Any, gallery: Gallery, prefix: str) -> EvidenceSection:
    """Return an evidence record with its images and its strip plot."""
    evidence = numbers(value)
    groups = {}
    for name in ("positives", "controls"):
        pictures = []
        for position, trial in enumerate(map(mapping, sequence(mapping(value).get(name)))):
            notes = "; ".join(note for note in sequence(trial.get("notes")) if isinstance(note, str))
            picture = gallery.picture(
                trial.get("image"),
                caption=text(trial.get("prompt")),
                activation=number(trial.get("activation")),
                note=notes,
            )
            pictures.append(replace(picture, anchor=f"{prefix}-{name}-{position + 1}", prompted=True))
        groups[name] = pictures
    rows = [
        plots.Strip(
            name,
            style,
            [
                plots.Dot(p.activation, f"{p.caption}: {p.activation:.2f}", p.anchor)
                for p in groups[group]
                if p.activation is not None
            ],
        )
        for group, name, style in (
            ("positives", "the label", "positive"),
            ("controls", "other things", "control"),
        )
    ]
    alt_text = (
        f"Activations of {len(groups['positives'])} fresh images of the label and {len(groups['controls'])} "
        "of other things; an image of the label exceeds another with probability "
        f"{pages.figure(evidence.auroc)}."
    )

    def strongest(pictures: list[Picture]) -> tuple[Picture, ...]:
        return tuple(
            sorted(pictures, key=lambda p: -(p.activation if p.activation is not None else float("-inf")))
        )

    return replace(
        evidence,
        positives=strongest(groups["positives"]),
        controls=strongest(groups["controls"]),
        plot=plots.strips(rows, "activation", alt_text),
    )


_ORIGINS = {
    "exemplar": "of the data set",
    "held back": "of the data set, seen by no agent",
    "generated": "made by the agent",
    "edited": "edited by the agent",
}


def uncovered(value: Any, gallery: Gallery) -> list[Picture]:
    """Return the strongest images in which the witness does not find the label."""
    found = map(mapping, sequence(mapping(value).get("uncovered")))
    return [
        replace(
            gallery.picture(
                image.get("image"),
                caption=text(image.get("prompt")),
                activation=number(image.get("activation")),
                note=_ORIGINS.get(text(image.get("origin")), ""),
            ),
            anchor=f"missed-{rank}",
            prompted=text(image.get("origin")) in ("generated", "edited"),
        )
        for rank, image in enumerate(found, 1)
    ]


@dataclass(frozen=True, slots=True)
class CardLabel:
    """One of several labels, and its own figures."""

    label: str
    auroc: float | None
    margin: float | None
    explains: float | None


@dataclass(frozen=True, slots=True)
class ShownCard:
    """What a page shows of a label card; what is not recorded is empty or None."""

    answered: str
    """The whole answer, where the labels are not all of it."""
    kind: str
    """Of a label that holds."""
    reason: str
    warnings: list[str]
    labels: list[CardLabel]
    """Each label, where there are several."""
    auprc: float | None
    pearson: float | None
    null_percentile: float | None
    ceiling: float | None
    explained: float | None


def card_of(value: Any, *, holds: bool) -> ShownCard:
    """Return what a page shows of a label card."""
    card = mapping(value)
    labels = [
        CardLabel(
            text(label.get("label")), *(number(label.get(name)) for name in ("auroc", "margin", "explains"))
        )
        for label in map(mapping, sequence(card.get("labels")))
    ]
    answered = [label for label in sequence(card.get("answered")) if isinstance(label, str)]
    kept = {label.label for label in labels}
    figures = ("auprc", "pearson", "null_percentile", "ceiling", "explained")
    return ShownCard(
        " OR ".join(answered) if kept and set(answered) - kept else "",
        text(card.get("kind")) if holds else "",
        text(card.get("reason")),
        [warning for warning in sequence(card.get("warnings")) if isinstance(warning, str)],
        labels if len(labels) > 1 else [],
        *(number(card.get(name)) for name in figures),
    )
