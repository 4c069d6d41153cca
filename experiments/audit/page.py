"""An audit as a page of the report: findings first, then each class's probability by context, and its worst
images.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from experiments.audit.carriers.page import carrier_blocks
from experiments.audit.claims import words_alone
from experiments.audit.real_page import real_blocks, real_summary, replication_text
from experiments.audit.record import AuditRecord
from experiments.report.schema import (
    Bar,
    Bars,
    Block,
    CaptionedImage,
    DataTable,
    Estimate,
    ImageGrid,
    Page,
    Text,
    columns,
)
from experiments.runs.context_survey import LEAST, ContextEffect, Shown
from experiments.setup.console import counted

_STAND_IN = re.compile(r"stand-in|^builtin")
SHOWN = 40
"""Classes whose contexts are drawn: those with the largest differences."""
NOTHING = "nothing could be measured"


def page(record: AuditRecord) -> Page:
    """Return the page of what `maia audit` found."""
    blocks: list[Block] = [_about(record)]
    if record.biased:
        blocks.append(_findings(record))
    if record.real:
        blocks += real_blocks(record.real)
    if record.carriers:
        blocks += carrier_blocks(record.carriers)
    if record.disagreements:
        blocks.append(_disagreements(record))
    blocks += _class_blocks(record)
    if record.detectable:
        blocks.append(_detectable(record))
    if record.out_of_reach:
        blocks += _out_of_reach(record)
    if record.undrawn:
        untested = tuple(f"{name}: {', '.join(contexts)}" for name, contexts in record.undrawn.items())
        blocks.append(Text(title="Not tested, for want of images", paragraphs=untested))
    return Page(
        title=f"Audit of {record.model}" if record.model else "Audit",
        summary=_summary(record) + (real_summary(record.real) if record.real else ""),
        blocks=tuple(blocks),
    )


def _unmeasured(record: AuditRecord) -> set[str]:
    """Return the classes that no image of the screen showed recognized."""
    return {
        name for name in record.values if name not in record.out_of_reach and record.highest(name) < LEAST
    }


def _summary(record: AuditRecord) -> str:
    sentences = []
    if record.effects:
        names = {effect.class_name for effect in record.effects}
        biased = {effect.class_name for effect in record.biased}
        again = sum(effect.fresh for effect in record.effects)
        sentences.append(
            f"On generated images {len(biased)} of {counted(len(names), 'class has', 'classes have')} a "
            f"context in which the probability surely differs by more than {LEAST:g} from that in ordinary "
            f"ones. {len(record.effects)} contexts were tested at a false-discovery rate of 5 %; {again} "
            "stood out at first and were shown again."
        )
    else:
        sentences.append("No class was tested on generated images.")
    if unmeasured := _unmeasured(record):
        sentences.append(f"Of {counted(len(unmeasured), 'class', 'classes')} {NOTHING}.")
    if beyond := len(record.out_of_reach):
        are = "is" if beyond == 1 else "are"
        sentences.append(f"{counted(beyond, 'class', 'classes')} {are} out of reach of the image maker.")
    return " ".join(sentences)


def _about(record: AuditRecord) -> Text:
    """Return which network was audited, by which profile, and what in it stands in for a trained model."""
    roles = {role: str(record.facts.get(role) or "") for role in ("generator", "observers", "interpreter")}
    parties = "; ".join(f"{role}: {name}" for role, name in roles.items() if name)
    lines = []
    if record.model:
        lines.append(f"Network: {record.model}. Profile: {record.profile or 'not recorded'}. {parties}.")
    if stand_ins := [role for role, name in roles.items() if _STAND_IN.search(name)]:
        lines.append(
            f"Stand-ins answered as {' and '.join(stand_ins)}: images are drawn scenes, and words come from "
            "a fixed vocabulary. The figures on generated images hold for drawn scenes."
        )
    return Text(
        title="What was audited", paragraphs=tuple(lines or ["Which network was audited is not recorded."])
    )


def _disagreements(record: AuditRecord) -> Text:
    paragraphs = [f"{parted.class_name}: {parted.kind}, {parted.context}" for parted in record.disagreements]
    if names := words_alone(record.claims):
        paragraphs.append(
            f"Of {counted(len(names), 'text', 'texts')} ({', '.join(names[:SHOWN])}) known words alone were "
            "read: the observers gave no answer in the form asked for."
        )
    return Text(title="Where an agent's words and the numbers part", paragraphs=tuple(paragraphs))


def _findings(record: AuditRecord) -> DataTable:
    replications = record.real.found.replications if record.real else ()
    replicated = {(each.class_name, each.context): each for each in replications}
    return DataTable(
        title="Findings on generated images",
        columns=(
            *columns("class", "context", "probability", "in ordinary contexts", "difference"),
            *columns("q", digits=4),
            *columns("images", digits=0),
            *columns("on real images"),
        ),
        rows=tuple(
            (
                effect.class_name,
                effect.context,
                Estimate.of(effect.mean, effect.mean_interval),
                effect.others,
                effect.difference,
                effect.q,
                effect.n,
                replication_text(replicated.get((effect.class_name, effect.context))),
            )
            for effect in record.biased
        ),
        note="Probability of the class in the context, with a 95 % bootstrap interval, and in ordinary "
        "contexts: those that did not stand out. All is of new images, made after the context had stood "
        "out.",
    )


def _class_blocks(record: AuditRecord) -> list[Block]:
    """Return the contexts of the classes with the largest differences, and their worst images."""
    by_class: dict[str, list[ContextEffect]] = defaultdict(list)
    for effect in record.effects:
        by_class[effect.class_name].append(effect)
    largest = sorted(by_class, key=lambda name: -max(abs(effect.difference) for effect in by_class[name]))
    blocks: list[Block] = []
    for name in largest[:SHOWN]:
        blocks.append(_contexts(name, by_class[name], record.answers.get(name, "")))
        if lowest := record.lowest.get(name):
            biased = {effect.context for effect in by_class[name] if effect.biased}
            telling = [shown for shown in record.telling[name] if shown.context in biased]
            blocks.append(_worst(name, lowest, telling))
    return blocks


def _contexts(name: str, effects: Sequence[ContextEffect], answer: str) -> Bars:
    def bar(effect: ContextEffect) -> Bar:
        measured = Estimate.of(effect.mean, effect.mean_interval)
        return Bar(
            name=effect.context,
            series=_series(effect),
            value=effect.mean,
            low=measured.low,
            high=measured.high,
        )

    bars = tuple(bar(effect) for effect in sorted(effects, key=lambda effect: -effect.mean))
    return Bars(title=name, axis=f"probability of {name}", bars=bars, note=answer)


def _series(effect: ContextEffect) -> str:
    if effect.biased:
        return "biased"
    return "stood out, not confirmed" if effect.fresh else "ordinary"


def _worst(name: str, lowest: Sequence[Shown], telling: Sequence[Shown]) -> ImageGrid:
    """Return the images that a class is worst at, and those that show most what was found; each once."""
    images = {shown.image: shown for shown in (*lowest, *telling)}
    return ImageGrid(
        title=f"{name}: worst images",
        figures=tuple(_figure(name, shown) for shown in images.values()),
        note="First those with the least probability of all, then the most telling of each finding.",
    )


def _figure(name: str, shown: Shown) -> CaptionedImage:
    return CaptionedImage(
        image=shown.image, caption=f"{name}, {shown.context}: probability {shown.probability:.3f}"
    )


def _detectable(record: AuditRecord) -> DataTable:
    biased = {effect.class_name for effect in record.biased}
    unmeasured = _unmeasured(record)

    def result(name: str) -> str:
        return "yes" if name in biased else NOTHING if name in unmeasured else "nothing"

    return DataTable(
        title="What would have been found",
        columns=(
            *columns("class"),
            *columns("smallest difference", "probability in ordinary contexts", digits=3),
            *columns("found"),
        ),
        rows=tuple(
            (name, smallest, record.usual[name], result(name))
            for name, smallest in sorted(record.detectable.items(), key=lambda pair: -pair[1])
        ),
        note="The difference of mean probability that this design finds in four of five cases, among all "
        "that was tested, through both of its stages. A class can lose no more than its probability in "
        "ordinary contexts; of one that no image of the screen showed recognized, nothing could be "
        "measured.",
    )


def _out_of_reach(record: AuditRecord) -> list[Block]:
    """Return which classes the first look did not reach, why, and the images that came nearest."""
    words = tuple(
        f"{name}: {why}. Its contexts were not tested: this image maker says nothing about the class."
        for name, why in record.out_of_reach.items()
    )
    blocks: list[Block] = [Text(title="Out of reach", paragraphs=words)]
    names = [*record.out_of_reach][:SHOWN]
    if figures := tuple(_figure(name, shown) for name in names for shown in record.lowest.get(name, ())):
        blocks.append(ImageGrid(title="Out of reach: the nearest images", figures=figures))
    return blocks
