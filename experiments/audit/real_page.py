"""What an audit's real images say, in blocks of its page and lines of the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.audit.real_images import how_told
from experiments.report.schema import Block, DataTable, Estimate, TableColumn, Text

_ASSOCIATION = "Associations: nobody drew the context of a real image at random, so a difference may come from what goes with it."
_TOO_FEW = "too few"


def real_lines(real: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return lines for a terminal, by what they are of; nothing where no real images were looked at."""
    if not real or not real["images"]:
        return {}
    found = real["found"]
    lines = {"lines": [f"real images of {real['dataset']} ({real['source']}): {real_summary(real).strip()}"]}
    lines["replications"] = [
        f"{each['class_name']} with {each['context']}: {replication_text(each)}"
        for each in found["replications"]
    ]
    lines["associations"] = [
        f"{each['class_name']}: {_direction(each)} with {each['context']} on real images (an association): {each['mean']:.3f} "
        f"against {each['others']:.3f}, q = {each['q']:.4f}, {each['n']} images"
        for each in found["associations"]
        if each["q"] <= _RATE
    ]
    lines["subgroups"] = [
        f"  {each['class_name']}, {each['attribute']} = {each['level']}: {_share(each)}"
        for each in sorted(found["subgroups"], key=_worst_first)
    ]
    return lines


_RATE = 0.05


def real_summary(real: Mapping[str, Any]) -> str:
    """Return the result in one or two sentences, with a space before."""
    if not real["images"]:
        return " None of the audited classes is a class of the data set: no real image was looked at."
    found = real["found"]
    plain, *weighted = found["averages"]
    told = f" On {sum(real['images'].values()):,} real images the accuracy is {plain['accuracy']:.3f}"
    told += "".join(
        f" ({each['accuracy']:.3f} with groups of {each['weighted_by']} weighted by their share of the training images)"
        for each in weighted
    )
    if (worst := found["worst"]) is None:
        return f"{told}; there are not two groups with enough images to compare."
    low, high = worst["interval"]
    sure = "surely below" if worst["below"] else "not surely below"
    return (
        f"{told}; the worst of {worst['groups']} groups, {worst['class_name']} with {worst['attribute']} = {worst['level']}, has "
        f"{worst['accuracy']:.3f} ({low:.3f} to {high:.3f}) on {worst['n']} images that it was not chosen by, {sure} the "
        f"{worst['others']:.3f} of the others."
    )


def replication_text(each: Mapping[str, Any] | None) -> str:
    """Return what real images say of a finding on generated ones."""
    if each is None:
        return "no real images"
    n = f"{each['n']} real images with this context, {each['n_without']} without"
    if each["verdict"] == "too few images":
        return f"too few images to tell: {n}"
    if each["verdict"] == "not tested":
        if not each["told_by"]:
            return "not tested: nobody told which real images show this context"
        return "not tested: the observers cannot tell this context from its absence"
    low, high = each["interval"]
    told = f"{each['verdict']}: {each['effect']:+.3f} ({low:+.3f} to {high:+.3f}) on {n}, told by {each['told_by']}"
    if each["factor"] is not None:
        told += (
            f"; errors of the observers shrink it to {each['factor']:.2f}: corrected {each['corrected']:+.3f}"
        )
    return told


def real_blocks(real: Mapping[str, Any]) -> list[Block]:
    """Return the blocks of the page that are about real images."""
    found = real["found"]
    blocks: list[Block] = []
    if found["subgroups"]:
        blocks.append(_subgroups(found))
    associations = [each for each in found["associations"] if each["fresh"]]
    if associations:
        blocks.append(_associations(associations))
    blocks.append(_classes(real))
    if real["answers"]:
        blocks.append(_witness(real["answers"]))
    return blocks


def _subgroups(found: Mapping[str, Any]) -> DataTable:
    return DataTable(
        title="Real images by subgroup",
        columns=(
            TableColumn(name="class"), TableColumn(name="attribute"), TableColumn(name="value"), TableColumn(name="images", digits=0),
            TableColumn(name="accuracy", digits=3), TableColumn(name="mean probability", digits=3),
        ),
        rows=tuple(
            (
                each["class_name"], each["attribute"], each["level"], each["n"],
                _TOO_FEW if each["accuracy"] is None else Estimate(
                    value=each["accuracy"], low=min(each["accuracy_interval"][0], each["accuracy"]),
                    high=max(each["accuracy_interval"][1], each["accuracy"]),
                ),
                each["probability"],
            )
            for each in sorted(found["subgroups"], key=_worst_first)
        ),
        note="An image is recognised if its class is the most probable one (by itself, if each class has a probability of its own: at "
        "least one half). Intervals are Wilson's, wide enough to hold for all groups together (95 %); of groups of fewer than 25 images "
        "nothing is said.",
    )  # fmt: skip


def _worst_first(each: Mapping[str, Any]) -> tuple[bool, float]:
    return each["accuracy"] is None, each["accuracy"] or 0.0


def _associations(associations: list[Mapping[str, Any]]) -> DataTable:
    return DataTable(
        title="Differences on real images",
        columns=(
            TableColumn(name="class"), TableColumn(name="group"), TableColumn(name="mean probability", digits=3),
            TableColumn(name="in the other groups", digits=3), TableColumn(name="q", digits=4), TableColumn(name="images", digits=0),
            TableColumn(name="surely"),
        ),
        rows=tuple(
            (
                each["class_name"], each["context"],
                Estimate(value=each["mean"], low=min(each["mean_interval"][0], each["mean"]),
                         high=max(each["mean_interval"][1], each["mean"])),
                each["others"], each["q"], each["n"],
                f"{_direction(each)} (association)" if each["q"] <= _RATE else "not sure",
            )
            for each in associations
        ),
        note=f"{_ASSOCIATION} What differs by 0.1 or more on one half of the images was tested on the other half, at a false-discovery rate "
        "of 5 % over all groups of all classes; the figures are of the second half.",
    )  # fmt: skip


def _classes(real: Mapping[str, Any]) -> DataTable | Text:
    own = [each for each in real["matches"] if each["index"] is not None]
    if not own:
        names = ", ".join(each["name"] for each in real["matches"][:20])
        return Text(
            title="Classes of the data set",
            paragraphs=(f"None of its classes has the name of a class of the network: {names}.",),
        )
    unmatched = len(real["matches"]) - len(own)
    return DataTable(
        title="Classes of the data set",
        columns=(TableColumn(name="data set"), TableColumn(name="network"), TableColumn(name="matched"), TableColumn(name="images", digits=0)),
        rows=tuple(
            (each["name"], each["network_class"], how_told(each["how"]), each["images"])
            for each in own
        ),
        note=f"From {real['source']} of {real['dataset']}. {unmatched} of its classes have no name of the network's. "
        f"{sum(real['images'].values()):,} images of audited classes were measured, {real['unreadable']:,} could not be read.",
    )  # fmt: skip


def _witness(answers: list[Mapping[str, Any]]) -> DataTable:
    return DataTable(
        title="What the observers told of real images",
        columns=(
            TableColumn(name="class"), TableColumn(name="context"), TableColumn(name="images", digits=0), TableColumn(name="shown in", digits=0),
            TableColumn(name="could not tell", digits=0), TableColumn(name="sensitivity"), TableColumn(name="specificity"),
        ),
        rows=tuple(
            (
                each["class_name"], each["context"], each["images"], each["yes"], each["unsure"],
                each["hits"] / each["present"] if each["present"] else None,
                1 - each["alarms"] / each["absent"] if each["absent"] else None,
            )
            for each in answers
        ),
        note="Sensitivity and specificity are measured on generated images whose content is known; on photographs they may be others.",
    )  # fmt: skip


def _share(each: Mapping[str, Any]) -> str:
    if each["accuracy"] is None:
        return f"{_TOO_FEW} images ({each['n']})"
    low, high = each["accuracy_interval"]
    return f"accuracy {each['accuracy']:.3f} ({low:.3f} to {high:.3f}), probability {each['probability']:.3f}, {each['n']} images"


def _direction(each: Mapping[str, Any]) -> str:
    return "lower" if each["difference"] < 0 else "higher"
