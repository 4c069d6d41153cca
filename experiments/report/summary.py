"""A unit in one line of numbers and words: what the index shows of it, and the head of its page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from agents.evidence.verdict import verdict_of as word_of
from experiments.records import journal_scan
from experiments.records.headline import headline
from experiments.records.roles import RecordedRole
from experiments.report.evidence import numbers
from experiments.report.records import RunDirectory, UnitRecords, mapping, number, sequence, text
from experiments.report.unit.at_work import progress_of
from experiments.report.verdicts import key_of

THUMBS = 3
"""Exemplars that a table shows of each unit."""


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
    unpriced: bool
    """Whether something charged whose price is unknown."""
    seconds: float | None
    error: str
    damaged: bool
    thumbs: list[list[str]]
    """Its strongest images, masked: of each the paths of its layers below the run directory."""
    role: str
    """What it does to the network, in a few words; "" where that is not known."""
    agreement: float | None
    """How far the labels of several studies of it agree; None of a unit that was studied once."""
    repeats: list[str]
    """Names of the pages of these studies."""
    signs: list[dict[str, bool | None]]
    """Which signs of careless reasoning the journal of each study of it shows (`journal_scan.SIGNS`); None
    where that cannot be decided.
    """
    hypothesis: str = ""
    """Of a study without a result, what it puts first; with `newest` and `strongest` as `StudyProgress` has
    them.
    """
    newest: list[list[str]] = field(default_factory=list)
    strongest: list[float] = field(default_factory=list)

    @property
    def href(self) -> str:
        return f"units/{quote(self.slug, safe='')}.html"


def verdict_of(unit: UnitRecords) -> str:
    """Return the unit's key in `VERDICTS`; without a result it is a failure's, or in progress."""
    if unit.done is None and (unit.failures or unit.problems):
        return "failed"
    return key_of(word_of(unit.done))


def _tested(record: dict[str, Any]) -> bool:
    return mapping(record.get("evidence")).get("kind") == "confirmation"


def _labels(done: dict[str, Any]) -> list[str]:
    """Return the labels one by one, none where the headline says something else."""
    if headline(done) != done.get("label"):
        return []
    return [label for label in sequence(done.get("labels")) if isinstance(label, str)]


def summarize(run: RunDirectory, unit: UnitRecords) -> Summary:
    """Return the unit in one line of numbers and words."""
    done = unit.done or {}
    repeats = [] if unit.repeat else run.repeats(unit.slug)
    evidence = numbers(done.get("evidence"))
    usage = usage_of(unit)
    rounds = [record for study in (unit, *repeats) for record in study.rounds]
    verdict = verdict_of(unit)
    latest = max((unit, *repeats), key=lambda study: len(study.rounds)).rounds
    going = progress_of(latest if verdict == "running" else [], run.image)
    return Summary(
        slug=unit.slug,
        unit=unit.name.id,
        model=unit.name.model,
        layer=unit.name.layer,
        short=_short(run, unit),
        index=unit.name.index,
        verdict=verdict,
        label=headline(done),
        labels=_labels(done),
        description=text(done.get("description")),
        auroc=evidence.auroc,
        low=evidence.low,
        high=evidence.high,
        e_value=evidence.corrected,
        tested=any(_tested(record) for record in (done, *(mapping(r.get("verdict")) for r in unit.rounds))),
        rounds=len(rounds) or int(number(done.get("rounds")) or 0),
        images=_images(done, rounds, [study.rounds[-1] for study in (unit, *repeats) if study.rounds]),
        tokens=usage.tokens,
        dollars=usage.dollars,
        unpriced=usage.unpriced,
        seconds=unit.seconds,
        error=error_of(unit.done or (unit.failures[-1] if unit.failures else {})) or "; ".join(unit.problems),
        damaged=bool(unit.problems),
        thumbs=list(itertools.islice(_thumbs(run, done), THUMBS)),
        role=RecordedRole.of(done).brief(),
        agreement=number(mapping(done.get("agreement")).get("value")),
        repeats=[repeat.slug for repeat in repeats],
        # Whoever pools what several studies measured tries nothing itself.
        signs=[journal_scan.scan(journal_scan.read_rounds(repeat.rounds)) for repeat in repeats or [unit]],
        hypothesis=going.hypothesis,
        newest=going.newest,
        strongest=going.strongest,
    )


def _short(run: RunDirectory, unit: UnitRecords) -> str:
    """Return the unit's name in its run; of a class that of the class."""
    named = run.class_name(unit)
    return f"{named} ({unit.name.short})" if named else unit.name.short


def _images(done: dict[str, Any], rounds: list[dict[str, Any]], last: list[dict[str, Any]]) -> float | None:
    """Return how many images were made, the critic's too; None where it is unknown. `last`: each study's
    latest round.
    """
    so_far = [number(mapping(record.get("toolbox")).get("images_made")) for record in last]
    made = [number(done.get("images_made"))] if "images_made" in done else so_far
    verdicts = [mapping(mapping(record.get("verdict")).get("evidence")) for record in rounds]
    tested = sum(number(evidence.get("images_made")) or 0 for evidence in verdicts)
    known = [count for count in made if count is not None]
    return tested + sum(known) if tested or known else None


def _thumbs(run: RunDirectory, done: dict[str, Any]) -> Iterator[list[str]]:
    for exemplar in map(mapping, sequence(done.get("exemplars"))):
        if layers := run.image(exemplar.get("image")):
            yield list(layers)


def error_of(record: dict[str, Any]) -> str:
    """Return what a record says went wrong, and what to do about it."""
    error = mapping(record.get("error"))
    return " ".join(filter(None, (text(error.get("message")), text(error.get("fix")))))


@dataclass(frozen=True, slots=True)
class RecordedUsage:
    """What a study has used, None where it is not on record."""

    tokens: float | None
    cached: float | None
    """Tokens of prompts that a cache held."""
    dollars: float | None
    unpriced: bool
    """Whether a part has no known price."""
    requests: float | None
    estimated: bool
    """Whether tokens were estimated."""


def usage_of(unit: UnitRecords) -> RecordedUsage:
    """Return tokens, dollars and requests: of the result, or so far of the rounds that are there."""
    recorded = list(map(mapping, mapping(mapping(unit.done).get("usage")).values()))
    parts = recorded or [mapping(mapping(r.get("reply")).get("usage")) for r in unit.rounds]
    tokens = [count for count in map(tokens_of, parts) if count is not None]
    dollars = [amount for part in parts if (amount := number(part.get("dollars"))) is not None]
    requests = [amount for part in parts if (amount := number(part.get("requests"))) is not None]
    return RecordedUsage(
        tokens=sum(tokens) if tokens else None,
        cached=sum(number(part.get("cached_tokens")) or 0 for part in parts) if parts else None,
        dollars=sum(dollars) if dollars else None,
        unpriced=any(number(part.get("unpriced")) for part in parts),
        requests=sum(requests) if requests else None,
        estimated=any(part.get("estimated") is True for part in parts),
    )


def tokens_of(usage: dict[str, Any]) -> float | None:
    """Return tokens in and out, None where neither is on record."""
    counts = [number(usage.get(key)) for key in ("prompt_tokens", "completion_tokens")]
    return sum(count or 0 for count in counts) if any(count is not None for count in counts) else None
