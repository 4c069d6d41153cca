"""What people tried on a unit, as its page shows it and as an agent is told of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from agents.records.record_types import PersonTrialRecord
from experiments.report import pages
from experiments.report.gallery import Gallery, Picture
from experiments.report.records import UnitRecords, mapping, number, sequence, text

_MOST_OUTPUTS = 8


@dataclass(frozen=True, slots=True)
class OutputShift:
    """An output before and after the unit was set to zero."""

    name: str
    before: float | None
    after: float | None
    change: float | None


@dataclass(frozen=True, slots=True)
class TrialView:
    """One trial as it is shown."""

    number: int
    account: str
    person: str
    picture: Picture
    parent: Picture | None
    change: float | None
    """Of the activation, by a crop or an edit."""
    below: float | None
    compared: int
    words: str
    outputs: list[OutputShift]
    """Those that an ablation moved most."""
    notes: list[str]


def trials_of(unit: UnitRecords, gallery: Gallery) -> Iterator[TrialView]:
    """Return the trials of a unit, the newest first; records that are none are left out."""
    for values in reversed(unit.trials):
        try:
            trial = PersonTrialRecord.model_validate(values)
        except ValidationError:
            continue
        picture = gallery.picture(
            trial.masked or trial.image,
            caption=_measured(trial),
            activation=number(trial.activation),
            under=trial.image,
        )
        parent, before = None, number(trial.parent_activation)
        if trial.parent is not None:
            parent = gallery.picture(trial.parent, activation=before)
        yield TrialView(
            trial.number,
            _measured(trial),
            trial.person,
            replace(picture, anchor=f"trial-{trial.number}-image"),
            parent,
            None if before is None or (after := number(trial.activation)) is None else after - before,
            number(trial.below),
            trial.compared,
            trial.words,
            list(_outputs(trial)),
            trial.notes,
        )


def _measured(trial: PersonTrialRecord) -> str:
    """Return what was shown to the unit, and what it answered."""
    what = {
        "prompt": f'An image made of the prompt "{trial.words}"',
        "photo": "A photo",
        "crop": "A crop of an image",
        "edit": f'An image after the edit "{trial.words}"',
        "ablate": "An image",
    }[trial.kind]
    if number(trial.activation) is None:
        return f"{what} was not measured."
    sentence = f"{what} gives activation {pages.figure(number(trial.activation))}"
    if (before := number(trial.parent_activation)) is not None:
        sentence += f", against {pages.figure(before)} before"
    if (below := number(trial.below)) is not None:
        share = math.floor(1000 * below) / 10  # 100% is all of them, and not nearly all
        sentence += f"; {share:.1f}% of the data set's {trial.compared:,} images are below it"
    return f"{sentence}."


def account(trial: PersonTrialRecord) -> str:
    """Return what was tried and what came of it, in sentences: what an agent is told."""
    if trial.kind != "ablate":
        return _measured(trial)
    moved = [
        f"{shift.name} {'+' if (shift.change or 0) > 0 else ''}{pages.figure(shift.change)}"
        for shift in _outputs(trial)
    ]
    return f"{_measured(trial)} With the unit set to zero, outputs change: {', '.join(moved) or 'none'}."


def _outputs(trial: PersonTrialRecord) -> Iterator[OutputShift]:
    effects = mapping(trial.effects)
    moved = [mapping(each) for name in ("raised", "lowered") for each in sequence(effects.get(name))]
    moved.sort(key=lambda each: -abs(number(each.get("change")) or 0.0))
    for each in moved[:_MOST_OUTPUTS]:
        numbers = (number(each.get(key)) for key in ("before", "after", "change"))
        yield OutputShift(text(each.get("name"))[:200], *numbers)
