"""The questions that an agent may be asked about a unit, by the names that a run's plan uses.

A plan may come from a stranger, so it selects from this table and nothing is imported by its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.run_files import RecordError
from agents.tasks.base import Task
from agents.tasks.bias import AuditClass
from agents.tasks.describe_unit import DescribeUnit
from agents.tasks.selective import JudgeSelectivity

TASKS: Mapping[str, type[Task]] = {task.name: task for task in (DescribeUnit, AuditClass, JudgeSelectivity)}


def create_task(name: str, arguments: Mapping[str, Any]) -> Task:
    """Return the task of a plan's item.

    Raises:
        RecordError: If there is no task of that name, or it does not take these arguments.
    """
    task = TASKS.get(name)
    if task is None:
        raise RecordError(
            f"there is no task {name!r}.",
            f"Tasks are {', '.join(TASKS)}; the plan of this run is damaged, or from another version.",
        )
    try:
        return task(**arguments)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"the task {task.name!r} does not take the arguments {sorted(arguments)}: {error}",
            "The plan of this run is damaged, or from another version.",
        ) from error
