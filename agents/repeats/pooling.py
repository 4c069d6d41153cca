"""One answer from several studies of a unit, written by an aggregator that sees what was measured and
no verdict.

It runs no experiment. Its answer is tested like any other, once, on images that none of the studies saw.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.chat.tasks import ConceptOverlap, MeasuredConcept, PoolStudiesTask
from actors.images import Provenance
from agents.evidence.evidence_record import EvidenceRecord
from agents.records.record_types import StudyResult, ToolboxRecord
from agents.repeats.agreement import Agreement
from agents.study.settings import InterpreterSettings
from agents.tasks.base import FinalAnswer, Task
from tools.sandbox import ExecutedProgram, ProgramOutcome
from tools.sandbox.base import ImageSource, ToolHost

ROLE = """\
You write down what experiments on one unit of a computer-vision network have shown. Several scientists \
studied the unit, each \
without knowing of the others. You see what was measured, and not what they concluded. Nothing more is \
measured, and no \
program is run."""

STRONGEST, OTHERS = 30, 30
"""Rows of images that the aggregator sees: the strongest, and others drawn by a seed."""

_NO_PROGRAM = "No program is run here. Give your final answer now, from what was measured, and without code."
_TASK = """\
Find the concepts that explain all of these measurements, and no more than that. A concept that was proposed \
may be too wide, \
too narrow, or wrong: go by the numbers. Two concepts are one if the images of the one show the other.

Answer with:
[DESCRIPTION]: one or more sentences: specific about what drives the unit and complete about everything that \
does.
[LABEL]: a short phrase for the same. For unrelated concepts give one label each:
[LABEL 1]: ...
[LABEL 2]: ...
If nothing explains the measurements, the label is "not interpretable"."""


@dataclass(slots=True)
class TestedConcept:
    """A label that was proposed, with the activations of fresh images of it and of other things in the same
    tests.
    """

    label: str
    images: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


def concepts_of(results: Sequence[StudyResult]) -> list[TestedConcept]:
    """Return what studies proposed and tested, by label in alphabetical order: who proposed it, and how many,
    is left out.
    """
    concepts: dict[str, TestedConcept] = {}
    for result in results:
        evidence = result.evidence or EvidenceRecord()
        tested = set()
        for trial in evidence.positives:
            label = trial.label or (result.labels[0] if result.labels else "")
            if label in result.labels:
                concepts.setdefault(label, TestedConcept(label)).images.append(trial.activation)
                tested.add(label)
        for label in tested:
            concepts[label].others += [trial.activation for trial in evidence.controls]
    return [concepts[label] for label in sorted(concepts, key=str.lower)]


def merge_toolboxes(toolboxes: Sequence[ToolboxRecord]) -> ToolboxRecord:
    """Return a toolbox that knows every image of several studies and what it measured, and has made none."""
    measured: dict[str, float] = {}
    provenance: dict[str, str] = {}
    for toolbox in toolboxes:
        measured |= toolbox.measured
        provenance |= toolbox.provenance
    return ToolboxRecord(measured=measured, provenance=provenance)


def tried_of(toolboxes: Sequence[ToolboxRecord]) -> dict[str, tuple[float, str]]:
    """Return what the studies' own images were made of and did, by image id; images of the data set are left
    out.
    """
    tried: dict[str, tuple[float, str]] = {}
    for toolbox in toolboxes:
        for image, activation in toolbox.measured.items():
            origin = toolbox.provenance.get(image)
            made = Provenance("unknown") if origin is None else Provenance.from_json(origin)
            if made.source in ("generated", "edited"):
                parts = [made.prompt, *(f"edited: {edit}" for edit in made.edits)]
                tried[image] = activation, "; ".join(part for part in parts if part)
    return tried


def evidence_text(
    background: Mapping[str, Any],
    exemplars: str,
    tried: Mapping[str, tuple[float, str]],
    concepts: Sequence[TestedConcept],
    agreement: Agreement,
    seed: int,
) -> str:
    """Return what was measured as the aggregator reads it. `exemplars` are blind descriptions, one a line."""
    rows = sorted(tried.values(), key=lambda row: (-row[0], row[1]))
    rest = rows[STRONGEST:]
    drawn = random.Random(seed).sample(rest, min(OTHERS, len(rest)))
    drawn.sort(key=lambda row: (-row[0], row[1]))
    lines = [
        f"Over {background['n_images']} images of the data set the activation is {background['mean']:.2f} "
        f"in the mean (standard deviation {background['std']:.2f}) and at most {background['maximum']:.2f}.",
        "The images of the data set that drive it most, their activation first, as somebody saw them who "
        "knows nothing else:",
        exemplars,
        f"Images that were made: the strongest {min(STRONGEST, len(rows))} of {len(rows)}, then "
        f"{len(drawn)} others drawn at random:",
        *(f"{activation:.2f} | {_plain(words)}" for activation, words in rows[:STRONGEST] + drawn),
        f"CONCEPTS PROPOSED: {len(concepts)}",
        *(_concept_line(number, concept) for number, concept in enumerate(concepts, 1)),
        *_seen_lines(concepts, agreement),
    ]
    return "\n".join(lines)


def _concept_line(number: int, concept: TestedConcept) -> str:
    return (
        f"CONCEPT {number} | {_plain(concept.label)} | mean {np.mean(concept.images):.2f} on "
        f"{len(concept.images)} fresh images "
        f"of it | mean {np.mean(concept.others):.2f} on {len(concept.others)} of other things"
    )


def _plain(text: str) -> str:
    """Return what a model wrote as one field of one line: it cannot pass for a line of figures."""
    return " ".join(text.replace("|", "/").split())


def _seen_lines(concepts: Sequence[TestedConcept], agreement: Agreement) -> list[str]:
    number = {concept.label: i for i, concept in enumerate(concepts, 1)}
    return [
        f"SEEN | concept {number[label]} in {hits} of {total} images of concept {number[made_of]}"
        for (label, made_of), (hits, total) in sorted(agreement.seen.items())
        if label != made_of and label in number and made_of in number
    ]


_CONCEPT_LINE = re.compile(
    r"^CONCEPT (\d+) \| (.+?) \| mean (-?[\d.]+) on (\d+) fresh images of it "
    r"\| mean (-?[\d.]+) on \d+ of other things$",
    re.M,
)
_SEEN_LINE = re.compile(r"^SEEN \| concept (\d+) in (\d+) of (\d+) images of concept (\d+)$", re.M)


def read_evidence(text: str) -> PoolStudiesTask:
    """Return the figures that `evidence_text` wrote, to the two decimals that the aggregator sees."""
    concepts = tuple(
        MeasuredConcept(int(number), label, float(mean), int(n_images), float(others))
        for number, label, mean, n_images, others in _CONCEPT_LINE.findall(text)
    )
    overlaps = tuple(
        ConceptOverlap(int(shown), int(images_of), int(hits) / int(total))
        for shown, hits, total, images_of in _SEEN_LINE.findall(text)
        if int(total)
    )
    return PoolStudiesTask(concepts, overlaps)


def limits(settings: InterpreterSettings) -> InterpreterSettings:
    """Return the limits of a study for an aggregator: one examination, since several would be several chances
    to pass.
    """
    return settings.model_copy(update={"max_rounds": 2, "max_examinations": 1})


class PooledTask:
    """Asks for the answer to a task from evidence alone."""

    def __init__(self, task: Task, evidence: str) -> None:
        self.name, self.names_concept = task.name, task.names_concept
        self._task, self._evidence = task, evidence

    def opening(self) -> str:
        return f"{self._evidence}\n\n{_TASK}"

    def chat_task(self, final: bool) -> PoolStudiesTask:
        return read_evidence(self._evidence)

    def read_answer(self, reply: str) -> FinalAnswer | None:
        return self._task.read_answer(reply)

    def last_word(self) -> str:
        return self._task.last_word()


class NoPrograms:
    """Takes the place of a sandbox, and reports that nothing is run."""

    @property
    def record(self) -> list[ExecutedProgram]:
        return []

    async def run(self, program: str, host: ToolHost) -> ProgramOutcome:
        return ProgramOutcome("error", "", False, None, _NO_PROGRAM, 0.0, 0, "none")

    def restore(self, records: Sequence[ExecutedProgram], images: ImageSource) -> None: ...

    async def close(self) -> None: ...


class NoSandboxes:
    """Opens `NoPrograms` in place of sandboxes."""

    async def open(self, *, seed: int) -> NoPrograms:
        return NoPrograms()
