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
from experiments.paper.variants import Variant
from experiments.setup.console import Console

MAX_CONCURRENT = 4
"""Studies at the same time."""


async def study_units(
    console: Console,
    variant: Variant,
    context: RunContext,
    requests: Mapping[str, StudyRequest],
    store: Store,
) -> dict[str, StudyResult]:
    """Return each unit's record by name; a study that failed has a record that says so."""
    records: dict[str, StudyResult] = {}
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT)
    own = variant.of(context)

    async def study_one(name: str, request: StudyRequest) -> None:
        async with limiter:
            try:
                record = await study(own, request, store)
            except CONCERNS_ALL:
                raise
            except MaiaError:
                record = StudyResult(unit=request.subject.id, task=request.task.name, status="failed")
            records[name] = record
            answer = record.label or record.status
            console.say(f"{variant.name}: {len(records)} of {len(requests)}, {name}: {answer}")

    async with task_group() as group:
        for name, request in requests.items():
            group.create_task(study_one(name, request))
    return records
