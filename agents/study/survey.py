"""Measurements of one unit by a design that was fixed beforehand: its images are chosen without knowledge of
results.

A survey is `async (studio, subject, *, seed, **arguments) -> Survey`. It is taken whole or not at
all; taken again after a crash, its images come from the generator's cache.

    units/<unit>/begun.json    that it was started: nothing else shows it while it is taken
    units/<unit>/survey.json   what was found, and how many images were made for it
    blobs/ab/<id>.webp         the images that it keeps
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from actors.chat.reply import Usage
from actors.images import Image
from agents.evidence.evidence_record import EvidenceRecord, Finding
from agents.records.journal import Blobs, read_survey, survey_key, unit_folder
from agents.records.record_types import (
    MEASURED,
    StudyResult,
    SurveyRecord,
    UsageRecord,
)
from agents.records.run_files import RecordError
from agents.records.store import Store
from agents.records.work import WorkItem
from agents.study.metered import MeteredStudio
from tools.subject import Subject

STARTED = "begun.json"


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, as plain JSON values, and the images that it names by their ids.

    `finding` shows that no agent need be asked about the unit; None where one may be.
    """

    found: dict[str, Any]
    images: Sequence[Image] = ()
    finding: Finding | None = None


SurveyFunction = Callable[..., Awaitable[Survey]]


async def take(
    surveys: Mapping[str, SurveyFunction],
    studio: MeteredStudio,
    subject: Subject,
    item: WorkItem,
    store: Store,
) -> SurveyRecord:
    """Return the record of an item's survey, from the store if it is there already.

    `surveys` are those that a plan may name.

    Raises:
        RecordError: If there is none of that name, or it does not take the item's arguments.
        MaiaError: If it could not be taken; nothing of it is kept.
    """
    if (survey := surveys.get(item.survey)) is None:
        raise RecordError(
            f"there is no survey {item.survey!r}.",
            "The plan of this run is damaged, or from another version.",
        )
    try:
        signature(survey).bind(studio, subject, seed=item.seed, **item.survey_arguments)
    except TypeError as error:
        raise RecordError(f"the survey {item.survey!r} is planned with wrong arguments: {error}.") from error
    if (record := await asyncio.to_thread(read_survey, store, item.unit)) is not None:
        return record
    await asyncio.to_thread(store.put, f"{unit_folder(item.unit)}/{STARTED}", b"{}")
    before = studio.images
    taken = await survey(studio, subject, seed=item.seed, **item.survey_arguments)
    # Images first: a record never names one that is not there.
    await asyncio.to_thread(Blobs(store).put, taken.images)
    optional = {"finding": taken.finding} if taken.finding else {}
    kept = SurveyRecord(images=studio.images - before, found=taken.found, **optional)
    data = json.dumps(kept.to_json(), sort_keys=True, ensure_ascii=False)
    await asyncio.to_thread(store.put, survey_key(item.unit), data.encode())
    # The first that was written counts: two batches of one network may differ in the last digit.
    first = await asyncio.to_thread(read_survey, store, item.unit)
    assert first is not None
    return first


def result(item: WorkItem, record: SurveyRecord, facts: dict[str, Any], charged: Usage) -> StudyResult:
    """Return the result of an item without a task; its images were charged `charged`."""
    return StudyResult(
        unit=item.unit,
        task="survey",
        status=MEASURED,
        label=None,
        labels=[],
        description=None,
        fields={},
        confirmed=None,
        evidence=EvidenceRecord(kind="survey", finding=record.finding) if record.finding else None,
        rounds=0,
        images_made=record.images,
        exemplars=[],
        usage={} if charged == Usage() else {"images": UsageRecord.of(charged)},
        in_doubt=[],
        seed=item.seed,
        facts=facts,
    )
