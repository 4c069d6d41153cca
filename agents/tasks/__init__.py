"""The questions that an agent may be asked about a unit, by the names that a run's plan uses.

A plan may come from a stranger, so it selects from this table and nothing is imported by its words.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.tasks.base import Task
from agents.tasks.bias import AuditClass
from agents.tasks.describe_unit import DescribeUnit
from agents.tasks.selective import JudgeSelectivity

TASKS: Mapping[str, type[Task]] = {task.name: task for task in (DescribeUnit, AuditClass, JudgeSelectivity)}
