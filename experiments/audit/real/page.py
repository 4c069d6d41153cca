"""What an audit's real images say, in blocks of its page and lines of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.audit.context_survey import ContextEffect
from experiments.audit.real.audit import AnswerCounts, RealSection
from experiments.audit.real_images import match_reason
from experiments.audit.replication import Replication
from experiments.audit.subgroups import Findings, Subgroup
from experiments.report.schema import Block, DataTable, Estimate, Text, columns

_ASSOCIATION = (
    "Associations: the context of a real image was not drawn at random, so a difference may come from what "
    "goes with it."
)
_TOO_FEW = "too few"


def real_lines(real: RealSection | None) -> dict[str, list[str]]:
    """Return lines for a terminal, by what they are of; nothing where no real images were looked at."""
    if real is None or not real.images:
        return {}
    return {
        "lines": [f"real images of {real.dataset} ({real.source}): {real_summary(real).strip()}"],
        "replications": [
            f"{each.class_name} with {each.context}: {replication_text(each)}"
            for each in real.found.replications
        ],
        "associations": [
            f"{effect.class_name}: {effect.direction} with {effect.context} on real images (an association): "
            f"{effect.mean:.3f} against {effect.others:.3f}, q = {effect.q:.4f}, {effect.n} images"
            for effect in real.found.associations
            if effect.biased
        ],
        "subgroups": [
            f"  {group.class_name}, {group.attribute} = {group.level}: {_figures(group)}"
            for group in _worst_first(real.found)
        ],
    }


def real_summary(real: RealSection) -> str:
    """Return the result in one or two sentences, with a space before."""
    if not real.images:
        return " None of the audited classes is a class of the data set: no real image was looked at."
    plain, *weighted = real.found.averages
    text = (
        f" On the {sum(real.images.values()):,} real images that were looked at, each counting once, the "
        f"accuracy is {plain.accuracy:.3f}"
    )
    text += "".join(
        f" ({average.accuracy:.3f} with groups of {average.weighted_by} weighted by their share of the "
        "training images)"
        for average in weighted
    )
    if (worst := real.found.worst) is None:
        return f"{text}; there are not two groups with enough images to compare."
    low, high = worst.interval
    sure = "surely below" if worst.below else "not surely below"
    return (
        f"{text}; the worst of {worst.groups} groups, {worst.class_name} with {worst.attribute} = "
        f"{worst.level}, has {worst.accuracy:.3f} ({low:.3f} to {high:.3f}) on {worst.n} images that it was "
        f"not chosen by, {sure} the {worst.others:.3f} of the others."
    )


def replication_text(replication: Replication | None) -> str:
    """Return what real images say of a finding on generated ones."""
    if replication is None:
        return "no real images"
    n = f"{replication.n} real images with this context, {replication.n_without} without"
    if replication.verdict == "too few images":
        return f"too few images to tell: {n}"
    if replication.effect is None or replication.interval is None:
        if not replication.told_by:
            return "not tested: neither a column nor an observer says which real images show this context"
        return "not tested: the observers cannot tell this context from its absence"
    low, high = replication.interval
    text = (
        f"{replication.verdict}: {replication.effect:+.3f} ({low:+.3f} to {high:+.3f}) on {n}, "
        f"told by {replication.told_by}"
    )
    if replication.factor is None or replication.corrected is None:
        return text
    return (
        f"{text}; errors of the observers shrink it to {replication.factor:.2f}: "
        f"corrected {replication.corrected:+.3f}"
    )


def real_blocks(real: RealSection) -> list[Block]:
    """Return the blocks of the page that are about real images."""
    blocks: list[Block] = []
    if real.found.subgroups:
        blocks.append(_subgroups(real.found))
    if associations := [effect for effect in real.found.associations if effect.fresh]:
        blocks.append(_associations(associations))
    blocks.append(_classes(real))
    if real.answers:
        blocks.append(_observers(real.answers))
    return blocks


def _subgroups(found: Findings) -> DataTable:
    def accuracy(group: Subgroup) -> str | Estimate:
        if group.accuracy is None or group.accuracy_interval is None:
            return _TOO_FEW
        return Estimate.of(group.accuracy, group.accuracy_interval)

    return DataTable(
        title="Real images by subgroup",
        columns=(
            *columns("class", "attribute", "value"),
            *columns("images", digits=0),
            *columns("accuracy", "mean probability", digits=3),
        ),
        rows=tuple(
            (group.class_name, group.attribute, group.level, group.n, accuracy(group), group.probability)
            for group in _worst_first(found)
        ),
        note="An image is recognized if its class is the most probable one (by itself, if each class has a "
        "probability of its own: at least one half). Intervals are Wilson's, wide enough to hold for all "
        "groups together (95%); of groups of fewer than 25 images nothing is said.",
    )


def _worst_first(found: Findings) -> list[Subgroup]:
    return sorted(found.subgroups, key=lambda group: (group.accuracy is None, group.accuracy or 0.0))


def _associations(associations: Sequence[ContextEffect]) -> DataTable:
    return DataTable(
        title="Differences on real images",
        columns=(
            *columns("class", "group"),
            *columns("mean probability", "in the other groups", digits=3),
            *columns("q", digits=4),
            *columns("images", digits=0),
            *columns("surely"),
        ),
        rows=tuple(
            (
                effect.class_name,
                effect.context,
                Estimate.of(effect.mean, effect.mean_interval),
                effect.others,
                effect.q,
                effect.n,
                f"{effect.direction} (association)" if effect.biased else "not sure",
            )
            for effect in associations
        ),
        note=f"{_ASSOCIATION} What differs by 0.1 or more on one half of the images was tested on the other "
        "half, at a false-discovery rate of 5% over all groups of all classes; the figures are of the "
        "second half.",
    )


def _classes(real: RealSection) -> DataTable | Text:
    own = [match for match in real.matches if match.index is not None]
    if not own:
        names = ", ".join(match.name for match in real.matches[:20])
        return Text(
            title="Classes of the data set",
            paragraphs=(f"None of its classes has the name of a class of the network: {names}.",),
        )
    unmatched = len(real.matches) - len(own)
    return DataTable(
        title="Classes of the data set",
        columns=(*columns("data set", "network", "matched"), *columns("images", digits=0)),
        rows=tuple((match.name, match.network_class, match_reason(match.how), match.images) for match in own),
        note=f"From {real.source} of {real.dataset}. {unmatched} of its classes have no name of the "
        f"network's. {sum(real.images.values()):,} images of audited classes were measured, "
        f"{real.unreadable:,} could not be read.",
    )


def _observers(answers: Sequence[AnswerCounts]) -> DataTable:
    return DataTable(
        title="What the observers said of real images",
        columns=(
            *columns("class", "context"),
            *columns("images", "shown in", "could not tell", digits=0),
            *columns("sensitivity", "specificity"),
        ),
        rows=tuple(
            (
                counts.class_name,
                counts.context,
                counts.images,
                counts.yes,
                counts.unsure,
                counts.hits / counts.present if counts.present else None,
                1 - counts.alarms / counts.absent if counts.absent else None,
            )
            for counts in answers
        ),
        note="Sensitivity and specificity are measured on generated images whose content is known; on "
        "photographs they may be others.",
    )


def _figures(group: Subgroup) -> str:
    if group.accuracy is None or group.accuracy_interval is None:
        return f"{_TOO_FEW} images ({group.n})"
    low, high = group.accuracy_interval
    return (
        f"accuracy {group.accuracy:.3f} ({low:.3f} to {high:.3f}), probability {group.probability:.3f}, "
        f"{group.n} images"
    )
