"""The page of one unit: what it is, the evidence, and every round as it happened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from actors.vision.readout.places import split_place
from agents.evidence.verdict import verdict_of
from agents.records.journal import slug
from experiments.records import journal_scan
from experiments.records.names import UnitName
from experiments.records.roles import RecordedRole
from experiments.report import pages, reproduce
from experiments.report.evidence import EvidenceSection, background_plot, card_of, evidence_of, uncovered
from experiments.report.figures import MEANINGS, figures_of, reason
from experiments.report.gallery import Block, Gallery, Picture, StimulusEdit, StimulusIntervention
from experiments.report.records import RunDirectory, UnitRecords, mapping, number, sequence, text
from experiments.report.summary import error_of, summarize, tokens_of, usage_of
from experiments.report.verdicts import STANDING, VERDICTS, key_of

_STAND_IN = re.compile(r"\b(?:builtin|built-in|scenes)\b", re.IGNORECASE)
_NOT_ASKED = ("session", "mcp")
"""Commands whose runs do not ask the profile's interpreter."""
_FORMAL = re.compile(r"^[ \t>*_#`-]*\[[A-Z][A-Z _]*\d*\]|^[ \t]*(?:```|~~~)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`fate`: "new" in this round, "kept" from the one before, or "dropped" since."""

    words: str
    fate: str


@dataclass(frozen=True, slots=True)
class RoundView:
    """One round as it is shown."""

    number: int
    kind: str
    thoughts: str
    reasoning: str
    """What the model thought before it answered, as its server reports."""
    notes: list[str]
    """What the request had to go without."""
    hypotheses: list[Hypothesis]
    program: Markup | None
    program_lines: int
    status: str
    error: str
    observation: list[Block]
    made: list[Picture]
    edits: list[StimulusEdit]
    interventions: list[StimulusIntervention]
    verdict: str
    objection: str
    evidence: EvidenceSection | None
    model: str
    tokens: float | None
    finish: str
    raw: list[tuple[str, str]] = field(default_factory=list)


def write(run: RunDirectory, slug: str) -> Path:
    """Write the page of a unit and return its path.

    Raises:
        UsageError: If the run has no such unit.
    """
    return write_page(run, run.unit(slug))


def write_page(run: RunDirectory, unit: UnitRecords) -> Path:
    """Write the page of what was read of a unit, and one of each of several studies of it."""
    for study in (*run.repeats(unit.slug), unit):
        key = f"report/units/{study.slug}.html"
        pages.write(run.store, key, _page(run, study))
    return run.root / key


def _page(run: RunDirectory, unit: UnitRecords) -> str:
    done = unit.done or {}

    def locate(image_id: Any) -> list[str]:
        return [f"../../{layer}" for layer in run.image(image_id)]

    gallery = Gallery(unit.rounds, locate)
    summary = summarize(run, unit)
    return pages.render(
        "unit.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="../",
        summary=summary,
        repeat=unit.repeat,
        repeats=list(_repeats(run, unit)),
        pooled="" if unit.repeat else run.pooled(unit.slug),
        signs=[]
        if summary.repeats
        else [journal_scan.SIGNS[sign] for signs in summary.signs for sign, seen in signs.items() if seen],
        layer_href=layer_href(run, unit),
        place=split_place(unit.name.layer)[1].note,
        reserve=_reserve(run),
        verdicts=VERDICTS,
        fields={k: v for k, v in mapping(done.get("fields")).items() if isinstance(v, str)},
        evidence=evidence_of(done.get("evidence"), gallery, "trial")
        if done.get("evidence") is not None
        else None,
        exemplars=_exemplars(done, gallery),
        background={k: number(v) for k, v in mapping(done.get("background")).items()},
        background_plot=background_plot(done.get("background")),
        rounds=list(_rounds(unit, gallery)),
        card=card_of(done.get("card"), holds=summary.verdict in STANDING),
        role=RecordedRole.of(done),
        figures=figures_of(done.get("evidence")),
        figure_meanings=MEANINGS,
        reason=reason(done.get("evidence")),
        covered=bool(mapping(done.get("evidence")).get("coverage")),
        uncovered=uncovered(done.get("evidence"), gallery),
        crosswise=_crosswise(run, unit),
        sight=_sight(mapping(done.get("facts"))),
        notice=text(mapping(done.get("facts")).get("notice")),
        usage=usage_of(unit),
        facts=list(_flat(mapping(done.get("facts")))),
        seed=shown(done.get("seed", run.manifest.get("seed"))),
        tiers=_tiers(unit),
        in_doubt=len(sequence(done.get("in_doubt"))),
        stand_ins=stand_ins(run, unit),
        problems=unit.problems,
        failures=[error_of(failure) for failure in unit.failures],
        command="" if unit.repeat else reproduce.command(run, unit),
        task=text(done.get("task")) or text(run.manifest.get("task")),
    )


def _exemplars(done: dict[str, Any], gallery: Gallery) -> list[Picture]:
    return [
        gallery.picture(
            exemplar.get("image"),
            caption=f"exemplar {rank}",
            activation=number(exemplar.get("activation")),
            under=exemplar.get("source"),
        )
        for rank, exemplar in enumerate(map(mapping, sequence(done.get("exemplars"))), 1)
    ]


def _repeats(run: RunDirectory, unit: UnitRecords) -> Iterator[dict[str, Any]]:
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
        yield {
            "number": repeat.repeat,
            "summary": summary,
            "href": f"{quote(repeat.slug, safe='')}.html",
            "predicted": predicted,
        }


def _crosswise(run: RunDirectory, unit: UnitRecords) -> dict[str, Any] | None:
    """Return how the unit's label compares with those of the layer's other units; None if it was not
    compared.
    """
    comparison = mapping(None if unit.repeat else run.crosswise.get(unit.name.id))
    percentile, n = number(comparison.get("percentile")), number(comparison.get("n"))
    if percentile is None or n is None:
        return None
    nearest = [
        {
            "label": text(label.get("label")),
            "short": UnitName.parse(text(label.get("unit"))).short,
            "href": f"{quote(slug(text(label.get('unit'))), safe='')}.html",
            "mean": number(label.get("mean")),
            "share": number(label.get("share")),
        }
        for label in map(mapping, sequence(comparison.get("nearest")))
    ]
    return {"percentile": percentile, "n": n, "nearest": nearest}


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


def _rounds(unit: UnitRecords, gallery: Gallery) -> Iterator[RoundView]:
    known: set[str] = set()
    before: list[str] = []
    for position, record in enumerate(unit.rounds, 1):
        reply, outcome = mapping(record.get("reply")), mapping(record.get("outcome"))
        verdict = mapping(record.get("verdict"))
        program = text(record.get("program"))
        hypotheses = [
            hypothesis for hypothesis in sequence(record.get("hypotheses")) if isinstance(hypothesis, str)
        ]
        snapshot = mapping(record.get("toolbox"))
        shown = sequence(record.get("observation"))
        usage = mapping(reply.get("usage"))
        where = number(record.get("round"))
        yield RoundView(
            number=int(where) if where is not None else position,
            kind="experiment"
            if program
            else "answer"
            if verdict or record.get("answered") is True
            else "no program",
            thoughts=_thoughts(text(reply.get("text"))),
            reasoning=text(reply.get("thoughts")),
            notes=[note for note in sequence(reply.get("notes")) if isinstance(note, str)],
            hypotheses=_fates(hypotheses, before),
            program=pages.highlight(program) if program else None,
            program_lines=program.count("\n") + 1,
            status=text(outcome.get("status")),
            error=text(outcome.get("error")),
            observation=gallery.observation(shown),
            made=gallery.made(known, snapshot),
            edits=gallery.edits(known, snapshot),
            interventions=gallery.interventions(record.get("sandbox")),
            verdict=_of_round(verdict),
            objection=text(verdict.get("objection")),
            evidence=evidence_of(verdict.get("evidence"), gallery, f"round-{position}-trial")
            if verdict
            else None,
            model=text(reply.get("model")),
            tokens=tokens_of(usage),
            finish=text(reply.get("finish")),
            raw=[("model", text(reply.get("text"))), *_raw(shown)],
        )
        known |= set(mapping(snapshot.get("provenance")))
        before = hypotheses or before


def _of_round(verdict: dict[str, Any]) -> str:
    """Return the key in `VERDICTS` of what the examiner said, "" if nothing was examined."""
    if not verdict:
        return ""
    return key_of(verdict_of({"status": "answered", "confirmed": verdict.get("accepted"), **verdict}))


def _thoughts(reply: str) -> str:
    """Return what a reply says before its first marker or fence: the rest is shown in its own place."""
    match = _FORMAL.search(reply)
    return (reply[: match.start()] if match else reply).strip()


def _fates(hypotheses: list[str], before: list[str]) -> list[Hypothesis]:
    listed = [Hypothesis(hypothesis, "kept" if hypothesis in before else "new") for hypothesis in hypotheses]
    dropped = [Hypothesis(hypothesis, "dropped") for hypothesis in before if hypothesis not in hypotheses]
    return listed + dropped if hypotheses else []


def _raw(parts: list[Any]) -> Iterator[tuple[str, str]]:
    for part in parts:
        if isinstance(part, str):
            yield "observation", part
        else:
            yield "observation", f"(image {text(mapping(part).get('image'), 'unknown')})"


def layer_href(run: RunDirectory, unit: UnitRecords) -> str:
    """Return the address of the layer's page below the report, "" where the run has no other unit of the
    layer.
    """
    return f"layers/{slug(unit.name.layer)}.html" if run.planned(unit.name.layer) > 1 else ""


def _reserve(run: RunDirectory) -> bool:
    """Return whether a part of the data set was held back."""
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
        "interpreter": {} if run.manifest.get("command") in _NOT_ASKED else chat.get("interpreter"),
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
        if _STAND_IN.search(name):
            stand_ins_by_role.setdefault(role, name)
    return list(stand_ins_by_role.items())
