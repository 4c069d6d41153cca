"""An audit as a page of the report: findings first, then each class's probability by context, and its worst
images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from experiments.audit.carriers.page import carrier_blocks
from experiments.audit.claims import words_alone
from experiments.audit.context_survey import CONTEXTS, LEAST, ContextEffect, Shown
from experiments.audit.findings.contrasts import claimed, contrast_blocks, difference_of, figure_of, kind_of
from experiments.audit.real.page import real_blocks, real_summary, replication_text
from experiments.audit.record import AuditRecord
from experiments.records.names import enumerated, stand_ins
from experiments.report.schema import (
    Bar,
    Bars,
    Block,
    DataTable,
    Estimate,
    ImageGrid,
    Page,
    Text,
    columns,
)
from experiments.setup.console import counted

SHOWN = 40
"""Classes whose contexts are drawn: those with the largest differences."""
MANY = 20
"""Classes from which a table of classes comes first."""
_HIGHER, _LOWER, _UNCONFIRMED, _ORDINARY = "higher", "lower", "stood out, not confirmed", "ordinary"
PALETTE = (_HIGHER, _LOWER, _UNCONFIRMED, "", "", _ORDINARY)
"""What a color means in every plot: the sixth is gray."""
NOTHING = "nothing could be measured"


def page(record: AuditRecord) -> Page:
    """Return the page of what `maia audit` found: findings first, then where they come from."""
    blocks: list[Block] = [_about(record)]
    if len(record.usual) > MANY:
        blocks.append(_classes(record))
    blocks += contrast_blocks(record, SHOWN)
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


def _classes(record: AuditRecord) -> DataTable:
    """Return the classes in falling order of their largest difference that is claimed."""
    largest: dict[str, ContextEffect] = {}
    for effect in record.biased:
        known = largest.get(effect.class_name)
        if known is None or abs(effect.difference) > abs(known.difference):
            largest[effect.class_name] = effect
    ranked = sorted(largest.values(), key=lambda effect: -abs(effect.difference))
    found = Counter(effect.class_name for effect in record.biased)
    rows = [
        (effect.class_name, effect.difference, effect.context, found[effect.class_name], effect.q)
        for effect in ranked
    ]
    return DataTable(
        title="Classes by effect",
        columns=(
            *columns("class", "largest difference", "context"),
            *columns("findings", digits=0),
            *columns("q", digits=4),
        ),
        rows=tuple(rows),
        note=f"{len(ranked)} of {counted(len(record.usual), 'class has', 'classes have')} a finding; of the "
        "others the table at the end says what would have been found.",
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
            f"ones. {len(record.effects)} contexts were tested at a false-discovery rate of 5%; {again} "
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
    lines, notice = [], ""
    if record.model:
        lines.append(f"Network: {record.model}. Profile: {record.profile or 'not recorded'}. {parties}.")
    if replaced := stand_ins(record.facts):
        notice = (
            f"Stand-ins answered as {enumerated(replaced)}: images are drawn scenes, and words come from "
            "a fixed vocabulary. The figures on generated images hold for drawn scenes."
        )
    return Text(paragraphs=tuple(lines or ["Which network was audited is not recorded."]), notice=notice)


def _disagreements(record: AuditRecord) -> DataTable:
    words = {
        "unsupported": "✗ no such difference was measured",
        "opposite": "✗ the difference is in the other direction",
        "missed": "✗ not named",
        "untested": "? nothing was measured there",
        "unchecked": "? its words are not known",
    }
    names = words_alone(record.claims)
    note = (
        f"Of {counted(len(names), 'text', 'texts')} ({', '.join(names[:SHOWN])}) known words alone were "
        "read: the observers gave no answer in the form asked for."
    )
    return DataTable(
        title="Where an agent's words and the numbers part",
        columns=(*columns("class", "context", "the agent's text"), *columns("measured difference")),
        rows=tuple(
            (parted.class_name, parted.context, words[parted.kind], parted.difference)
            for parted in record.disagreements
        ),
        note=note if names else "",
    )


def _findings(record: AuditRecord) -> DataTable:
    replications = record.real.found.replications if record.real else ()
    replicated = {(each.class_name, each.context): each for each in replications}
    return DataTable(
        title="All findings on generated images",
        columns=(
            *columns("class", "context", "probability", "in ordinary contexts", "difference"),
            *columns("q", digits=4),
            *columns("images", digits=0),
            *columns("on real images", "the agent's text"),
        ),
        rows=tuple(
            (
                effect.class_name,
                effect.context,
                Estimate.of(effect.mean, effect.mean_interval),
                effect.others,
                difference_of(record, effect),
                effect.q,
                effect.n,
                replication_text(replicated.get((effect.class_name, effect.context))),
                claimed(record, effect).words,
            )
            for effect in record.biased
        ),
        note="Probability of the class in the context, with a 95% bootstrap interval, and in ordinary "
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
        blocks.append(_contexts(record, name, by_class[name]))
        if lowest := record.lowest.get(name):
            blocks.append(_worst(name, lowest))
    return blocks


def _contexts(record: AuditRecord, name: str, effects: Sequence[ContextEffect]) -> Bars:
    def bar(effect: ContextEffect) -> Bar:
        measured = Estimate.of(effect.mean, effect.mean_interval)
        return Bar(
            name=effect.context,
            series=_series(effect),
            value=effect.mean,
            low=measured.low,
            high=measured.high,
        )

    kinds = list(dict.fromkeys(kind_of(context) for context in CONTEXTS))
    kinds += [kind for effect in effects if (kind := kind_of(effect.context)) not in kinds]
    ranked = sorted(effects, key=lambda effect: (kinds.index(kind_of(effect.context)), -effect.mean))
    return Bars(
        title=name,
        axis=f"probability of {name}",
        bars=tuple(bar(effect) for effect in ranked),
        note=record.answers.get(name, ""),
        palette=PALETTE,
        reference=record.usual.get(name),
        reference_name="mean in ordinary contexts",
    )


def _series(effect: ContextEffect) -> str:
    if effect.biased:
        return _LOWER if effect.difference < 0 else _HIGHER
    return _UNCONFIRMED if effect.fresh else _ORDINARY


def _worst(name: str, lowest: Sequence[Shown]) -> ImageGrid:
    """Return the images that a class is worst at."""
    return ImageGrid(
        title=f"{name}: images with the least probability",
        figures=tuple(figure_of(name, shown) for shown in lowest),
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
    if figures := tuple(figure_of(name, shown) for name in names for shown in record.lowest.get(name, ())):
        blocks.append(ImageGrid(title="Out of reach: the nearest images", figures=figures))
    return blocks
