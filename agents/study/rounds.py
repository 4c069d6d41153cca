"""One round of a study, and how it is written down and read again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.chat.base import Part
from actors.chat.reply import ChatReply
from actors.images import Image
from agents.critic.review import Review
from agents.records.journal import Journal
from agents.records.record_types import (
    NoteRecord,
    OutcomeRecord,
    ProgramRecord,
    ReplyRecord,
    RoundRecord,
    ShownImage,
    ToolboxRecord,
)
from tools.sandbox import ExecutedProgram, ProgramOutcome
from tools.screen import ShownItem
from tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Round:
    """One finished round: what the model said, what ran, and what it was shown of it."""

    number: int
    reply: ChatReply
    hypotheses: tuple[str, ...]
    program: str | None
    outcome: ProgramOutcome | None
    observation: tuple[Part, ...]
    review: Review | None = None
    answered: bool = False
    last: bool = False
    """No further round may follow."""
    demanded: bool = False
    """The observation ends with the demand for a final answer."""
    notes: tuple[NoteRecord, ...] = ()
    """What people wrote, and the model read before it replied."""


def outcome_record(outcome: ProgramOutcome) -> OutcomeRecord:
    """Return how a program ended as it is written down: without its value and its duration."""
    lost = {"output_lost": True} if outcome.output_lost else {}
    return OutcomeRecord(
        status=outcome.status,
        error=outcome.error,
        output=outcome.output,
        output_truncated=outcome.output_truncated,
        calls=outcome.calls,
        notes=list(outcome.notes),
        tier=outcome.tier,
        **lost,
    )


def round_record(
    finished: Round, toolbox: dict[str, Any], programs: Sequence[ExecutedProgram]
) -> RoundRecord:
    """Return a round as it is written down; `programs` are those that it added to the sandbox's record."""
    notes: dict[str, Any] = {"notes": list(finished.notes)} if finished.notes else {}
    return RoundRecord(
        round=finished.number,
        reply=ReplyRecord.of(finished.reply),
        hypotheses=list(finished.hypotheses),
        program=finished.program,
        outcome=None if finished.outcome is None else outcome_record(finished.outcome),
        observation=[
            part if isinstance(part, str) else ShownImage(image=part.id) for part in finished.observation
        ],
        review=finished.review,
        answered=finished.answered,
        last=finished.last,
        demanded=finished.demanded,
        toolbox=ToolboxRecord.model_validate(toolbox),
        sandbox=[ProgramRecord.model_validate(program) for program in programs],
        **notes,
    )


async def commit_round(
    journal: Journal,
    toolbox: Toolbox,
    finished: Round,
    programs: Sequence[ExecutedProgram],
    tested: Mapping[str, Image],
) -> RoundRecord:
    """Write a round down and return its record.

    `tested` are the examiner's images: a resumed study has its review, but would not make its images again.
    """
    record = round_record(finished, toolbox.snapshot(), programs)
    shown = {part.id: part for part in finished.observation if isinstance(part, Image)}
    # The album's last: it knows what a masked image was painted on.
    images = shown | dict(tested) | toolbox.album.held
    await asyncio.to_thread(journal.commit_round, record, images.values())
    toolbox.album.release()
    return record


def objection(review: Review, images: Mapping[str, Image]) -> tuple[Part, ...]:
    """Return what an agent is sent when a review sends its answer back: the objection and its images."""
    return (review.objection, *(images[name] for name in review.shown if name in images))


def merge_text(parts: Sequence[ShownItem]) -> list[Part]:
    """Join neighboring texts: fewer parts, the same reading."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] = f"{merged[-1]}\n{part}"
        else:
            merged.append(part)
    return merged
