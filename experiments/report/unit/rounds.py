"""The rounds of a study as its page shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from markupsafe import Markup

from agents.evidence.verdict import verdict_of
from experiments.report import pages, plots
from experiments.report.evidence import EvidenceSection, evidence_of
from experiments.report.gallery import Gallery, Picture, StimulusEdit, StimulusIntervention
from experiments.report.records import UnitRecords, mapping, number, sequence, text
from experiments.report.summary import tokens_of
from experiments.report.verdicts import key_of

_FORMAL = re.compile(r"^[ \t>*_#`-]*\[[A-Z][A-Z _]*\d*\]|^[ \t]*(?:```|~~~)", re.MULTILINE)
_BEST = 4
"""Images that stand for a round while it is folded."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`fate`: "new" in this round, "kept" from the one before, or "dropped" since."""

    words: str
    fate: str


@dataclass(frozen=True, slots=True)
class NoteView:
    """What a person wrote to the study."""

    person: str
    words: str


@dataclass(frozen=True, slots=True)
class RawPart:
    """A stretch of a transcript: words, or a picture."""

    speaker: str
    words: str = ""
    picture: Picture | None = None


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
    shown: list[Picture]
    """What the agent was shown, in order."""
    words: list[str]
    """What it was told beside the pictures."""
    made: list[Picture]
    edits: list[StimulusEdit]
    interventions: list[StimulusIntervention]
    verdict: str
    objection: str
    evidence: EvidenceSection | None
    model: str
    tokens: float | None
    finish: str
    persons_notes: list[NoteView]
    """What people wrote, and the model read before this round."""
    raw: list[RawPart] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """What the round was about, in a line: the hypothesis that the agent put first."""
        kept = [hypothesis.words for hypothesis in self.hypotheses if hypothesis.fate != "dropped"]
        return shorten(kept[0] if kept else self.thoughts, 160, placeholder=" ...")

    @property
    def best(self) -> list[Picture]:
        """Those of its images that drove the unit most."""
        kept = [p for p in (*self.made, *(edit.after for edit in self.edits)) if p.href]
        return strongest(kept)[:_BEST]

    @property
    def activations(self) -> list[float]:
        """The activations of the images that it made or edited, as far as they were measured."""
        pictures = (*self.made, *(edit.after for edit in self.edits))
        return [picture.activation for picture in pictures if picture.activation is not None]


def rounds_of(unit: UnitRecords, gallery: Gallery) -> Iterator[RoundView]:
    """Return the rounds of a study in order."""
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
        observation = gallery.observation(shown)
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
            shown=[picture for block in observation for picture in block.pictures],
            words=[block.words for block in observation if block.words],
            made=strongest(gallery.made(known, snapshot)),
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
            persons_notes=(heard := notes_of(record.get("notes"))),
            raw=[
                *(RawPart(f"note by {note.person}", note.words) for note in heard),
                RawPart("model", text(reply.get("text"))),
                *_raw(shown, gallery),
            ],
        )
        known |= set(mapping(snapshot.get("provenance")))
        before = hypotheses or before


def notes_of(records: Any) -> list[NoteView]:
    """Return notes as they are shown."""
    notes = map(mapping, sequence(records))
    return [NoteView(text(note.get("person"), "a person"), text(note.get("text"))) for note in notes]


def unread_notes(unit: UnitRecords) -> list[NoteView]:
    """Return the notes that no round on record has read, of a unit without a result."""
    read = {number(mapping(n).get("number")) for record in unit.rounds for n in sequence(record.get("notes"))}
    unread = [note for note in unit.notes if number(note.get("number")) not in read]
    return notes_of(unread) if unit.done is None else []


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


def _raw(parts: list[Any], gallery: Gallery) -> Iterator[RawPart]:
    for part in parts:
        if isinstance(part, str):
            yield RawPart("observation", words=part)
        else:
            yield RawPart("observation", picture=gallery.picture(mapping(part).get("image")))


def strongest(pictures: list[Picture]) -> list[Picture]:
    """Return pictures in falling order of activation, those that were not measured last."""
    return sorted(pictures, key=lambda p: -(p.activation if p.activation is not None else float("-inf")))


def strongest_edits(rounds: list[RoundView], most: int) -> list[StimulusEdit]:
    """Return the edits of all rounds that changed the activation most."""
    known = [(abs(edit.change), edit) for each in rounds for edit in each.edits if edit.change is not None]
    return [edit for _, edit in sorted(known, key=lambda pair: -pair[0])[:most]]


def rounds_plot(rounds: list[RoundView], threshold: float | None) -> Markup:
    """Return the activations of each round's images, and the largest so far, by round."""
    found = [(each.number, each.activations) for each in rounds]
    if sum(map(len, (values for _, values in found))) < 2 or len(found) < 2:
        return Markup("")
    groups = [
        plots.PlotColumn(str(number), values, f"round-{index}")
        for index, (number, values) in enumerate(found, 1)
    ]
    return plots.columns(groups, threshold, "round", "Activations of the images that each round made")
