"""The page of one unit: what it is, the evidence, and every round as it happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from actors.vision.readout.places import split_place
from agents.records.journal import slug
from experiments.records import journal_scan
from experiments.records.leave_note import WITHOUT_INTERPRETER
from experiments.records.names import STAND_IN, UnitName
from experiments.records.roles import RecordedRole
from experiments.report import pages
from experiments.report.evidence import card_of, evidence_of, uncovered
from experiments.report.figures import MEANINGS, figures_of, reason
from experiments.report.gallery import Gallery, Picture
from experiments.report.records import RunDirectory, UnitRecords, mapping, number, sequence, text
from experiments.report.summary import Summary, error_of, summarize, usage_of
from experiments.report.unit import reproduce
from experiments.report.unit.at_work import NEWEST
from experiments.report.unit.density import Looked, density
from experiments.report.unit.made_pictures import made_pictures
from experiments.report.unit.rounds import rounds_of, rounds_plot, strongest_edits, unread_notes
from experiments.report.unit.trials import trials_of
from experiments.report.verdicts import STANDING, VERDICTS

_EDITS = 6
"""Edits that stand before the rounds."""


def write_page(run: RunDirectory, unit: UnitRecords) -> Summary:
    """Write the page of what was read of a unit, and one of each of several studies of it; return the unit's
    summary.
    """
    for study in (*run.repeats(unit.slug), unit):
        summary = summarize(run, study)
        pages.write(run.store, f"report/units/{study.slug}.html", _page(run, study, summary))
    return summary


def _page(run: RunDirectory, unit: UnitRecords, summary: Summary) -> str:
    done = unit.done or {}
    bare = unit.name.of_class

    def locate(image_id: Any) -> list[str]:
        layers = [f"../../{layer}" for layer in run.image(image_id)]
        return layers[:1] if bare else layers  # a class has no map, so a mask says nothing

    gallery = Gallery(unit.rounds, locate)
    rounds = list(rounds_of(unit, gallery))
    background = {k: number(v) for k, v in mapping(done.get("background")).items()}
    # A head's masks have thresholds of their own.
    threshold = None if _looks(done) else background.get("mask_threshold")
    looked_at = Looked(
        exemplars=_exemplars(done, gallery),
        uncovered=uncovered(done.get("evidence"), gallery),
        evidence=None
        if done.get("evidence") is None
        else evidence_of(done.get("evidence"), gallery, "trial"),
    )
    return pages.render(
        "unit.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="../",
        summary=summary,
        class_name=run.class_name(unit),
        repeat=unit.repeat,
        repeats=list(_repeats(run, unit)),
        pooled="" if unit.repeat else run.pooled(unit.slug),
        layer_href=layer_href(run, unit),
        reserve=_reserve(run),
        verdicts=VERDICTS,
        evidence=looked_at.evidence,
        exemplars=looked_at.exemplars,
        uncovered=looked_at.uncovered,
        background=background,
        density=density(done.get("background"), looked_at, threshold),
        rounds=rounds,
        newest=next((each.shown for each in reversed(rounds) if each.shown), [])[-NEWEST:],
        trials=[] if unit.repeat else list(trials_of(unit, gallery)),
        unread_notes=unread_notes(unit),
        rounds_plot=rounds_plot(rounds, threshold),
        strongest_edits=strongest_edits(rounds, _EDITS),
        crosswise=_crosswise(run, unit),
        made=[] if unit.repeat else list(made_pictures(run, unit.slug, gallery)),
        named=_named(unit.done or {}),
        stand_ins=stand_ins(run, unit),
        problems=unit.problems,
        failures=[error_of(failure) for failure in unit.failures],
        command="" if unit.repeat else reproduce.command(run, unit),
        **_words(run, unit, summary),
    )


def _named(done: dict[str, Any]) -> str:
    """Return what named the unit and why, "" of a run in which all units have agents."""
    if not (why := text(done.get("why"))):
        return ""
    if text(done.get("tier")) == "embedding":
        return f"The label is an embedding's, and was tested without an agent: {why}."
    before = mapping(done.get("proposal"))
    label = " OR ".join(filter(None, map(text, sequence(before.get("labels")))))
    failed = f" The label of an embedding before, {label!r}: {text(before.get('verdict'))}." if label else ""
    return f"An agent studied the unit: {why}.{failed}"


def _exemplars(done: dict[str, Any], gallery: Gallery) -> list[Picture]:
    pictures = (
        gallery.picture(
            exemplar.get("image"),
            caption=f"exemplar {rank}",
            activation=number(exemplar.get("activation")),
            under=exemplar.get("source"),
        )
        for rank, exemplar in enumerate(map(mapping, sequence(done.get("exemplars"))), 1)
    )
    return [replace(picture, anchor=f"exemplar-{rank}") for rank, picture in enumerate(pictures, 1)]


def _words(run: RunDirectory, unit: UnitRecords, summary: Summary) -> dict[str, Any]:
    """Return what a template needs of the words and numbers of a result."""
    done = unit.done or {}
    facts = mapping(done.get("facts"))
    signs = [] if summary.repeats else summary.signs
    return {
        "signs": [journal_scan.SIGNS[sign] for study in signs for sign, seen in study.items() if seen],
        "place": split_place(unit.name.layer)[1].note(looks=_looks(done)),
        "looks": _looks(done),
        "fields": {k: v for k, v in mapping(done.get("fields")).items() if isinstance(v, str)},
        "card": card_of(done.get("card"), holds=summary.verdict in STANDING),
        "role": RecordedRole.of(done),
        "figures": figures_of(done.get("evidence")),
        "figure_meanings": MEANINGS,
        "reason": reason(done.get("evidence")),
        "covered": bool(mapping(done.get("evidence")).get("coverage")),
        "sight": _sight(facts),
        "notice": text(facts.get("notice")),
        "usage": usage_of(unit),
        "facts": list(_flat(facts)),
        "seed": shown(done.get("seed", run.manifest.get("seed"))),
        "tiers": _tiers(unit),
        "in_doubt": len(sequence(done.get("in_doubt"))),
        "task": text(done.get("task")) or text(run.manifest.get("task")),
    }


@dataclass(frozen=True, slots=True)
class RepeatedStudy:
    """One of several studies of a unit. `predicted`: the share of the others' images that its label tells
    apart.
    """

    number: int
    summary: Summary
    href: str
    predicted: float | None


def _repeats(run: RunDirectory, unit: UnitRecords) -> Iterator[RepeatedStudy]:
    """Return each of several studies of a unit, with the share of the others' images that its label tells
    apart.
    """
    if unit.repeat:
        return
    pairs = [*map(mapping, sequence(mapping(mapping(unit.done).get("agreement")).get("pairs")))]
    for repeat in run.repeats(unit.slug):
        summary = summarize(run, repeat)
        own = [number(pair.get("predicted")) for pair in pairs if pair.get("label_of") == repeat.repeat]
        known = [value for value in own if value is not None]
        predicted = sum(known) / len(known) if known else None
        href = f"{quote(repeat.slug, safe='')}.html"
        yield RepeatedStudy(repeat.repeat, summary, href, predicted)


@dataclass(frozen=True, slots=True)
class OtherLabel:
    """The label of another unit of the layer, and what the unit answers to its images."""

    label: str
    short: str
    """The other unit, as `layer:number`."""
    href: str
    mean: float | None
    share: float | None
    """Of what its own label reaches."""


@dataclass(frozen=True, slots=True)
class CrosswiseFigures:
    """The share of `n` other labels of the layer that drive the unit less than its own, and the nearest."""

    percentile: float
    n: float
    nearest: list[OtherLabel]


def _crosswise(run: RunDirectory, unit: UnitRecords) -> CrosswiseFigures | None:
    """Return how the unit's label compares with those of the layer's other units; None if it was not
    compared.
    """
    comparison = mapping(None if unit.repeat else run.crosswise.get(unit.name.id))
    percentile, n = number(comparison.get("percentile")), number(comparison.get("n"))
    if percentile is None or n is None:
        return None
    nearest = [
        OtherLabel(
            text(label.get("label")),
            UnitName.parse(text(label.get("unit"))).short,
            f"{quote(slug(text(label.get('unit'))), safe='')}.html",
            number(label.get("mean")),
            number(label.get("share")),
        )
        for label in map(mapping, sequence(comparison.get("nearest")))
    ]
    return CrosswiseFigures(percentile, n, nearest)


def _looks(done: dict[str, Any]) -> bool:
    """Return whether masks show where an attention head looks."""
    return mapping(done.get("facts")).get("masks") == "attention"


def _sight(facts: dict[str, Any]) -> str:
    """Return what must be said of an interpreter from outside, or one that did not see, else ""."""
    sight, interpreter = text(facts.get("sight")), text(facts.get("interpreter"))
    if interpreter.startswith("mcp:"):
        return f"An agent from outside studied this unit. It calls itself {interpreter.removeprefix('mcp:')}."
    if sight.startswith("none"):
        return (
            "The interpreter cannot see, and there were no descriptions of the images: it was informed that "
            "they were not shown."
        )
    if sight and sight != "its own":
        return f"The interpreter cannot see: in place of images it was given {sight}."
    return ""


def layer_href(run: RunDirectory, unit: UnitRecords) -> str:
    """Return the address of the layer's page below the report, "" where the run has no other unit of the
    layer.
    """
    return f"layers/{slug(unit.name.layer)}.html" if run.planned(unit.name.layer) > 1 else ""


def _reserve(run: RunDirectory) -> bool:
    """Return whether a part of the data set was held out."""
    return bool(number(mapping(mapping(run.manifest.get("settings")).get("vision")).get("reserve")))


def _tiers(unit: UnitRecords) -> list[str]:
    tiers = [text(mapping(record.get("outcome")).get("tier")) for record in unit.rounds]
    return sorted({text for text in tiers if text})


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict) and prefix.count(".") < 3:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", shown(item)


def shown(value: Any) -> str:
    """Return a JSON value in words."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value)
    return str(value)


def stand_ins(run: RunDirectory, unit: UnitRecords | None = None) -> list[tuple[str, str]]:
    """Return what answers in place of a trained model, as (role, name): by recorded names, or the run's
    settings.
    """
    facts = mapping(mapping(unit.done).get("facts")) if unit else {}
    settings = mapping(run.manifest.get("settings"))
    chat = mapping(settings.get("chat"))
    configured: dict[str, Any] = {
        "interpreter": {} if run.manifest.get("command") in WITHOUT_INTERPRETER else chat.get("interpreter"),
        "observers": chat.get("observers"),
        "generator": settings.get("generation"),
        "dataset": settings.get("dataset"),
    }
    rounds = unit.rounds if unit else []
    named = [("interpreter", text(mapping(record.get("reply")).get("model"))) for record in rounds]
    for role, setting in configured.items():
        named.append((role, text(facts.get(role)) or text(mapping(setting).get("backend"))))
    stand_ins_by_role: dict[str, str] = {}
    for role, name in named:
        if STAND_IN.search(name):
            stand_ins_by_role.setdefault(role, name)
    return list(stand_ins_by_role.items())
