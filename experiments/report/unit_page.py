"""The page of one unit: what it is, the evidence, and every round as it happened."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from agents.journal import slug
from agents.verdict import VERDICTS as WORDS
from agents.verdict import abstained
from agents.verdict import verdict_of as word_of
from experiments.report import pages, plots, reproduce
from experiments.report.gallery import Block, Edit, Gallery, Picture
from experiments.report.records import RunDirectory, UnitName, UnitRecords, mapping, number, sequence, text

_STAND_IN = re.compile(r"\b(?:builtin|built-in|scenes)\b", re.IGNORECASE)
_FORMAL = re.compile(r"^[ \t>*_#`-]*\[[A-Z][A-Z _]*\d*\]|^[ \t]*(?:```|~~~)", re.MULTILINE)

_KEYS = {"not confirmed": "unconfirmed", "no answer": "silent", "in progress": "running"}
THUMBS = 3
"""Exemplars that a table shows of each unit."""
VERDICTS = {_KEYS.get(word, word): word for word in WORDS}
"""Verdicts by key (a style class, too) and how they are written."""


@dataclass(frozen=True, slots=True)
class Evidence:
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
    hypotheses: list[Hypothesis]
    program: Markup | None
    program_lines: int
    status: str
    error: str
    observation: list[Block]
    made: list[Picture]
    edits: list[Edit]
    verdict: str
    objection: str
    evidence: Evidence | None
    model: str
    tokens: float | None
    finish: str
    raw: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the index shows of a unit; also the head of its page."""

    slug: str
    unit: str
    model: str
    layer: str
    short: str
    index: int | None
    verdict: str
    label: str
    labels: list[str]
    description: str
    auroc: float | None
    low: float | None
    high: float | None
    e_value: float | None
    """For what the study says, however many tests it took."""
    tested: bool
    """Whether any of its labels was tested, the last one or one that was given up."""
    rounds: int
    images: float | None
    tokens: float | None
    dollars: float | None
    seconds: float | None
    error: str
    damaged: bool
    thumbs: list[list[str]]
    """Its strongest images, masked: of each the paths of its layers below the run directory."""

    @property
    def href(self) -> str:
        return f"units/{quote(self.slug, safe='')}.html"


def verdict_of(unit: UnitRecords) -> str:
    """Return the unit's key in `VERDICTS`; without a result it is a failure's, or in progress."""
    if unit.done is None and (unit.failures or unit.problems):
        return "failed"
    word = word_of(unit.done)
    return _KEYS.get(word, word)


def _tested(record: dict[str, Any]) -> bool:
    return mapping(record.get("evidence")).get("kind") == "confirmation"


def summarise(run: RunDirectory, unit: UnitRecords) -> Summary:
    """Return the unit in one line of numbers and words."""
    done = unit.done or {}
    evidence = _numbers(done.get("evidence"))
    usage = _usage(unit)
    made = number(done.get("images_made"))
    if made is None and unit.rounds:
        made = number(mapping(unit.rounds[-1].get("toolbox")).get("images_made"))
    # The critic's too, as everywhere else where images are counted.
    verdicts = [mapping(mapping(record.get("verdict")).get("evidence")) for record in unit.rounds]
    tested = sum(number(evidence.get("images_made")) or 0 for evidence in verdicts)
    made = tested + (made or 0) if tested or made is not None else None
    return Summary(
        slug=unit.slug,
        unit=unit.name.id,
        model=unit.name.model,
        layer=unit.name.layer,
        short=unit.name.short,
        index=unit.name.index,
        verdict=verdict_of(unit),
        label=text(done.get("label")),
        labels=[each for each in sequence(done.get("labels")) if isinstance(each, str)],
        description=text(done.get("description")),
        auroc=evidence.auroc,
        low=evidence.low,
        high=evidence.high,
        e_value=evidence.corrected,
        tested=any(_tested(each) for each in (done, *(mapping(r.get("verdict")) for r in unit.rounds))),
        rounds=len(unit.rounds) or int(number(done.get("rounds")) or 0),
        images=made,
        tokens=usage["tokens"],
        dollars=usage["dollars"],
        seconds=unit.seconds,
        error=_error(unit.done or (unit.failures[-1] if unit.failures else {})) or "; ".join(unit.problems),
        damaged=bool(unit.problems),
        thumbs=list(itertools.islice(_thumbs(run, done), THUMBS)),
    )


def _thumbs(run: RunDirectory, done: dict[str, Any]) -> Iterator[list[str]]:
    for each in map(mapping, sequence(done.get("exemplars"))):
        if layers := run.image(each.get("image")):
            yield list(layers)


def _error(record: dict[str, Any]) -> str:
    error = mapping(record.get("error"))
    return " ".join(filter(None, (text(error.get("message")), text(error.get("fix")))))


def write(run: RunDirectory, slug: str) -> Path:
    """Write the page of a unit and return its path.

    Raises:
        UsageError: If the run has no such unit.
    """
    return write_page(run, run.unit(slug))


def write_page(run: RunDirectory, unit: UnitRecords) -> Path:
    """Write the page of what was read of a unit."""
    path = run.root / "report" / "units" / f"{unit.slug}.html"
    pages.write(path, _page(run, unit))
    return path


def _page(run: RunDirectory, unit: UnitRecords) -> str:
    done = unit.done or {}

    def locate(image_id: Any) -> list[str]:
        return [f"../../{layer}" for layer in run.image(image_id)]

    gallery = Gallery(unit.rounds, locate)
    exemplars = [
        gallery.picture(
            each.get("image"),
            caption=f"exemplar {rank}",
            activation=number(each.get("activation")),
            under=each.get("source"),
        )
        for rank, each in enumerate(map(mapping, sequence(done.get("exemplars"))), 1)
    ]
    return pages.render(
        "unit.html",
        run_name=text(run.manifest.get("name")) or run.root.resolve().name,
        root="../",
        summary=summarise(run, unit),
        layer_href=layer_href(run, unit),
        reserve=_reserve(run),
        verdicts=VERDICTS,
        fields={k: v for k, v in mapping(done.get("fields")).items() if isinstance(v, str)},
        evidence=_evidence(done.get("evidence"), gallery, "trial")
        if done.get("evidence") is not None
        else None,
        exemplars=exemplars,
        background={k: number(v) for k, v in mapping(done.get("background")).items()},
        background_plot=_background_plot(done.get("background")),
        rounds=list(_rounds(unit, gallery)),
        card=_card(done.get("card")),
        crosswise=_crosswise(run, unit),
        sight=_sight(mapping(done.get("facts")).get("sight")),
        usage=_usage(unit),
        facts=list(_flat(mapping(done.get("facts")))),
        seed=shown(done.get("seed", run.manifest.get("seed"))),
        tiers=_tiers(unit),
        in_doubt=len(sequence(done.get("in_doubt"))),
        stand_ins=stand_ins(run, unit),
        problems=unit.problems,
        failures=[_error(each) for each in unit.failures],
        command=reproduce.command(run, unit),
        task=text(done.get("task")) or text(run.manifest.get("task")),
    )


def _card(value: Any) -> dict[str, Any]:
    """Return the label card's kind, warnings and figures; what is not recorded is empty or None."""
    card = mapping(value)
    labels = [
        {
            "label": text(each.get("label")),
            "auroc": number(each.get("auroc")),
            "margin": number(each.get("margin")),
            "explains": number(each.get("explains")),
        }
        for each in map(mapping, sequence(card.get("labels")))
    ]
    answered = [each for each in sequence(card.get("answered")) if isinstance(each, str)]
    kept = {each["label"] for each in labels}
    return {
        "answered": " OR ".join(answered) if kept and set(answered) - kept else "",
        "kind": text(card.get("kind")),
        "reason": text(card.get("reason")),
        "warnings": [each for each in sequence(card.get("warnings")) if isinstance(each, str)],
        "labels": labels if len(labels) > 1 else [],
        **{
            name: number(card.get(name))
            for name in ("auprc", "pearson", "null_percentile", "ceiling", "explained")
        },
    }


def _crosswise(run: RunDirectory, unit: UnitRecords) -> dict[str, Any] | None:
    """Return how the unit's label compares with those of the layer's other units; None if it was not compared."""
    found = mapping(run.crosswise.get(unit.name.id))
    percentile, n = number(found.get("percentile")), number(found.get("n"))
    if percentile is None or n is None:
        return None
    nearest = [
        {
            "label": text(each.get("label")),
            "short": UnitName.parse(text(each.get("unit"))).short,
            "href": f"{quote(slug(text(each.get('unit'))), safe='')}.html",
            "mean": number(each.get("mean")),
            "share": number(each.get("share")),
        }
        for each in map(mapping, sequence(found.get("nearest")))
    ]
    return {"percentile": percentile, "n": n, "nearest": nearest}


def _sight(value: Any) -> str:
    """Return what must be said of an interpreter that did not see for itself, else ""."""
    sight = text(value)
    if sight.startswith("none"):
        return "The interpreter cannot see, and nobody described the images: it was told that they were not shown."
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
        hypotheses = [each for each in sequence(record.get("hypotheses")) if isinstance(each, str)]
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
            hypotheses=_fates(hypotheses, before),
            program=pages.highlight(program) if program else None,
            program_lines=program.count("\n") + 1,
            status=text(outcome.get("status")),
            error=text(outcome.get("error")),
            observation=gallery.observation(shown),
            made=gallery.made(known, snapshot),
            edits=gallery.edits(known, snapshot),
            verdict=_of_round(verdict),
            objection=text(verdict.get("objection")),
            evidence=_evidence(verdict.get("evidence"), gallery, f"round-{position}-trial")
            if verdict
            else None,
            model=text(reply.get("model")),
            tokens=_tokens(usage),
            finish=text(reply.get("finish")),
            raw=[("model", text(reply.get("text"))), *_raw(shown)],
        )
        known |= set(mapping(snapshot.get("provenance")))
        before = hypotheses or before


def _of_round(verdict: dict[str, Any]) -> str:
    """Return the key in `VERDICTS` of what the examiner said, "" if nothing was examined."""
    if not verdict:
        return ""
    if abstained(verdict.get("evidence")):
        return "abstained"
    return "confirmed" if verdict.get("accepted") is True else "unconfirmed"


def _thoughts(reply: str) -> str:
    """Return what a reply says before its first marker or fence: the rest is shown in its own place."""
    found = _FORMAL.search(reply)
    return (reply[: found.start()] if found else reply).strip()


def _fates(hypotheses: list[str], before: list[str]) -> list[Hypothesis]:
    listed = [Hypothesis(each, "kept" if each in before else "new") for each in hypotheses]
    dropped = [Hypothesis(each, "dropped") for each in before if each not in hypotheses]
    return listed + dropped if hypotheses else []


def _raw(parts: list[Any]) -> Iterator[tuple[str, str]]:
    for part in parts:
        if isinstance(part, str):
            yield "observation", part
        else:
            yield "observation", f"(image {text(mapping(part).get('image'), 'unknown')})"


def _numbers(value: Any) -> Evidence:
    """Return the numbers of an evidence record."""
    evidence = mapping(value)
    interval = [number(each) for each in sequence(evidence.get("auroc_interval"))]
    low, high = interval if len(interval) == 2 else (None, None)
    return Evidence(
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
        failures=tuple(each for each in sequence(evidence.get("failures")) if isinstance(each, str)),
    )


def _evidence(value: Any, gallery: Gallery, prefix: str) -> Evidence:
    """Return an evidence record with its images and its strip plot."""
    evidence = _numbers(value)
    groups = {}
    for name in ("positives", "controls"):
        pictures = []
        for position, trial in enumerate(map(mapping, sequence(mapping(value).get(name)))):
            notes = "; ".join(each for each in sequence(trial.get("notes")) if isinstance(each, str))
            picture = gallery.picture(
                trial.get("image"),
                caption=text(trial.get("prompt")),
                activation=number(trial.get("activation")),
                note=notes,
            )
            pictures.append(replace(picture, anchor=f"{prefix}-{name}-{position + 1}"))
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
    told = (
        f"Activations of {len(groups['positives'])} fresh images of the label and {len(groups['controls'])} of other "
        f"things; an image of the label exceeds another with probability {pages.figure(evidence.auroc)}."
    )

    def strongest(pictures: list[Picture]) -> tuple[Picture, ...]:
        return tuple(
            sorted(pictures, key=lambda p: -(p.activation if p.activation is not None else float("-inf")))
        )

    return replace(
        evidence,
        positives=strongest(groups["positives"]),
        controls=strongest(groups["controls"]),
        plot=plots.strips(rows, "activation", told),
    )


def _background_plot(value: Any) -> Markup:
    """Return the histogram of activations over the data set, if the record holds one."""
    found = mapping(mapping(value).get("histogram"))
    counts = [number(each) for each in sequence(found.get("counts"))]
    low, high = number(found.get("low")), number(found.get("high"))
    if not counts or low is None or high is None or not high > low or any(c is None or c < 0 for c in counts):
        return Markup("")
    total = sum(c or 0.0 for c in counts)
    told = f"Activations of {total:.0f} images spread over the data set, from {low:.2f} to {high:.2f}"
    return plots.counted([c or 0.0 for c in counts], low, high, f"activation, {total:.0f} images", told)


def _tokens(usage: dict[str, Any]) -> float | None:
    counts = [number(usage.get(key)) for key in ("prompt_tokens", "completion_tokens")]
    return sum(each or 0 for each in counts) if any(each is not None for each in counts) else None


def layer_href(run: RunDirectory, unit: UnitRecords) -> str:
    """Return the address of the layer's page below the report, "" where the run has no other unit of the layer."""
    return f"layers/{slug(unit.name.layer)}.html" if run.planned(unit.name.layer) > 1 else ""


def _reserve(run: RunDirectory) -> float | None:
    """Return the share of the data set that agents never see, None where none is on record."""
    return number(mapping(mapping(run.manifest.get("settings")).get("vision")).get("reserve")) or None


def _usage(unit: UnitRecords) -> dict[str, Any]:
    """Return tokens, dollars and requests: of the result, or so far of the rounds that are there."""
    recorded = list(map(mapping, mapping(mapping(unit.done).get("usage")).values()))
    parts = recorded or [mapping(mapping(r.get("reply")).get("usage")) for r in unit.rounds]
    tokens = [each for each in map(_tokens, parts) if each is not None]
    dollars = [each for part in parts if (each := number(part.get("dollars"))) is not None]
    requests = [each for part in parts if (each := number(part.get("requests"))) is not None]
    return {
        "tokens": sum(tokens) if tokens else None,
        "cached": sum(number(part.get("cached_tokens")) or 0 for part in parts) if parts else None,
        "dollars": sum(dollars) if dollars else None,
        "requests": sum(requests) if requests else None,
        "estimated": any(part.get("estimated") is True for part in parts),
    }


def _tiers(unit: UnitRecords) -> list[str]:
    found = [text(mapping(record.get("outcome")).get("tier")) for record in unit.rounds]
    return sorted({each for each in found if each})


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, each in value.items():
        if isinstance(each, dict) and prefix.count(".") < 3:
            yield from _flat(each, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", shown(each)


def shown(value: Any) -> str:
    """Return a JSON value in words."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(shown(each) for each in value)
    return str(value)


def stand_ins(run: RunDirectory, unit: UnitRecords | None = None) -> list[tuple[str, str]]:
    """Return what answers in place of a trained model, as (role, name): by recorded names, or the run's settings."""
    facts = mapping(mapping(unit.done).get("facts")) if unit else {}
    settings = mapping(run.manifest.get("settings"))
    chat = mapping(settings.get("chat"))
    configured: dict[str, Any] = {
        "interpreter": {} if run.manifest.get("command") == "session" else chat.get("interpreter"),
        "observers": chat.get("observers"),
        "generator": settings.get("generation"),
        "dataset": settings.get("dataset"),
    }
    rounds = unit.rounds if unit else []
    named = [("interpreter", text(mapping(record.get("reply")).get("model"))) for record in rounds]
    for role, setting in configured.items():
        named.append((role, text(facts.get(role)) or text(mapping(setting).get("backend"))))
    found: dict[str, str] = {}
    for role, name in named:
        if _STAND_IN.search(name):
            found.setdefault(role, name)
    return list(found.items())
