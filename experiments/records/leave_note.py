"""Leaving a note for a unit of a run."""

from __future__ import annotations

from actors.errors import UsageError
from agents.records.journal import Journal
from agents.records.record_types import NoteRecord
from agents.study.notes import leave_note
from experiments.records.lookup import RecordedUnit

WITHOUT_INTERPRETER = ("session", "mcp")
"""Commands whose runs are studied by a person or by an agent from outside, who read no notes."""


def note_for(unit: RecordedUnit, words: str, person: str) -> NoteRecord:
    """Write a note down for the agent that studies a unit.

    Raises:
        UsageError: If no agent would read it, or it is empty, too long, or one too many.
    """
    if (command := unit.manifest.command) in WITHOUT_INTERPRETER:
        raise UsageError(
            f"{unit.item.unit} is studied with `maia {command}`, where no agent reads notes.",
            "Leave it for a unit of `maia describe`, `maia sweep` or `maia audit`.",
        )
    return leave_note(Journal(unit.store, unit.item.unit), words, person)
