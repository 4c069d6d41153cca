"""Which units of a sweep are given agents, and why: `tiers.jsonl`, a line a unit that is alive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from agents.records.run_files import damaged
from agents.records.store import Store
from agents.records.work import WorkItem

KEY = "tiers.jsonl"
ALL = "all"
"""What `--agents` is without being given: every unit has an agent."""

Given = Literal["nothing", "test", "test, then agent", "agent"]
"""`test`: of an embedding's label by the critic; an agent follows only if the label does not hold."""
GIVEN: tuple[Given, ...] = ("nothing", "test", "test, then agent", "agent")
"""In order: a run may be given more, and never less."""


@dataclass(frozen=True, slots=True)
class UnitTier:
    """A line of `tiers.jsonl`: what a unit is given, and why.

    `labels` are those that an embedding gave, and `hypotheses` the ones that its agent is told as hypotheses.
    """

    unit: str
    given: Given
    why: str
    labels: tuple[str, ...] = ()
    hypotheses: tuple[str, ...] = ()

    def item(self, base: WorkItem) -> WorkItem | None:
        """Return the work on the unit, None if it is given nothing. `base` is that of an agent alone."""
        if self.given == "nothing":
            return None
        task = "" if self.given == "test" else base.task
        proposed = [] if self.given == "agent" else list(self.labels)
        arguments = (
            {**base.arguments, "hypotheses": list(self.hypotheses)}
            if task and self.hypotheses
            else base.arguments
        )
        return replace(base, task=task, proposed=proposed, why=self.why, arguments=arguments)


_LINE = TypeAdapter(UnitTier)


def given_by(item: WorkItem) -> Given:
    """Return what the plan of a run gives a unit."""
    if item.proposed:
        return "test, then agent" if item.task else "test"
    return "agent"


def write_tiers(store: Store, tiers: Sequence[UnitTier]) -> None:
    text = "".join(json.dumps(asdict(tier), ensure_ascii=False) + "\n" for tier in tiers)
    store.replace(KEY, text.encode(), synced=True)


def read_tiers(store: Store) -> list[UnitTier]:
    """Return what the units of a run are given, nothing of a run in which all have agents.

    Raises:
        RecordError: If the file is damaged.
    """
    try:
        return [_LINE.validate_json(line) for line in (store.get(KEY) or b"").splitlines()]
    except ValidationError as error:
        raise damaged(store.root / KEY, error) from error
