"""What a run has to do, as plain values that travel: units, and the question asked about each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from actors.errors import UsageError
from agents.store import Store
from agents.tasks.base import Task

KEY = "plan.json"


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One study. `unit` is the subject's id, and the item's; `layer` and `name` are how a person would ask for it.

    `task` names the question's class as "package.module:Class", built with `arguments` (plain JSON values); ""
    asks no agent. `survey` names measurements by a fixed design that come first, as "package.module:function",
    called with `survey_arguments` (see `agents.survey`).
    """

    unit: str
    layer: str
    name: str
    task: str = "agents.tasks.describe_unit:DescribeUnit"
    arguments: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    survey: str = ""
    survey_arguments: dict[str, Any] = field(default_factory=dict)


def build_task(item: WorkItem) -> Task:
    """Return the question of an item.

    Raises:
        UsageError: If it does not exist or does not take these arguments.
    """
    try:
        task: Task = named(item.task)(**item.arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"there is no task {item.task!r} with {item.arguments}: {error}") from error
    return task


def named(text: str) -> Any:
    """Return what "package.module:name" names.

    Raises:
        UsageError: If there is no such thing.
    """
    module, _, name = text.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"there is no {text!r}: {error}") from error


def write_plan(store: Store, items: Sequence[WorkItem]) -> list[WorkItem]:
    """Write the plan of a run unless it has one, and return the one that counts."""
    store.put(KEY, _encode(items))
    written = read_plan(store)
    assert written is not None
    return written


def extend_plan(store: Store, items: Sequence[WorkItem]) -> list[WorkItem]:
    """Write the plan of a run that has come to have more items, and return it.

    Raises:
        ValueError: If an item is missing that was planned before: its results would be nobody's.
    """
    if missing := {item.unit for item in read_plan(store) or ()} - {item.unit for item in items}:
        raise ValueError(f"the plan of {store.root} would lose {sorted(missing)[0]}")
    store.rewrite(KEY, _encode(items))
    return list(items)


def _encode(items: Sequence[WorkItem]) -> bytes:
    return json.dumps([asdict(item) for item in items], indent=1, ensure_ascii=False).encode()


def read_plan(store: Store) -> list[WorkItem] | None:
    """Return the plan, None if the run has none yet.

    Raises:
        UsageError: If it is damaged.
    """
    data = store.get(KEY)
    if data is None:
        return None
    try:
        return [WorkItem(**each) for each in json.loads(data)]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{store.root / KEY} is damaged: {error}") from error
