"""The label card: what is known about a unit's label, in figures, and the kind of unit where its labels hold.

A pure function of a study's record, so that cards of old runs can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from agents.evidence.evidence_record import EvidenceRecord, Inspection
from agents.evidence.role import Role, recorded
from agents.evidence.simpler_labels import is_combination
from agents.evidence.statistics import auroc, auroc_interval, average_precision, standardized_margin
from agents.evidence.verdict import MEANINGS, holds, verdict_of
from agents.records.record_types import StudyResult

LabelKind = Literal["monosemantic", "polysemantic", "conditional"]


class LabelFigures(TypedDict):
    """One label of a card."""

    label: str
    explains: float | None
    """Share of the strongest images of the data set in which a blind observer sees the label."""
    auroc: float | None
    auroc_interval: list[float] | None
    margin: float | None
    n: int
    """Fresh images of the label."""


class WritesFigures(TypedDict):
    """What the unit does to its network's outputs, in short (`agents.evidence.role`)."""

    raises: list[str]
    """Outputs, strongest effect first."""
    lowers: list[str]
    norm: float
    """Change of the outputs' length when it is ablated, as a share of it."""
    p: float | None
    """Of the largest effect, among random changes of the same size."""
    comes: str | None
    """Whether the effect comes with the label."""


class CardFigures(TypedDict):
    """A label card, as it is written down; a figure that was not measured is None."""

    kind: LabelKind | None
    """Of a unit whose labels hold."""
    reason: str
    """Of the kind, or else of the verdict."""
    labels: list[LabelFigures]
    answered: list[str] | None
    explained: float | None
    """Share of the strongest images of the data set in which a blind observer sees any label."""
    auroc: float | None
    auroc_interval: list[float] | None
    margin: float | None
    auprc: float | None
    """Over the confirmation's images; as `pearson` it passes the sanity checks that AUROC and margin (CoSy's
    AUC and MAD) do not: it falls when a label misses or adds images.
    """
    pearson: float | None
    null_percentile: float | None
    """Share of random other labels, one fresh image each, that drive the unit less than the label's median
    image.
    """
    ceiling: float | None
    """Spearman-Brown reliability of activations over a prompt's seeds: no label can predict more."""
    compliance: float | None
    rival: dict[str, Any] | None
    simpler: list[dict[str, Any]] | None
    strength: dict[str, Any] | None
    coverage: dict[str, Any] | None
    held_back: dict[str, Any] | None
    reach: dict[str, Any] | None
    uncovered: list[dict[str, Any]] | None
    witness: dict[str, Any] | None
    writes: WritesFigures | None
    warnings: list[str]
    cost: dict[str, Any]


_LEAST_COMPLIANCE = 0.75
"""Share of images that show what was asked, below which a tool is called into question."""
_CLEAR = 0.7
"""AUROC from which one group of images counts as driving the unit more than another."""


def label_card(result: StudyResult) -> CardFigures:
    """Return the card of a study's result.

    `strength`, `coverage`, `held_back`, `reach`, `uncovered` and `witness` are as in `agents.evidence`.
    """
    evidence = result.evidence or EvidenceRecord()
    positives = [trial.activation for trial in evidence.positives]
    controls = [trial.activation for trial in evidence.controls]
    labels = [_label(label, evidence, controls) for label in result.labels]
    plain = result.to_json()
    written = plain.get("evidence") or {}
    if holds(plain) and labels:
        kind, reason = _kind(evidence, labels)
    else:
        kind, reason = None, (evidence.finding and evidence.finding.reason) or MEANINGS[verdict_of(plain)]
    measured = bool(positives and controls)
    truth = np.r_[np.ones(len(positives)), np.zeros(len(controls))]
    values = np.r_[positives, controls]
    return CardFigures(
        kind=kind,
        reason=reason,
        labels=labels,
        answered=plain.get("answered"),
        explained=_explained(evidence)[0],
        auroc=evidence.auroc,
        auroc_interval=evidence.auroc_interval,
        margin=evidence.margin,
        auprc=average_precision(positives, controls) if measured else None,
        pearson=_correlation(truth, values) if measured else None,
        null_percentile=float((np.array(controls) < np.median(positives)).mean()) if measured else None,
        ceiling=_ceiling(evidence.retest),
        compliance=evidence.compliance,
        rival=written.get("rival"),
        simpler=written.get("simpler"),
        strength=written.get("strength"),
        coverage=written.get("coverage"),
        held_back=written.get("held_back"),
        reach=written.get("reach"),
        uncovered=written.get("uncovered"),
        witness=written.get("witness"),
        writes=_writes(recorded(result.role.found if result.role else None)),
        warnings=_warnings(evidence),
        cost={
            "rounds": plain.get("rounds"),
            "images": plain.get("images_made"),
            "usage": plain.get("usage"),
        },
    )


def kind_of(record: Mapping[str, Any]) -> str | None:
    """Return the kind of the unit on record, None unless its labels hold: an earlier version had kinds for
    others, too.
    """
    card = record.get("card") or {}
    return card.get("kind") if holds(record) else None


def _writes(found: Role | None) -> WritesFigures | None:
    if found is None:
        return None
    return WritesFigures(
        raises=[effect.name for effect in found.raised],
        lowers=[effect.name for effect in found.lowered],
        norm=found.norm,
        p=None if found.random is None else found.random.p,
        comes=None if found.faithful is None else found.faithful.comes,
    )


def _label(label: str, evidence: EvidenceRecord, controls: Sequence[float]) -> LabelFigures:
    own = [trial.activation for trial in evidence.positives if trial.label == label]
    value = auroc(own, controls) if own and controls else None
    return LabelFigures(
        label=label,
        explains=_explained(evidence)[1].get(label),
        auroc=value,
        auroc_interval=None if value is None else list(auroc_interval(value, len(own), len(controls))),
        margin=None if value is None else standardized_margin(own, controls),
        n=len(own),
    )


def _explained(evidence: EvidenceRecord) -> tuple[float | None, Mapping[str, float]]:
    """Return the share of strong images that show any label, and each: in the words of this version or an
    earlier one.
    """
    if evidence.coverage is not None:
        return evidence.coverage.share, evidence.coverage.labels
    earlier = evidence.explained
    return (None, {}) if earlier is None else (earlier.any, earlier.labels)


def _kind(evidence: EvidenceRecord, labels: Sequence[LabelFigures]) -> tuple[LabelKind, str]:
    """Return the kind of a unit whose labels hold, and why."""
    borne_out = [label for label in labels if label["auroc_interval"] and label["auroc_interval"][0] > 0.5]
    if len(labels) > 1 and len(borne_out) > 1:
        return "polysemantic", f"{len(borne_out)} labels each drive the unit by themselves"
    if len(labels) > 1 and not borne_out:
        return (
            "polysemantic",
            f"{len(labels)} labels together drive the unit, too few images of each to say more",
        )
    label = labels[0]["label"]
    compared = [each for each in evidence.simpler or () if each.label == label]
    whole = bool(compared) and all(each.rejected for each in compared)
    meaning = evidence.meanings.get(label)
    if whole and (is_combination(label) if meaning is None else meaning.combines):
        return "conditional", "the whole label drives the unit, and less of it does not: " + ", ".join(
            f'"{each.weaker}"' for each in compared
        )
    return "monosemantic", "one label drives the unit"


def _ceiling(pairs: Sequence[Sequence[float]]) -> float | None:
    """Return the Spearman-Brown corrected correlation of two measurements, None if there is too little
    variation.
    """
    if len(pairs) < 4:
        return None
    first, second = np.array(pairs, float).T
    r = _correlation(first, second)
    return None if r is None or r <= -1 else 2 * r / (1 + r)


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _warnings(evidence: EvidenceRecord) -> list[str]:
    """Name the tool that the figures call into question: where maker, observer and unit disagree, two outvote
    one.
    """
    positives = [trial for trial in evidence.positives if trial.shows is not None]
    controls = [trial for trial in evidence.controls if trial.shows is not None]
    warnings = [] if evidence.inspected is None else _inspection(evidence.inspected)
    held_out = evidence.held_out
    if held_out is not None and held_out.dependent:
        warnings.append(
            f"data set: of {held_out.shown} held-out images with the label only {held_out.pictures} count: "
            "the others are parts of the same pictures, or of pictures that are among the exemplars"
        )
    if noted := sum(bool(trial.notes) for trial in evidence.positives):
        warnings.append(f"image maker: it reports that it could not draw all of {noted} images of the label")
    if len(positives) < 4 or len(controls) < 4:
        return warnings
    seen = sum(trial.shows is True for trial in positives)
    false = sum(trial.shows is True for trial in controls)
    if seen >= _LEAST_COMPLIANCE * len(positives) and false <= (1 - _LEAST_COMPLIANCE) * len(controls):
        return warnings
    with_it = [trial.activation for trial in positives + controls if trial.shows]
    without = [trial.activation for trial in positives + controls if not trial.shows]
    problem = (
        f"the observer finds the label in {seen} of {len(positives)} of its images and in {false} of "
        f"{len(controls)} others"
    )
    if with_it and without and auroc(with_it, without) >= _CLEAR:
        # The unit, which knows no words, agrees with the observer about which images lack the label.
        warnings.append(f"image maker: {problem}, and the unit answers to the same images as the observer")
    elif auroc([trial.activation for trial in positives], [trial.activation for trial in controls]) >= _CLEAR:
        warnings.append(f"observer: {problem}, but the unit tells them apart as they were asked for")
    else:
        warnings.append(f"image maker or observer: {problem}")
    return warnings


def _inspection(found: Inspection) -> list[str]:
    """Name the tool where no label is there to ask the unit: an observer of blank images sees nothing, and
    invents nothing.
    """
    n, seen, false = found.n, found.seen, found.false
    problem = (
        f"of {n} images of everyday things the observer finds the thing in {seen}, and another in {false}"
    )
    if n < 4:
        return []
    if false > (1 - _LEAST_COMPLIANCE) * n:
        return [f"observer: {problem}"]
    return [f"image maker: {problem}"] if seen < _LEAST_COMPLIANCE * n else []
