"""Each finding of an audit as two sides beside each other, by kind of context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.audit.context_survey import ContextEffect, Shown
from experiments.audit.real.page import replication_text
from experiments.audit.record import AuditRecord
from experiments.audit.replication import Replication
from experiments.report.schema import (
    Block,
    CaptionedImage,
    Contrast,
    ContrastSide,
    Estimate,
    FindingCheck,
    Text,
)

_RESAMPLES = 2000
_IMAGES = 3
"""Images of each side."""
_TITLES = {"proposed": "Contexts that the interpreter proposed"}


def contrast_blocks(record: AuditRecord, most: int) -> list[Block]:
    """Return the findings with the largest differences, those of a kind of context together, and each kind
    with the largest first.
    """
    ranked = sorted(record.biased, key=lambda effect: -abs(effect.difference))[:most]
    by_kind: dict[str, list[ContextEffect]] = {}
    for effect in ranked:
        by_kind.setdefault(kind_of(effect.context), []).append(effect)
    blocks: list[Block] = []
    for kind, effects in by_kind.items():
        blocks.append(Text(title=_TITLES.get(kind, f"Findings: {kind}")))
        blocks += [_contrast(record, effect) for effect in effects]
    return blocks


def kind_of(context: str) -> str:
    """Return the kind of a context, "background" of "background: snow"."""
    return context.partition(": ")[0]


def difference_of(record: AuditRecord, effect: ContextEffect) -> Estimate:
    """Return an effect's difference with a 95% interval, by resampling the images of both sides.

    Records without the single probabilities have no interval.
    """
    values = record.fresh.get(effect.class_name, {}).get(effect.context, [])
    rest = record.rest.get(effect.class_name, {})
    others = [value for context, own in rest.items() if context != effect.context for value in own]
    if len(values) < 2 or len(others) < 2:
        return Estimate(value=effect.difference)
    rng = np.random.default_rng(0)
    means = [rng.choice(group, (_RESAMPLES, len(group))).mean(axis=1) for group in (values, others)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return Estimate.of(effect.difference, (float(low), float(high)))


def claimed(record: AuditRecord, effect: ContextEffect) -> FindingCheck:
    """Return whether the agent's text names a finding."""
    name = "The agent's text"
    if effect.class_name not in record.answers:
        return FindingCheck(name=name, words="no agent wrote about this class")
    kinds = {
        parted.kind
        for parted in record.disagreements
        if (parted.class_name, parted.context) == (effect.class_name, effect.context)
    }
    if "opposite" in kinds:
        return FindingCheck(name=name, words="says the opposite", holds=False)
    if "missed" in kinds:
        return FindingCheck(name=name, words="does not name it", holds=False)
    return FindingCheck(name=name, words="names it", holds=True)


def figure_of(name: str, shown: Shown) -> CaptionedImage:
    """Return a kept image with the class's probability."""
    return CaptionedImage(
        image=shown.image, caption=f"{name}, {shown.context}: probability {shown.probability:.3f}"
    )


def _contrast(record: AuditRecord, effect: ContextEffect) -> Contrast:
    name = effect.class_name
    typical = record.typical.get(name, [])
    inside = [shown for shown in typical if shown.context == effect.context]
    outside = [shown for shown in typical if shown.context in record.ordinary.get(name, ())]
    extreme = [shown for shown in record.telling.get(name, ()) if shown.context == effect.context]
    sides = (
        ContrastSide(
            name=effect.context,
            mean=Estimate.of(effect.mean, effect.mean_interval),
            images=_figures(name, inside or extreme),
        ),
        ContrastSide(
            name="ordinary contexts", mean=Estimate(value=effect.others), images=_figures(name, outside)
        ),
    )
    return Contrast(
        title=f"{name}: {effect.direction} with {effect.context.partition(': ')[2]}",
        difference=difference_of(record, effect),
        sides=sides,
        checks=(_replicated(record, effect), claimed(record, effect)),
        note="Images are those nearest to the median of their side."
        if inside
        else "Images are those that show the difference most."
        if extreme
        else "",
    )


def _figures(name: str, shown: Sequence[Shown]) -> tuple[CaptionedImage, ...]:
    return tuple(figure_of(name, each) for each in shown[:_IMAGES])


def _replicated(record: AuditRecord, effect: ContextEffect) -> FindingCheck:
    found: Sequence[Replication] = record.real.found.replications if record.real else ()
    wanted = (effect.class_name, effect.context)
    own = next((each for each in found if (each.class_name, each.context) == wanted), None)
    tested = own is not None and own.effect is not None and own.interval is not None
    tested &= own is not None and own.verdict != "too few images"
    return FindingCheck(
        name="On real images",
        words=replication_text(own),
        holds=own.verdict == "replicated" if own is not None and tested else None,
    )
