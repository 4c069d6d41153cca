"""What a run has to do, as plain values that travel: units, and the question asked about each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, field
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from agents.evidence.verdict import HOLDING
from agents.records import MOST_REPEATS
from agents.records.journal import proposal_key, unit_folder
from agents.records.record_types import StudyResult, load_record
from agents.records.run_files import RecordError, damaged
from agents.records.store import Store
from agents.tasks import TASKS
from agents.tasks.base import Task

KEY = "plan.json"


_FORMER_NAMES = {
    "agents.tasks.describe_unit:DescribeUnit": "describe",
    "agents.tasks.bias:AuditClass": "audit",
    "agents.tasks.selective:JudgeSelectivity": "selective",
    "experiments.runs.context_survey:survey_class": "class",
}
"""What plans of earlier versions call tasks and surveys."""


def _present_name(name: Any) -> Any:
    return _FORMER_NAMES.get(name, name) if isinstance(name, str) else name


_Name = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class WorkItem:
    """One study. `unit` is the subject's id, and the item's; `layer` and `name` are how a person would ask
    for it.

    `task` names the question (`agents.tasks.TASKS`), built with `arguments` (plain JSON values); "" asks no
    agent. `survey` names measurements by a fixed design that come first, called with `survey_arguments`.
    `repeats`: studies of the unit with seeds of their own, whose answers are pooled. `proposed` are labels
    that no agent gave: the critic tests them first, and an agent is asked only if they do not hold. `why`
    says why it is, or is not.
    """

    unit: _Name
    layer: _Name
    name: _Name
    task: Annotated[str, BeforeValidator(_present_name)] = "describe"
    arguments: dict[str, Any] = field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    survey: Annotated[str, BeforeValidator(_present_name)] = ""
    survey_arguments: dict[str, Any] = field(default_factory=dict)
    proposed: list[_Name] = field(default_factory=list)
    why: _Name = ""
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1


_PLAN = TypeAdapter(list[WorkItem])


def build_task(item: WorkItem) -> Task:
    """Return the question of an item.

    Raises:
        RecordError: If there is no task of that name, or it does not take the item's arguments.
    """
    task = TASKS.get(item.task)
    if task is None:
        raise RecordError(
            f"there is no task {item.task!r}.",
            f"Tasks are {', '.join(TASKS)}; the plan of this run is damaged, or from another version.",
        )
    try:
        return task(**item.arguments)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"the task {task.name!r} does not take the arguments {sorted(item.arguments)}: {error}",
            "The plan of this run is damaged, or from another version.",
        ) from error


def write_plan(store: Store, items: Sequence[WorkItem]) -> list[WorkItem]:
    """Write the plan of a run unless it has one, and return the one that counts."""
    store.put(KEY, _encode(items))
    written = read_plan(store)
    assert written is not None
    return written


def extend_plan(store: Store, items: Sequence[WorkItem]) -> list[WorkItem]:
    """Write the plan of a run that has come to have more items, and return it.

    Raises:
        ValueError: If an item is missing that was planned before: its results would belong to no item.
    """
    if missing := {item.unit for item in read_plan(store) or ()} - {item.unit for item in items}:
        raise ValueError(f"the plan of {store.root} would lose {sorted(missing)[0]}")
    store.replace(KEY, _encode(items), synced=True)
    return list(items)


def settled(store: Store, item: WorkItem) -> bool:
    """Return whether an item has the result that it asks for.

    One that is given an agent later than others may have that of a label which no agent gave.
    """
    done = f"{unit_folder(item.unit)}/done.json"
    if not store.has(done):
        return False
    if not item.task or not store.has(proposal_key(item.unit)):
        return True
    try:
        result = load_record(store, done, StudyResult)
    except RecordError:
        return True  # `maia status` names it
    by_agent = result is None or result.tier == "agent"
    return by_agent or (bool(item.proposed) and result is not None and result.verdict in HOLDING)


def _encode(items: Sequence[WorkItem]) -> bytes:
    return json.dumps([asdict(item) for item in items], indent=1, ensure_ascii=False).encode()


def read_plan(store: Store) -> list[WorkItem] | None:
    """Return the plan, None if the run has none yet.

    Raises:
        RecordError: If it is damaged.
    """
    values = store.read(KEY)
    if values is None:
        return None
    try:
        return _PLAN.validate_python(values)
    except ValidationError as error:
        raise damaged(store.root / KEY, error) from error
