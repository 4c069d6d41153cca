"""An audit as a page of the report: findings first, then each class's probability by context, and its worst
images.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.audit.real_page import real_blocks, real_summary, replication_text
from experiments.report.schema import (
    Bar,
    Bars,
    Block,
    CaptionedImage,
    DataTable,
    Estimate,
    ImageGrid,
    Page,
    TableColumn,
    Text,
)
from experiments.setup.console import counted

_STAND_IN = re.compile(r"stand-in|^builtin")
SHOWN = 40
"""Classes whose contexts are drawn: those with the largest differences."""


NOTHING = "nothing could be measured"


def highest(values: Mapping[str, Sequence[float]]) -> float:
    """Return the largest probability of a class in the screen: where it is tiny, the class is never
    recognised.
    """
    return max((value for each in values.values() for value in each), default=0.0)


def page(result: Mapping[str, Any], least: float) -> Page:
    """Return the page of what `maia audit` found; `least` is the difference from which it speaks of a bias."""
    effects: list[Mapping[str, Any]] = list(result["effects"])
    found = [each for each in effects if each["biased"]]
    by_class: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in effects:
        by_class[each["class_name"]].append(each)
    biased = {each["class_name"] for each in found}
    blocks: list[Block] = [_about(result)]
    real = result.get("real")
    if found:
        blocks.append(_findings(found, real))
    if real:
        blocks += real_blocks(real)
    if result.get("disagreements"):
        parted = tuple(
            f"{each['class_name']}: {each['kind']}, {each['context']}" for each in result["disagreements"]
        )
        blocks.append(Text(title="Where an agent's words and the numbers part", paragraphs=parted))
    beyond = result.get("out_of_reach") or {}
    unseen = {
        name for name, values in result["values"].items() if name not in beyond and highest(values) < least
    }
    largest = sorted(by_class, key=lambda name: -max(abs(each["difference"]) for each in by_class[name]))
    for name in largest[:SHOWN]:
        blocks.append(_contexts(name, by_class[name], str(result["answers"].get(name, ""))))
        if result["lowest"].get(name):
            contexts = {each["context"] for each in by_class[name] if each["biased"]}
            telling = [each for each in result["telling"][name] if each["context"] in contexts]
            blocks.append(_worst(name, result["lowest"][name], telling))
    if result["detectable"]:
        blocks.append(_detectable(result["detectable"], result["usual"], biased, unseen))
    if beyond:
        blocks += _out_of_reach(beyond, result["lowest"])
    if result["undrawn"]:
        untested = tuple(f"{name}: {', '.join(contexts)}" for name, contexts in result["undrawn"].items())
        blocks.append(Text(title="Not tested, for want of images", paragraphs=untested))
    told = (
        _summary(effects, biased, by_class, least) if effects else "No class was tested on generated images."
    )
    if unseen:
        told += f" Of {counted(len(unseen), 'class', 'classes')} nothing could be measured."
    if beyond:
        are = "is" if len(beyond) == 1 else "are"
        told += f" {counted(len(beyond), 'class', 'classes')} {are} out of reach of the image maker."
    return Page(
        title=f"Audit of {result['model']}" if result.get("model") else "Audit",
        summary=told + (real_summary(real) if real else ""),
        blocks=tuple(blocks),
    )


def _summary(
    effects: Sequence[Mapping[str, Any]], biased: set[str], by_class: Mapping[str, Any], least: float
) -> str:
    again = sum(each["fresh"] for each in effects)
    return (
        f"On generated images {len(biased)} of {counted(len(by_class), 'class has', 'classes have')} a context in which the "
        f"probability surely differs by more than {least:g} from that in ordinary ones. {len(effects)} contexts were tested at a "
        f"false-discovery rate of 5 %; {again} stood out at first and were shown again."
    )


def _out_of_reach(beyond: Mapping[str, str], best: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Block]:
    """Return which classes the first look did not reach, why, and the images that came nearest."""
    words = tuple(
        f"{name}: {why}. Its contexts were not tested: this image maker says nothing about the class."
        for name, why in beyond.items()
    )
    figures = tuple(
        CaptionedImage(
            image=each["image"], caption=f"{name}, {each['context']}: probability {each['probability']:.3f}"
        )
        for name in [*beyond][:SHOWN]
        for each in best.get(name, ())
    )
    shown: list[Block] = [Text(title="Out of reach", paragraphs=words)]
    return (
        [*shown, ImageGrid(title="Out of reach: the nearest images", figures=figures)] if figures else shown
    )


def _about(result: Mapping[str, Any]) -> Text:
    """Return which network was audited, by which profile, and what in it stands in for a trained model."""
    facts = result.get("facts") or {}
    roles = [(role, str(facts.get(role) or "")) for role in ("generator", "observers", "interpreter")]
    told = [f"{role}: {name}" for role, name in roles if name]
    stand_ins = [role for role, name in roles if _STAND_IN.search(name)]
    lines = []
    if result.get("model"):
        lines.append(
            f"Network: {result['model']}. Profile: {result.get('profile') or 'not recorded'}. {'; '.join(told)}."
        )
    if stand_ins:
        lines.append(
            f"Stand-ins answered as {' and '.join(stand_ins)}: images are drawn scenes, and words come from a fixed vocabulary. The "
            "figures on generated images hold for drawn scenes."
        )
    return Text(
        title="What was audited", paragraphs=tuple(lines or ["Which network was audited is not recorded."])
    )


def _findings(found: list[Mapping[str, Any]], real: Mapping[str, Any] | None) -> DataTable:
    replicated = {
        (each["class_name"], each["context"]): each
        for each in (real or {"found": {"replications": ()}})["found"]["replications"]
    }
    return DataTable(
        title="Findings on generated images",
        columns=(
            TableColumn(name="class"),
            TableColumn(name="context"),
            TableColumn(name="probability"),
            TableColumn(name="in ordinary contexts"),
            TableColumn(name="difference"),
            TableColumn(name="q", digits=4),
            TableColumn(name="images", digits=0),
            TableColumn(name="on real images"),
        ),
        rows=tuple(
            (
                each["class_name"],
                each["context"],
                _mean(each),
                each["others"],
                each["difference"],
                each["q"],
                each["n"],
                replication_text(replicated.get((each["class_name"], each["context"]))),
            )
            for each in found
        ),
        note="Probability of the class in the context, with a 95 % bootstrap interval, and in ordinary contexts: those "
        "that did not stand out. All is of new images, made after the context had stood out.",
    )


def _contexts(name: str, effects: list[Mapping[str, Any]], answer: str) -> Bars:
    return Bars(
        title=name,
        axis=f"probability of {name}",
        bars=tuple(
            Bar(
                name=each["context"],
                series=_series(each),
                value=each["mean"],
                low=_mean(each).low,
                high=_mean(each).high,
            )
            for each in sorted(effects, key=lambda each: -each["mean"])
        ),
        note=answer,
    )


def _series(effect: Mapping[str, Any]) -> str:
    if effect["biased"]:
        return "biased"
    return "stood out, not confirmed" if effect["fresh"] else "ordinary"


def _worst(name: str, lowest: Sequence[Mapping[str, Any]], telling: Sequence[Mapping[str, Any]]) -> ImageGrid:
    """Return the images that a class is worst at, and those that show most what was found; each once."""
    shown = {each["image"]: each for each in (*lowest, *telling)}
    return ImageGrid(
        title=f"{name}: worst images",
        figures=tuple(
            CaptionedImage(
                image=image, caption=f"{name}, {each['context']}: probability {each['probability']:.3f}"
            )
            for image, each in shown.items()
        ),
        note="First those with the least probability of all, then the most telling of each finding.",
    )


def _detectable(
    detectable: Mapping[str, float], usual: Mapping[str, float], biased: set[str], unseen: set[str]
) -> DataTable:
    return DataTable(
        title="What would have been found",
        columns=(
            TableColumn(name="class"),
            TableColumn(name="smallest difference", digits=3),
            TableColumn(name="probability in ordinary contexts", digits=3),
            TableColumn(name="found"),
        ),
        rows=tuple(
            (name, value, usual[name], "yes" if name in biased else NOTHING if name in unseen else "nothing")
            for name, value in sorted(detectable.items(), key=lambda pair: -pair[1])
        ),
        note="The difference of mean probability that this design finds in four of five cases, among all that was tested, "
        "through both of its stages. A class can lose no more than its probability in ordinary contexts; of one that no image of the screen showed "
        "recognised, nothing could be measured.",
    )


def _mean(effect: Mapping[str, Any]) -> Estimate:
    """Return the mean with its interval, which resampling may put a hair beside it."""
    low, high = effect["mean_interval"]
    mean = effect["mean"]
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean))
