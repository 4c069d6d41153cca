"""Studies of many units by one variant of the system, a few at the same time."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from actors.errors import MaiaError
from actors.grouping import task_group
from agents.records.record_types import StudyResult
from agents.records.store import Store
from agents.study.faults import CONCERNS_ALL
from agents.study.study import RunContext, StudyRequest, study
from agents.tasks.describe_unit import DescribeUnit
from experiments.paper.variants import Variant
from experiments.setup.console import Console
from tools.subject import Subject

MAX_CONCURRENT = 4
"""Studies at the same time."""


async def study_units(
    console: Console,
    variant: Variant,
    context: RunContext,
    subjects: Mapping[str, Subject],
    store: Store,
    seed: int,
) -> dict[str, StudyResult]:
    """Return each unit's record by name; a study that failed has a record that says so."""
    records: dict[str, StudyResult] = {}
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT)
    own = variant.of(context)

    async def study_one(name: str, subject: Subject) -> None:
        async with limiter:
            task = DescribeUnit()
            try:
                record = await study(own, StudyRequest(subject, task, seed), store)
            except CONCERNS_ALL:
                raise
            except MaiaError:
                record = StudyResult(unit=subject.id, task=task.name, status="failed")
            records[name] = record
            answer = record.label or record.status
            console.say(f"{variant.name}: {len(records)} of {len(subjects)}, {name}: {answer}")

    async with task_group() as group:
        for name, subject in subjects.items():
            group.create_task(study_one(name, subject))
    return records
